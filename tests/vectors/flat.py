"""A small FlatBuffers writer for the one schema of tensorwire, by struct alone: the second witness of metadata bytes.

What lives here: where the bytes of a `Metadata` lie, front to back, with the place of each thing by name, so that a
vector can bend it; the element types of SPEC 18.3. What must not: any check, any import of tensorwire or flatbuffers.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

DENSE, STRING, RAGGED = range(3)
KINDS = ("dense", "string", "ragged")
# (code, bits) of DLPack, SPEC 18.3; lanes is 1
DTYPES: dict[str, tuple[int, int]] = {
    "bool": (6, 8),
    "int8": (0, 8),
    "int16": (0, 16),
    "int32": (0, 32),
    "int64": (0, 64),
    "uint8": (1, 8),
    "uint16": (1, 16),
    "uint32": (1, 32),
    "uint64": (1, 64),
    "float16": (2, 16),
    "float32": (2, 32),
    "float64": (2, 64),
    "bfloat16": (4, 16),
    "complex64": (5, 64),
    "complex128": (5, 128),
    "float8_e3m4": (7, 8),
    "float8_e4m3": (8, 8),
    "float8_e4m3b11fnuz": (9, 8),
    "float8_e4m3fn": (10, 8),
    "float8_e4m3fnuz": (11, 8),
    "float8_e5m2": (12, 8),
    "float8_e5m2fnuz": (13, 8),
    "float8_e8m0fnu": (14, 8),
}


@dataclass(frozen=True)
class Tensor:
    """A tensor as the metadata tells it. A shape of None is left out of the buffer, which means a scalar."""

    name: str = "x"
    dtype: str = "float32"
    shape: tuple[int, ...] | None = (-1,)
    kind: int = DENSE


class Laid:
    """The bytes of one metadata, and `at`: where each thing in it begins.

    Names: `root` is the first offset; `vtable` and `table` are the Metadata's, `model`, `version` and `tensors` its
    fields. Of tensor n: `n.vtable`, `n.table`, and the fields `n.name`, `n.dtype`, `n.kind`, `n.shape`. What an offset
    field points to has a `>` before the field's name.
    """

    def __init__(
        self, *tensors: Tensor, model: str = "m", version: str | None = None, vtable_first: bool = True
    ) -> None:
        self.raw = bytearray(struct.pack("<I4s", 0, b"TWM1"))
        self.at = {"root": 0}
        self._vtable_first = vtable_first
        self._table("", (("model", 4), ("version", 8 if version is not None else 0), ("tensors", 12)), 16)
        self._point("root", "table")
        self._add(">tensors", 4, struct.pack(f"<{len(tensors) + 1}I", len(tensors), *(0 for _ in tensors)))
        self._point("tensors", ">tensors")
        for number, tensor in enumerate(tensors):
            self.at[f"[{number}]"] = self.at[">tensors"] + 4 + 4 * number
            self._tensor(number, tensor)
        if version is not None:
            self._text("version", version)
        self._text("model", model)

    def _tensor(self, number: int, tensor: Tensor) -> None:
        kind, shape = (16 if tensor.kind else 0), (12 if tensor.shape is not None else 0)
        fields = ((f"{number}.name", 4), (f"{number}.dtype", 8), (f"{number}.kind", kind), (f"{number}.shape", shape))
        self._table(f"{number}.", fields, 17)
        self._point(f"[{number}]", f"{number}.table")
        struct.pack_into("<BBH", self.raw, self.at[f"{number}.dtype"], *DTYPES[tensor.dtype], 1)
        if tensor.kind:
            self.raw[self.at[f"{number}.kind"]] = tensor.kind
        if tensor.shape is not None:
            self.raw += bytes(-(len(self.raw) + 4) % 8)  # so that the i64 behind the count lie at multiples of 8
            self._add(f">{number}.shape", 4, struct.pack(f"<I{len(tensor.shape)}q", len(tensor.shape), *tensor.shape))
            self._point(f"{number}.shape", f">{number}.shape")
        self._text(f"{number}.name", tensor.name)

    def _table(self, prefix: str, fields: tuple[tuple[str, int], ...], size: int) -> None:
        vtable = struct.pack(f"<{2 + len(fields)}H", 4 + 2 * len(fields), size, *(place for _, place in fields))
        if self._vtable_first:
            self._add(f"{prefix}vtable", 2, vtable)
        table = self._add(f"{prefix}table", 4, bytes(size))
        if not self._vtable_first:
            self._add(f"{prefix}vtable", 2, vtable)
        struct.pack_into("<i", self.raw, table, table - self.at[f"{prefix}vtable"])
        self.at |= {name: table + place for name, place in fields if place}

    def _text(self, field: str, text: str) -> None:
        raw = text.encode()
        self._add(f">{field}", 4, struct.pack(f"<I{len(raw) + 1}s", len(raw), raw))  # the last byte is the closing zero
        self._point(field, f">{field}")

    def _add(self, name: str, alignment: int, data: bytes) -> int:
        self.raw += bytes(-len(self.raw) % alignment)
        self.at[name] = place = len(self.raw)
        self.raw += data
        return place

    def _point(self, field: str, target: str) -> None:
        struct.pack_into("<I", self.raw, self.at[field], self.at[target] - self.at[field])

    @property
    def whole(self) -> bytes:
        """All bytes, as they should be."""
        return bytes(self.raw)

    def bent(self, name: str, form: str, *values: int | bytes, by: int = 0) -> bytes:
        """All bytes, but with `values` in struct form at the place of `name`, `by` bytes further on."""
        raw = bytearray(self.raw)
        struct.pack_into(f"<{form}", raw, self.at[name] + by, *values)
        return bytes(raw)

    def pointed(self, field: str, target: str, by: int = 0) -> bytes:
        """All bytes, but with the offset at `field` leading to `target`, `by` bytes further on."""
        return self.bent(field, "I", (self.at[target] + by - self.at[field]) & 0xFFFFFFFF)


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return DTYPES[dtype][1] // 8
