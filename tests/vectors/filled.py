"""Tensors with their bytes, for the vectors of metadata: sizes, places, bodies, and elements as text (SPEC 18).

What lives here: the arithmetic of a message, done once more without the code under test. What must not: the cases.
"""

from __future__ import annotations

import math
import struct
from itertools import pairwise

from tests.vectors.flat import DENSE, KINDS, STRING, Tensor, itemsize

Json = dict[str, object]


class Filled:
    """A tensor with its sizes and its buffers: one (DENSE) or two.

    sizes: the resolved shape. buffers: their bytes, or None for a body too large to write down; then `lengths` tells.
    """

    def __init__(
        self,
        tensor: Tensor,
        sizes: tuple[int, ...],
        *buffers: bytes,
        items: int | None = None,
        lengths: tuple[int, ...] | None = None,
    ) -> None:
        self.tensor = tensor
        self.sizes = sizes
        self.items = items
        self.buffers = buffers
        self.lengths = tuple(map(len, buffers)) if lengths is None else lengths

    @property
    def dims(self) -> tuple[int, ...]:
        """What DIMS holds of this tensor (SPEC 18.4)."""
        free = [size for size, told in zip(self.sizes, self.tensor.shape or (), strict=True) if told == -1]
        return (*free, *(() if self.items is None else (self.items,)))

    def told(self, offsets: list[int]) -> Json:
        """What a receiver shall find."""
        found: Json = {
            "name": self.tensor.name,
            "dtype": self.tensor.dtype,
            "kind": KINDS[self.tensor.kind],
            "declared": [str(size) for size in self.tensor.shape or ()],
            "shape": [str(size) for size in self.sizes],
            "buffers": [
                {"offset": str(at), "length": str(length)} for at, length in zip(offsets, self.lengths, strict=True)
            ],
        }
        if not self.buffers:
            return found
        if self.tensor.kind == DENSE:
            return found | {"elements": elements(self.tensor.dtype, self.buffers[0])}
        first, second = self.buffers
        width = 1 if self.tensor.kind == STRING else itemsize(self.tensor.dtype) * math.prod(self.sizes[1:])
        bounds = struct.unpack(f"<{len(first) // 8}q", first)
        rows = [second[start * width : end * width] for start, end in pairwise(bounds)]
        if self.tensor.kind == STRING:
            return found | {"strings": [row.decode() for row in rows]}
        return found | {"rows": [elements(self.tensor.dtype, row) for row in rows]}


def elements(dtype: str, raw: bytes) -> list[str]:
    """Each element as text: integers in decimal, floats as bit patterns, complex as two of them, bool as 0 or 1."""
    width = itemsize(dtype)
    items = [raw[at : at + width][::-1] for at in range(0, len(raw), width)]  # most significant byte first
    if dtype.startswith("complex"):
        return [f"{item[width // 2 :].hex()} {item[: width // 2].hex()}" for item in items]
    if "float" in dtype:
        return [item.hex() for item in items]
    return [str(int.from_bytes(item, "big", signed=dtype.startswith("int"))) for item in items]


def place(filled: tuple[Filled, ...]) -> tuple[list[list[int]], bytes, int]:
    """Where each buffer lies, the body, and its length (SPEC 18.6)."""
    end, body, places = 0, bytearray(), []
    for one in filled:
        here = []
        for n, length in enumerate(one.lengths):
            start = (end + 63) // 64 * 64 if length else 0
            here.append(start)
            if length:
                end = start + length
                if one.buffers:
                    body += bytes(start - len(body)) + one.buffers[n]
        places.append(here)
    return places, bytes(body), end


def u64s(*values: int) -> str:
    """DIMS' value."""
    return struct.pack(f"<{len(values)}Q", *values).hex()


def i64s(*values: int) -> bytes:
    """Offsets of strings or rows."""
    return struct.pack(f"<{len(values)}q", *values)
