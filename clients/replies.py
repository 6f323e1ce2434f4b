"""Replies from bytes to results: the table (extension, metadata) -> layout, and memory for big bodies.

The replies of one model look alike, so their metadata is verified and resolved once and then found by its bytes. Not
here: which call a reply belongs to (``core``).
"""

from __future__ import annotations

import numpy as np

from ..codec import MetadataCache, Resolved, decode_arrays, resolve
from ..protocol import parse_extension
from .results import Result, Timing

LAYOUT_ENTRIES = 1024
"""Layouts kept (models x shapes): at about 1 KiB each one MiB at most. A full table starts over."""
METADATA_ENTRIES = 256
METADATA_BYTES = 1 << 20
PAGE = 4096


class ReplyDecoder:
    """Turns the parts of a DATA message into a :class:`Result`."""

    __slots__ = ("_by_dims", "_by_extension", "_metadata")

    def __init__(self) -> None:
        self._metadata = MetadataCache(max_entries=METADATA_ENTRIES, max_bytes=METADATA_BYTES)
        self._by_extension: dict[tuple[bytes, bytes], Resolved] = {}
        self._by_dims: dict[tuple[bytes, bytes], Resolved] = {}

    def decode(self, ext: bytes, meta: bytes, body: memoryview | bytes, round_trip: float) -> Result:
        """Return the reply's arrays as read-only views of ``body``, which nobody may write to from now on.

        ``round_trip`` is in seconds and is used where the reply carries TIMING. Raises ``CodecError`` or
        ``ProtocolError`` for bytes that make no sense.
        """
        timing: Timing | None = None
        layout = self._by_extension.get((ext, meta))
        if layout is None:
            layout, timing = self._look_closer(ext, meta, round_trip)
        result = Result(decode_arrays(layout, body))
        result.model = layout.model
        result.model_version = layout.version
        result.timing = timing
        return result

    def _look_closer(self, ext: bytes, meta: bytes, round_trip: float) -> tuple[Resolved, Timing | None]:
        """Read an extension that was never seen: a new shape, or one with measurements in it (which differ every
        time).
        """
        extension = parse_extension(ext)
        measured = extension.timing
        table, key = (self._by_extension, (ext, meta)) if measured is None else (self._by_dims, (extension.dims, meta))
        layout = table.get(key)
        if layout is None:
            layout = resolve(self._metadata.get(meta), extension.dims)
            if len(table) >= LAYOUT_ENTRIES:
                table.clear()
            table[key] = layout
        return layout, None if measured is None else Timing(*(*measured, round(round_trip * 1e6)))  # pyright: ignore[reportCallIssue]


def allocate_body(nbytes: int) -> memoryview:
    """Fresh writable memory for a big body: page-aligned, so that it can be pinned or handed on without another
    copy.
    """
    memory = np.empty(nbytes + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory.data[start : start + nbytes]
