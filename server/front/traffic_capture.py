"""The bytes of all connections of one loop on their way to a capture file.

What lives here: that a disk that is full ends the capture and not the server. What must not: the form of the file
(protocol/capture.py).
"""

from __future__ import annotations

from time import monotonic

from ...protocol.capture import CaptureWriter
from ..logs import get_logger


class TrafficCapture:
    """Writes to `writer` until that fails."""

    def __init__(self, writer: CaptureWriter) -> None:
        self._writer: CaptureWriter | None = writer
        self._log = get_logger("front")

    def record(self, connection_id: bytes, *, received: bool, data: bytes | memoryview) -> None:
        """Write bytes of one connection."""
        if self._writer is None:
            return
        try:
            self._writer.record(connection_id, received=received, now=monotonic(), data=data)
        except OSError as error:
            self._writer = None
            self._log.error("the capture cannot be written and ends here", error=error.strerror)
