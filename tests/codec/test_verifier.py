"""Forged FlatBuffers: every offset, vtable, vector and string is proved before it is read."""

from __future__ import annotations

import random
import re
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
        self.last = max(self.model, self.version, self.tensors)
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


FORGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes, expected 8"),
    "seven bytes": (VALID[:7], "7 bytes, expected 8"),
    "no identifier": (VALID[:4] + b"XXXX" + VALID[8:], "file identifier"),
    "over the cap": (VALID + bytes(65537 - len(VALID)), "65537 bytes"),
    "root past the end": (forged(0, "I", len(VALID)), "leaves the buffer"),
    "root at the last byte": (forged(0, "I", len(VALID) - 1), "not aligned"),
    "root at 2^32-1": (forged(0, "I", 0xFFFFFFFF), "not aligned"),
    "root at itself": (forged(0, "I", 0), "at or before itself"),
    "root not aligned": (forged(0, "I", MAP.root + 1), "not aligned"),
    "vtable before the buffer": (forged(MAP.root, "i", 0x7FFFFFFF), "not aligned"),
    "vtable after the buffer": (forged(MAP.root, "i", -0x80000000), "vtable at 2147483672 of 4 bytes leaves"),
    "vtable odd": (forged(MAP.root, "i", MAP.root - MAP.vtable(MAP.root) + 1), "not aligned"),
    "vtable of 0 bytes": (forged(MAP.vtable(MAP.root), "H", 0), "expected 4 to 10, even"),
    "vtable of 2 bytes": (forged(MAP.vtable(MAP.root), "H", 2), "expected 4 to 10, even"),
    "vtable of odd bytes": (forged(MAP.vtable(MAP.root), "H", 9), "expected 4 to 10, even"),
    "vtable of 65535 bytes": (forged(MAP.vtable(MAP.root), "H", 0xFFFF), "expected 4 to 10, even"),
    "vtable with unknown fields": (forged(MAP.vtable(MAP.root), "H", 12), "expected 4 to 10, even"),
    "table of 0 bytes": (forged(MAP.vtable(MAP.root) + 2, "H", 0), "expected at least 4"),
    "table of 65535 bytes": (forged(MAP.vtable(MAP.root) + 2, "H", 0xFFFF), "leaves the buffer"),
    "field outside its table": (forged(MAP.vtable(MAP.root) + 4, "H", 0xFFFC), "has a field at"),
    "field over its vtable offset": (forged(MAP.vtable(MAP.root) + 4, "H", 2), "has a field at 2,"),
    "model missing": (forged(MAP.vtable(MAP.root) + 4, "H", 0), "required model"),
    "tensors missing": (forged(MAP.vtable(MAP.root) + 8, "H", 0), "required tensors"),
    "name missing": (forged(MAP.vtable(MAP.second) + 4, "H", 0), "lacks its required name"),
    "dtype missing": (forged(MAP.vtable(MAP.second) + 6, "H", 0), "lacks its required dtype"),
    "model offset 0": (forged(MAP.model, "I", 0), "at or before itself"),
    "model offset 2^32-1": (forged(MAP.model, "I", 0xFFFFFFFF), "not aligned"),
    "model offset 2^31": (forged(MAP.model, "I", 0x80000000), "leaves the buffer"),
    "model length 2^32-1": (forged(MAP.target(MAP.model), "I", 0xFFFFFFFF), "are allowed"),
    "model length 257": (forged(MAP.target(MAP.model), "I", 257), "are allowed"),
    "model length one less": (forged(MAP.target(MAP.model), "I", 9), "zero byte"),
    "model empty": (forged(MAP.target(MAP.model), "IB", 0, 0), "0 bytes, expected 1"),
    "model not UTF-8": (forged(MAP.target(MAP.model) + 4, "B", 0xFF), "not UTF-8"),
    "model overlong UTF-8": (forged(MAP.target(MAP.model) + 4, "BB", 0xC0, 0xAF), "not UTF-8"),
    "model a surrogate": (forged(MAP.target(MAP.model) + 4, "BBB", 0xED, 0xA0, 0x80), "not UTF-8"),
    "version not UTF-8": (forged(MAP.target(MAP.version) + 4, "B", 0x80), "not UTF-8"),
    "name not UTF-8": (forged(MAP.target(MAP.name) + 4, "B", 0xFE), "not UTF-8"),
    "name not closed": (forged(MAP.target(MAP.name) + 8, "B", 1), "zero byte"),
    "1025 tensors": (forged(MAP.vector, "I", 1025), "are allowed"),
    "one tensor more": (forged(MAP.vector, "I", 3), "at or before itself"),
    "2^32-1 tensors": (forged(MAP.vector, "I", 0xFFFFFFFF), "are allowed"),
    "tensors offset not aligned": (forged(MAP.tensors, "I", u32(VALID, MAP.tensors) + 2), "not aligned"),
    "a tensor that is the vector": (forged(MAP.vector + 4, "I", 0), "at or before itself"),
    "a cycle: a tensor whose offset wraps back to the root": (
        forged(MAP.vector + 4, "I", (MAP.root - MAP.vector - 4) & 0xFFFFFFFF),
        "leaves the buffer",
    ),
    "a cycle: the model's offset wraps back to its own table": (
        forged(MAP.model, "I", (MAP.root - MAP.model) & 0xFFFFFFFF),
        "leaves the buffer",
    ),
    "a vtable that ends before the required fields": (forged(MAP.vtable(MAP.root), "H", 4), "required model"),
    "a tensor's vtable that ends before its dtype": (forged(MAP.vtable(MAP.second), "H", 6), "required dtype"),
    "a vtable that is its own table": (forged(MAP.root, "i", 0), "expected 4 to 10, even"),
    "two tensors that are one": (forged(MAP.vector + 8, "I", MAP.tensor - MAP.vector - 8), "appears twice"),
    "type code 3": (forged(MAP.dtype, "B", 3), "unknown type code"),
    "type code 15": (forged(MAP.dtype, "B", 15), "unknown type code"),
    "type code 255": (forged(MAP.dtype, "B", 255), "unknown type code"),
    "bits 0": (forged(MAP.dtype + 1, "B", 0), "no (code, bits, lanes)"),
    "bits 7": (forged(MAP.dtype + 1, "B", 7), "no (code, bits, lanes)"),
    "lanes 0": (forged(MAP.dtype + 2, "H", 0), "no (code, bits, lanes)"),
    "lanes 2": (forged(MAP.dtype + 2, "H", 2), "no (code, bits, lanes)"),
    "kind 3": (forged(MAP.kind, "B", 3), "expected 0 to 2"),
    "kind 255": (forged(MAP.kind, "B", 255), "expected 0 to 2"),
    "9 dimensions": (forged(MAP.target(MAP.shape), "I", 9), "are allowed"),
    "2^29 dimensions": (forged(MAP.target(MAP.shape), "I", 1 << 29), "are allowed"),
    "dimension -2": (forged(MAP.target(MAP.shape) + 4, "q", -2), "-1 (free) or 0 to"),
    "dimension 2^48+1": (forged(MAP.target(MAP.shape) + 4, "q", (1 << 48) + 1), "-1 (free) or 0 to"),
    "dimension -2^63": (forged(MAP.target(MAP.shape) + 4, "q", -(1 << 63)), "-1 (free) or 0 to"),
    "dimension 2^63-1": (forged(MAP.target(MAP.shape) + 4, "q", (1 << 63) - 1), "-1 (free) or 0 to"),
    "dimensions elsewhere": (forged(MAP.shape, "I", u32(VALID, MAP.shape) + 4), "at most 8"),
    "field that ends outside its table": (
        forged(MAP.vtable(MAP.root) + 2, "H", MAP.last - MAP.root + 1),
        "leaves its table",
    ),
    "kind outside its table": (forged(MAP.vtable(MAP.second) + 2, "H", 4), "has a field at"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_buffer_is_refused(name: str) -> None:
    raw, says = FORGED[name]
    with pytest.raises(CodecError, match=re.escape(says)):
        decode_metadata(raw)


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
