"""What front and engine process say to each other through the rings, and how results lie in a result slab.

What lives here: record layouts, kinds, and the layout of a result. What must not: rings, memory, decisions.
Both sides run the same code on the same machine, so the layouts are native, and no version travels.

Front to engine, 64 bytes (fields a kind does not name are zero):

    kind priority flags slot number principal start capacity offset nbytes deadline arrived first_byte
    REQUEST  all of them; offset, nbytes and capacity are its block's, start its first row in it
    PREPARE  number; offset: a slab with the metadata (`start` bytes), then the dims (`capacity` bytes)
    FORGET   number
    CANCEL   slot
    RELEASE  offset of a result slab whose last view was dropped

Engine to front, 64 bytes:

    kind flags signature count batch_rows offset nbytes planned copied_in computed copied_out
    RESULT     all; the slab holds `count` slots (u32), then each output of the signature, each at a multiple of 64
    ENCODED    one request that ran alone: its slot (u32); at 64 the body (`nbytes`), then the metadata (`signature`
               bytes) and the dims (`count` bytes)
    SIGNATURE  signature; the slab holds msgpack [[name, dtype, row_shape, row_bytes], ...]
    PREPARED   count = number: the metadata was read, its slab may go
    CANCELLED  count = slot: left the queue before it ran
    SHORT      the engine waits for result memory

`flags` of RESULT and ENCODED: KEPT, the model has kept the memory of its inputs; it may be used again when the process
has ended.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from ...codec.limits import ALIGNMENT

if TYPE_CHECKING:
    from .types import OutputSignature

TO_ENGINE: Final = Struct("=BBHIIIIIQQddd")
TO_FRONT: Final = Struct("=BxHIIIQQdddd")

REQUEST, PREPARE, FORGET, CANCEL, RELEASE = range(1, 6)
RESULT, ENCODED, SIGNATURE, PREPARED, CANCELLED, SHORT = range(1, 7)
KEPT = 1


def aligned(nbytes: int) -> int:
    """Return the next multiple of 64."""
    return (nbytes + ALIGNMENT - 1) & -ALIGNMENT


def output_places(count: int, rows: int, signature: OutputSignature) -> tuple[list[tuple[int, int]], int]:
    """(start, nbytes) of each output in the slab of a RESULT, and the bytes of the whole."""
    end = 4 * count
    places = []
    for _, _, _, row_bytes in signature:
        start = aligned(end)
        end = start + row_bytes * rows
        places.append((start, end - start))
    return places, end
