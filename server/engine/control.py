"""The cold path between a front and an engine process: few, small messages over a socket pair.

What lives here: `Channel`, its framing and its bound. What must not: requests and results (ring.py carries those).
A message is a msgpack map with a "kind", after its length as u32. Loading, warm-up figures and error texts go this
way. The end of the stream is the news that the other process is gone.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

import msgpack

_LENGTH: Final = struct.Struct("<I")
#: Bytes of one message. The largest is a failed batch: its slots and one text.
MAX_MESSAGE: Final = 256 * 1024


class ChannelError(Exception):
    """The other side sent what is no message."""


class Channel:
    """One end of the pair. Sending blocks (the messages are small), receiving never does."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray()
        self.ended = False

    def fileno(self) -> int:
        """Readable when messages, or the end, arrived."""
        return self._socket.fileno()

    def send(self, kind: str, **fields: Any) -> None:
        """Send one message. A peer that is gone is not an error here: the receiving side learns of it."""
        raw: bytes = msgpack.packb({"kind": kind, **fields})
        if len(raw) > MAX_MESSAGE:
            raise ChannelError(f"a {kind!r} message of {len(raw)} bytes, at most {MAX_MESSAGE} may be sent")
        try:
            self._socket.sendall(_LENGTH.pack(len(raw)) + raw)
        except (BrokenPipeError, ConnectionResetError):
            self.ended = True

    def receive(self) -> list[dict[str, Any]]:
        """All complete messages that have arrived; sets `ended` at the end of the stream. Raises ChannelError."""
        while not self.ended:
            try:
                piece = self._socket.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                piece = b""
            self._buffer += piece
            self.ended = not piece
        return self._messages()

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _messages(self) -> list[dict[str, Any]]:
        messages = []
        buffer = self._buffer
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > MAX_MESSAGE:
                raise ChannelError(f"a message of {length} bytes announced, at most {MAX_MESSAGE} are allowed")
            end = start + _LENGTH.size + length
            if len(buffer) < end:
                break
            messages.append(_decode(bytes(buffer[start + _LENGTH.size : end])))
            start = end
        del buffer[:start]
        return messages


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        message = msgpack.unpackb(raw)
    except (ValueError, msgpack.UnpackException) as error:
        raise ChannelError(f"a control message is not msgpack: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
        raise ChannelError("a control message must be a map with a 'kind'")
    return message
