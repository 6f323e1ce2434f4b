"""Metadata: the FlatBuffers verifier and the object read after it.

May be refused with: CodecError.

Invariants:
- what was verified can be read by the generated code: no accessor leaves the buffer, and each gives what the verifier
  gave;
- what was read keeps every rule of tensor.fbs: names of 1 to 256 bytes, no name twice, caps on tensors and dimensions;
- written again, the metadata reads as the same; it may only have become longer than a frame allows;
- work is linear: the verifier visits at most four times the buffer.

Input: the metadata region.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from importlib import import_module
from random import Random
from typing import Any

from fuzz.target import Havoc, Target
from tensorwire.codec import (
    DTYPES,
    CodecError,
    Kind,
    Metadata,
    MetadataCache,
    TensorSpec,
    decode_metadata,
    dtype_by_name,
    encode_metadata,
)
from tensorwire.codec.limits import MAX_DIM, MAX_DIMS, MAX_METADATA_BYTES, MAX_NAME_BYTES, MAX_TENSORS
from tensorwire.codec.verifier import IDENTIFIER, RawMetadata, RawTensor, verify

_wire: Any = import_module("tensorwire.codec.generated.tensor_generated")  # generated code is not annotated

FEW = 64  # tensors: with more, the generated code and the builder of this check would take longer than what they check
WORDS = (0, 1, 4, 5, 8, 12, 16, 257, 1024, 1025, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF)


def check(data: bytes) -> None:
    try:
        verified = verify(data)
    except CodecError:
        verified = RawMetadata("", "", ())  # not a name that a model can have
    else:
        slow = len(verified.tensors) > FEW
        assert slow or verified == _generated(data), "the generated code reads something else"
    cache = MetadataCache()
    try:
        metadata = cache.get(data)
    except CodecError:
        assert not len(cache), "malformed metadata was kept"
        return
    assert verified.model, "read without being verified"
    assert cache.get(data) == metadata
    keeps_the_rules(metadata)
    if len(metadata.tensors) > FEW:
        return
    try:
        again = encode_metadata(metadata.model, metadata.version, metadata.tensors)
    except CodecError as error:
        assert f"at most {MAX_METADATA_BYTES}" in str(error), f"what was read cannot be written: {error}"
        return
    assert decode_metadata(again) == metadata


def _generated(data: bytes) -> RawMetadata:
    """The same fields, by the accessors that flatc generates."""
    root = _wire.Metadata.GetRootAs(data, 0)
    tensors = []
    for index in range(root.TensorsLength()):
        tensor = root.Tensors(index)
        dtype = tensor.Dtype()
        shape = tuple(tensor.Shape(axis) for axis in range(tensor.ShapeLength()))
        triple = (dtype.Code(), dtype.Bits(), dtype.Lanes())
        tensors.append(RawTensor(str(tensor.Name(), "utf-8"), triple, tensor.Kind(), shape))
    return RawMetadata(str(root.Model(), "utf-8"), str(root.Version() or b"", "utf-8"), tuple(tensors))


def keeps_the_rules(metadata: Metadata) -> None:
    """Metadata that came off the wire is what tensor.fbs promises."""
    names = [tensor.name for tensor in metadata.tensors]
    assert len(set(names)) == len(names) <= MAX_TENSORS
    for name in (metadata.model, *names):
        assert 1 <= len(name.encode()) <= MAX_NAME_BYTES
    assert len(metadata.version.encode()) <= MAX_NAME_BYTES
    for tensor in metadata.tensors:
        assert tensor.dtype in DTYPES
        assert len(tensor.shape) <= MAX_DIMS
        assert all(-1 <= size <= MAX_DIM for size in tensor.shape)


def seeds() -> Iterator[bytes]:
    yield encode_metadata("m", "", [])
    yield encode_metadata("classifier", "7", [TensorSpec("x", dtype_by_name("float32"), (-1, 3))])
    for count in (2, 4, 16):
        tensors = [TensorSpec(str(n), dtype_by_name("uint8"), (-1,) * (1 + n % 8), Kind(n % 3)) for n in range(count)]
        yield encode_metadata("é" * 9, "1", tensors)
    for dtype in DTYPES:
        yield encode_metadata("m", "", [TensorSpec("t", dtype, ())])
    yield shared(40, 8)


def shared(tensors: int, dims: int) -> bytes:
    """Metadata whose tensors share one vtable and one shape: the most to read for the fewest bytes."""
    root_at, vector_at, table_bytes, name_bytes = 20, 32, 16, 12
    vtable_at = vector_at + 4 + 4 * tensors
    first = vtable_at + 12
    names_at = first + table_bytes * tensors
    model_at = names_at + name_bytes * tensors
    shape_at = model_at + 8 + (model_at + 12) % 8
    out = bytearray(struct.pack("<I4s6H", root_at, IDENTIFIER, 10, 12, 4, 0, 8, 0))
    out += struct.pack("<iIII", root_at - 8, model_at - root_at - 4, vector_at - root_at - 8, tensors)
    for n in range(tensors):
        out += struct.pack("<I", first + n * table_bytes - (vector_at + 4 + 4 * n))
    out += struct.pack("<6H", 12, table_bytes, 4, 8, 0, 12)
    for n in range(tensors):
        at = first + n * table_bytes
        name_at = names_at + n * name_bytes
        out += struct.pack("<iIBBHI", at - vtable_at, name_at - at - 4, 2, 32, 1, shape_at - at - 12)
    for n in range(tensors):
        out += struct.pack("<I8s", 4, b"%04x" % n)
    out += struct.pack("<I4s", 1, b"m")
    out = out.ljust(shape_at, b"\0")
    return bytes(out + struct.pack(f"<I{dims}q", dims, *[-1] * dims))


def mutate(data: bytes, most: int, random: Random, havoc: Havoc) -> bytes:
    """A third of the time anything, else words and vtable entries are set, moved and copied where words stand."""
    if len(data) < 12 or random.random() < 0.35:
        return havoc(data, most)
    return changed_words(data, random)[:most]


def changed_words(data: bytes, random: Random) -> bytes:
    """The same buffer with one to three aligned words, halves or bytes changed."""
    raw = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(raw) - 4) & ~3
        match random.randrange(5):
            case 0:
                struct.pack_into("<I", raw, at, random.choice(WORDS))
            case 1:
                struct.pack_into("<I", raw, at, max(4, (random.randrange(len(raw)) - at) & 0xFFFFFFFC))
            case 2:
                struct.pack_into("<H", raw, at + random.choice((0, 2)), random.choice((0, 4, 6, 8, 10, 12, 16, 0xFFFF)))
            case 3:
                source = random.randrange(len(raw) - 4) & ~3
                raw[at : at + 4] = raw[source : source + 4]
            case _:
                raw[at + random.randrange(4)] = random.choice((0, 1, 2, 4, 8, 16, 32, 64, 255))
    return bytes(raw)


TARGET = Target(
    name="verifier",
    check=check,
    seeds=seeds,
    dictionary=(IDENTIFIER, *(struct.pack("<I", word) for word in WORDS), *(bytes(d.triple[:2]) for d in DTYPES)),
    max_bytes=8192,
    base_bytes=1 << 20,
    bytes_per_byte=256,
    mutate=mutate,
)
