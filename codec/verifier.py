"""Verifies a FlatBuffer of tensor.fbs before anything reads it; the Python runtime of FlatBuffers has no verifier.

What lives here: the structure of the bytes (offsets, vtables, vectors, strings, required fields, enum ranges, a budget
on visited bytes), and the values at the places that were proved: reading them again by the generated code would take
five times as long, which is what a hostile peer would ask for. What must not: what the values mean (metadata.py).
After `verify` returns, every accessor of the generated code stays inside the buffer and terminates, and gives the same.
Whatever the C++ verifier of FlatBuffers refuses is refused; what is refused beyond that, and why, is listed in
tests/codec/test_verifier_differential.py.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .dtypes import TypeCode
from .errors import CodecError
from .limits import MAX_DIMS, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_TENSORS

IDENTIFIER = b"TWM1"

_U16 = struct.Struct("<H").unpack_from
_U32 = struct.Struct("<I").unpack_from
_I32 = struct.Struct("<i").unpack_from
_ELEMENT = struct.Struct("<BBH").unpack_from
_SIZES = tuple(struct.Struct(f"<{count}q").unpack_from for count in range(MAX_DIMS + 1))
_TYPE_CODES = frozenset(map(int, TypeCode))
_KINDS = 3
# Slot numbers of the tables' fields, in the order of tensor.fbs.
_MODEL, _VERSION, _TENSORS = range(3)
_NAME, _DTYPE, _KIND, _SHAPE = range(4)


class RawTensor(NamedTuple):
    """The fields of one Tensor table as they stand in the buffer."""

    name: str
    triple: tuple[int, int, int]
    kind: int
    shape: tuple[int, ...]


class RawMetadata(NamedTuple):
    """The fields of the root table; an absent version is ""."""

    model: str
    version: str
    tensors: tuple[RawTensor, ...]


class _Verifier:
    """One pass over one buffer. Positions are absolute; every method raises CodecError or proves its claim."""

    __slots__ = ("budget", "raw", "size")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.size = len(raw)
        # A builder's output visits each byte once and each vtable once per table. Buffers that share more than that
        # (many offsets to one object) run out here, so the work is linear in the size.
        self.budget = 4 * self.size

    def visit(self, position: int, length: int, alignment: int, what: str) -> None:
        """Claims bytes [position, position + length)."""
        if position % alignment:  # guard: flatbuffers-alignment
            raise CodecError(f"metadata: {what} at {position} is not aligned to {alignment}")
        if position < 0 or position + length > self.size:  # guard: flatbuffers-bounds
            raise CodecError(f"metadata: {what} at {position} of {length} bytes leaves the buffer of {self.size}")
        self.budget -= length
        if self.budget < 0:  # guard: flatbuffers-budget
            raise CodecError(f"metadata: offsets are shared; more bytes are visited than a buffer of {self.size} holds")

    def table(self, position: int, fields: int, what: str) -> tuple[int, ...]:
        """Absolute positions of the table's `fields`, 0 for an absent one, each inside the table."""
        self.visit(position, 4, 4, what)
        vtable: int = position - _I32(self.raw, position)[0]
        self.visit(vtable, 4, 2, f"{what} vtable")
        vtable_size: int = _U16(self.raw, vtable)[0]
        table_size: int = _U16(self.raw, vtable + 2)[0]
        if vtable_size < 4 or vtable_size % 2 or vtable_size > 4 + 2 * fields:
            raise CodecError(f"metadata: {what} vtable of {vtable_size} bytes, expected 4 to {4 + 2 * fields}, even")
        self.visit(vtable, vtable_size, 2, f"{what} vtable")
        if table_size < 4:
            raise CodecError(f"metadata: {what} of {table_size} bytes, expected at least 4")
        self.visit(position, table_size, 4, what)
        slots = struct.unpack_from(f"<{(vtable_size - 4) // 2}H", self.raw, vtable + 4)
        for slot in slots:
            if slot and not 4 <= slot < table_size:  # guard: flatbuffers-vtable
                raise CodecError(f"metadata: {what} has a field at {slot}, outside its {table_size} bytes")
        positions = tuple(position + slot if slot else 0 for slot in slots)
        return positions + (0,) * (fields - len(slots))

    def inside(self, table: int, field: int, length: int, alignment: int, what: str) -> None:
        """Claims an inline field, which must end inside its table."""
        vtable: int = table - _I32(self.raw, table)[0]
        table_size: int = _U16(self.raw, vtable + 2)[0]
        if field + length > table + table_size:
            raise CodecError(f"metadata: {what} leaves its table of {table_size} bytes")
        self.visit(field, length, alignment, what)

    def follow(self, field: int, what: str) -> int:
        """Return the target of the unsigned offset at `field`. Offsets point forward only, so no cycle is possible."""
        offset: int = _U32(self.raw, field)[0]
        if offset < 4:  # guard: flatbuffers-cycle
            raise CodecError(f"metadata: {what} has offset {offset}, which points at or before itself")
        return field + offset

    def vector(self, position: int, item_size: int, alignment: int, most: int, what: str) -> int:
        """Return the number of items of the vector at `position`; at most `most` of them."""
        self.visit(position, 4, 4, what)
        count: int = _U32(self.raw, position)[0]
        if count > most:  # guard: flatbuffers-count
            raise CodecError(f"metadata: {what} has {count} items, at most {most} are allowed")
        if count:
            self.visit(position + 4, count * item_size, alignment, what)
        return count

    def string(self, field: int, what: str) -> str:
        """Return the string that the offset at `field` points to, proved: length, closing zero byte, UTF-8."""
        position = self.follow(field, what)
        count = self.vector(position, 1, 1, MAX_NAME_BYTES, what)
        end = position + 4 + count
        self.visit(end, 1, 1, f"{what} terminator")
        if self.raw[end]:
            raise CodecError(f"metadata: {what} does not end with a zero byte")
        try:
            return str(self.raw[position + 4 : end], "utf-8")  # guard: flatbuffers-utf-8
        except UnicodeDecodeError as error:
            raise CodecError(f"metadata: {what} is not UTF-8 ({error.reason} at byte {error.start})") from None

    def tensor(self, position: int, what: str) -> RawTensor:
        """One Tensor table, proved."""
        fields = self.table(position, 4, what)
        if not fields[_NAME] or not fields[_DTYPE]:
            raise CodecError(f"metadata: {what} lacks its required {'dtype' if fields[_NAME] else 'name'}")
        self.inside(position, fields[_NAME], 4, 4, f"{what}.name")
        name = self.string(fields[_NAME], f"{what}.name")
        self.inside(position, fields[_DTYPE], 4, 2, f"{what}.dtype")
        triple = _ELEMENT(self.raw, fields[_DTYPE])
        if triple[0] not in _TYPE_CODES:
            raise CodecError(f"metadata: {what}.dtype has unknown type code {triple[0]}")
        kind = 0
        if fields[_KIND]:
            self.inside(position, fields[_KIND], 1, 1, f"{what}.kind")
            kind = self.raw[fields[_KIND]]
            if kind >= _KINDS:  # guard: flatbuffers-enum
                raise CodecError(f"metadata: {what}.kind {kind}, expected 0 to {_KINDS - 1}")
        shape: tuple[int, ...] = ()
        if fields[_SHAPE]:
            self.inside(position, fields[_SHAPE], 4, 4, f"{what}.shape")
            vector = self.follow(fields[_SHAPE], f"{what}.shape")
            # guard: shape-nine-dimensions
            shape = _SIZES[self.vector(vector, 8, 8, MAX_DIMS, f"{what}.shape")](self.raw, vector + 4)
        return RawTensor(name, triple, kind, shape)

    def metadata(self) -> RawMetadata:
        """Prove the whole buffer."""
        if not 8 <= self.size <= MAX_METADATA_BYTES:
            raise CodecError(f"metadata: {self.size} bytes, expected 8 to {MAX_METADATA_BYTES}")
        if self.raw[4:8] != IDENTIFIER:
            raise CodecError(f"metadata: file identifier {self.raw[4:8]!r}, expected {IDENTIFIER!r}")
        position = self.follow(0, "root")
        fields = self.table(position, 3, "root")
        if not fields[_MODEL] or not fields[_TENSORS]:  # guard: flatbuffers-required
            raise CodecError(f"metadata: the root lacks its required {'tensors' if fields[_MODEL] else 'model'}")
        self.inside(position, fields[_MODEL], 4, 4, "model")
        model = self.string(fields[_MODEL], "model")
        version = ""
        if fields[_VERSION]:
            self.inside(position, fields[_VERSION], 4, 4, "version")
            version = self.string(fields[_VERSION], "version")
        self.inside(position, fields[_TENSORS], 4, 4, "tensors")
        vector = self.follow(fields[_TENSORS], "tensors")
        tensors = []
        for index in range(self.vector(vector, 4, 4, MAX_TENSORS, "tensors")):
            what = f"tensors[{index}]"
            tensors.append(self.tensor(self.follow(vector + 4 + 4 * index, what), what))
        return RawMetadata(model, version, tuple(tensors))


def verify(raw: bytes) -> RawMetadata:
    """Return the fields of `raw`, a well-formed Metadata of tensor.fbs; CodecError names the first thing wrong."""
    return _Verifier(raw).metadata()
