"""Forged FlatBuffers: every offset, vtable, vector and string is proved before it is read."""

from __future__ import annotations

import random
import struct
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import strategies_tensors as strategies
from tensorwire.codec import CodecError, Kind, TensorSpec, decode_metadata, dtype_by_name, encode_metadata
from tensorwire.codec.verifier import verify

SPECS = (
    TensorSpec("image", dtype_by_name("float32"), (-1, 3), Kind.DENSE),
    TensorSpec("text", dtype_by_name("uint8"), (-1,), Kind.STRING),
)
VALID = encode_metadata("classifier", "7", SPECS)


def u32(raw: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", raw, at)[0])


class Map:
    """Where things are in a buffer, read with the plain rules of FlatBuffers."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.root = u32(raw, 0)
        self.model, self.version, self.tensors = self.fields(self.root, 3)
        self.vector = self.target(self.tensors)
        self.count = u32(raw, self.vector)
        self.tensor = self.target(self.vector + 4)
        self.second = self.target(self.vector + 8)
        self.name, self.dtype, self.kind, self.shape = self.fields(self.second, 4)

    def vtable(self, table: int) -> int:
        return table - int(struct.unpack_from("<i", self.raw, table)[0])

    def fields(self, table: int, count: int) -> list[int]:
        vtable = self.vtable(table)
        return [table + int(struct.unpack_from("<H", self.raw, vtable + 4 + 2 * index)[0]) for index in range(count)]

    def target(self, field: int) -> int:
        return field + u32(self.raw, field)


MAP = Map(VALID)


def forged(at: int, form: str, *values: int) -> bytes:
    raw = bytearray(VALID)
    struct.pack_into("<" + form, raw, at, *values)
    return bytes(raw)


def test_a_valid_buffer_passes() -> None:
    verify(VALID)


FORGED = {
    "empty": b"",
    "seven bytes": VALID[:7],
    "no identifier": VALID[:4] + b"XXXX" + VALID[8:],
    "over the cap": VALID + bytes(65537 - len(VALID)),
    "root past the end": forged(0, "I", len(VALID)),
    "root at the last byte": forged(0, "I", len(VALID) - 1),
    "root at 2^32-1": forged(0, "I", 0xFFFFFFFF),
    "root at itself": forged(0, "I", 0),
    "root not aligned": forged(0, "I", MAP.root + 1),
    "vtable before the buffer": forged(MAP.root, "i", 0x7FFFFFFF),
    "vtable after the buffer": forged(MAP.root, "i", -0x80000000),
    "vtable odd": forged(MAP.root, "i", MAP.root - MAP.vtable(MAP.root) + 1),
    "vtable of 0 bytes": forged(MAP.vtable(MAP.root), "H", 0),
    "vtable of 2 bytes": forged(MAP.vtable(MAP.root), "H", 2),
    "vtable of odd bytes": forged(MAP.vtable(MAP.root), "H", 9),
    "vtable of 65535 bytes": forged(MAP.vtable(MAP.root), "H", 0xFFFF),
    "vtable with unknown fields": forged(MAP.vtable(MAP.root), "H", 12),
    "table of 0 bytes": forged(MAP.vtable(MAP.root) + 2, "H", 0),
    "table of 65535 bytes": forged(MAP.vtable(MAP.root) + 2, "H", 0xFFFF),
    "field outside its table": forged(MAP.vtable(MAP.root) + 4, "H", 0xFFFC),
    "field over its vtable offset": forged(MAP.vtable(MAP.root) + 4, "H", 2),
    "model missing": forged(MAP.vtable(MAP.root) + 4, "H", 0),
    "tensors missing": forged(MAP.vtable(MAP.root) + 8, "H", 0),
    "name missing": forged(MAP.vtable(MAP.second) + 4, "H", 0),
    "dtype missing": forged(MAP.vtable(MAP.second) + 6, "H", 0),
    "model offset 0": forged(MAP.model, "I", 0),
    "model offset 2^32-1": forged(MAP.model, "I", 0xFFFFFFFF),
    "model offset 2^31": forged(MAP.model, "I", 0x80000000),
    "model length 2^32-1": forged(MAP.target(MAP.model), "I", 0xFFFFFFFF),
    "model length 257": forged(MAP.target(MAP.model), "I", 257),
    "model length one less": forged(MAP.target(MAP.model), "I", 9),
    "model empty": forged(MAP.target(MAP.model), "IB", 0, 0),
    "model not UTF-8": forged(MAP.target(MAP.model) + 4, "B", 0xFF),
    "model overlong UTF-8": forged(MAP.target(MAP.model) + 4, "BB", 0xC0, 0xAF),
    "model a surrogate": forged(MAP.target(MAP.model) + 4, "BBB", 0xED, 0xA0, 0x80),
    "version not UTF-8": forged(MAP.target(MAP.version) + 4, "B", 0x80),
    "name not UTF-8": forged(MAP.target(MAP.name) + 4, "B", 0xFE),
    "name not closed": forged(MAP.target(MAP.name) + 8, "B", 1),
    "1025 tensors": forged(MAP.vector, "I", 1025),
    "one tensor more": forged(MAP.vector, "I", 3),
    "2^32-1 tensors": forged(MAP.vector, "I", 0xFFFFFFFF),
    "tensors offset not aligned": forged(MAP.tensors, "I", u32(VALID, MAP.tensors) + 2),
    "a tensor that is the vector": forged(MAP.vector + 4, "I", 0),
    "two tensors that are one": forged(MAP.vector + 8, "I", MAP.tensor - MAP.vector - 8),
    "type code 3": forged(MAP.dtype, "B", 3),
    "type code 15": forged(MAP.dtype, "B", 15),
    "type code 255": forged(MAP.dtype, "B", 255),
    "bits 0": forged(MAP.dtype + 1, "B", 0),
    "bits 7": forged(MAP.dtype + 1, "B", 7),
    "lanes 0": forged(MAP.dtype + 2, "H", 0),
    "lanes 2": forged(MAP.dtype + 2, "H", 2),
    "kind 3": forged(MAP.kind, "B", 3),
    "kind 255": forged(MAP.kind, "B", 255),
    "9 dimensions": forged(MAP.target(MAP.shape), "I", 9),
    "2^29 dimensions": forged(MAP.target(MAP.shape), "I", 1 << 29),
    "dimension -2": forged(MAP.target(MAP.shape) + 4, "q", -2),
    "dimension 2^48+1": forged(MAP.target(MAP.shape) + 4, "q", (1 << 48) + 1),
    "dimension -2^63": forged(MAP.target(MAP.shape) + 4, "q", -(1 << 63)),
    "dimension 2^63-1": forged(MAP.target(MAP.shape) + 4, "q", (1 << 63) - 1),
    "dimensions not aligned": forged(MAP.shape, "I", u32(VALID, MAP.shape) + 4),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_buffer_is_refused(name: str) -> None:
    with pytest.raises(CodecError):
        decode_metadata(FORGED[name])


def test_every_cut_is_refused_unless_it_takes_padding_only() -> None:
    whole = decode_metadata(VALID)
    for size in range(len(VALID)):
        with suppress(CodecError):
            assert decode_metadata(VALID[:size]) == whole
            assert not any(VALID[size:])
            assert size > len(VALID) - 4


def test_every_byte_at_every_value_gives_metadata_or_codec_error() -> None:
    for at in range(len(VALID)):
        for value in range(256):
            raw = bytearray(VALID)
            raw[at] = value
            with suppress(CodecError):
                decode_metadata(bytes(raw))


@given(strategies.mutated_metadata())
def test_only_codec_error_leaves_on_mutated_metadata(raw: bytes) -> None:
    with suppress(CodecError):
        decode_metadata(raw)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_only_codec_error_leaves_on_random_bytes(raw: bytes, root: int) -> None:
    for attempt in (raw, struct.pack("<I", root) + b"TWM1" + raw):
        with pytest.raises(CodecError):
            decode_metadata(attempt)


def test_shared_offsets_run_out_of_budget() -> None:
    name = "n" * 256
    one = encode_metadata("m", "", (TensorSpec(name, dtype_by_name("int8"), (-1,) * 8, Kind.DENSE),))
    where = u32(one, 0)
    tensors = where + struct.unpack_from("<H", one, where - struct.unpack_from("<i", one, where)[0] + 8)[0]
    table = tensors + u32(one, tensors) + 4
    table += u32(one, table)
    # Move the buffer behind a new vector of 1000 offsets to the one table, then point `tensors` of a new root at it.
    count = 1000
    head = bytearray(struct.pack("<I4s", 0, b"TWM1"))
    vtable = len(head)
    head += struct.pack("<HHHHHH", 10, 12, 4, 0, 8, 0)
    root = len(head)
    head += struct.pack("<i", root - vtable) + bytes(8)
    vector = len(head)
    head += struct.pack("<I", count) + bytes(4 * count)
    head += bytes(-len(head) % 8)
    base = len(head)
    raw = head + one + bytes(-len(one) % 4)
    model = len(raw)
    raw += struct.pack("<I", 1) + b"m\0"
    struct.pack_into("<I", raw, 0, root)
    struct.pack_into("<I", raw, root + 4, model - root - 4)
    struct.pack_into("<I", raw, root + 8, vector - root - 8)
    for index in range(count):
        at = vector + 4 + 4 * index
        struct.pack_into("<I", raw, at, base + table - at)
    with pytest.raises(CodecError, match="shared"):
        verify(bytes(raw))


def test_the_largest_buffers_are_verified_in_bounded_time() -> None:
    specs = tuple(TensorSpec(f"{index:04d}", dtype_by_name("int8"), (-1,), Kind.RAGGED) for index in range(1024))
    raw = bytearray(encode_metadata("m", "", specs))
    random.Random(1).shuffle(order := list(range(8, len(raw))))
    slowest = 0.0
    for at in [0, *order[:20]]:
        attempt = bytes(raw[:at]) + bytes([raw[at] ^ 1]) + bytes(raw[at + 1 :])
        began = time.process_time()
        with suppress(CodecError):
            decode_metadata(attempt)
        slowest = max(slowest, time.process_time() - began)
    assert slowest < 0.5  # measured: 0.03 s; a cost that is not linear would be seconds
