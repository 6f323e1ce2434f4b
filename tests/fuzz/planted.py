"""A fuzz target with a bug, a slow spot and a memory hog planted in it: what the harness must find.

What lives here: the plant. What must not: a real layer; those are in fuzz/targets/.
"""

from __future__ import annotations

from collections.abc import Iterator

from fuzz.target import Target
from tensorwire.protocol import ProtocolError
from tensorwire.protocol.extension import parse_extension


def check(data: bytes) -> None:
    if data.startswith(b"slow"):
        while True:
            sum(range(1_000_000))
            if data.endswith(b"once"):
                return
    if data.startswith(b"hog"):
        bytearray(1 << 21)
    try:
        items = parse_extension(data)
    except ProtocolError:
        return
    assert items.retry_after is None, "planted: an extension with RETRY_AFTER"


def seeds() -> Iterator[bytes]:
    yield b"\x01\x08" + bytes(8)


TARGET = Target("planted", check, seeds, (b"\x07\x04",), 64, 1 << 20, 64)
