"""Metadata, dims and body to arrays, ragged and strings; and back.

May be refused with: CodecError (SignatureError is one).

Invariants:
- an accepted body has exactly the length that metadata and dims say, and was not above the caps;
- arrays are read-only, have the dtypes and shapes of the metadata and lie within the body; texts are str;
- rows of a ragged tensor are all of its values, in order;
- encoded again, the tensors give the same body, byte for byte, and metadata and dims that decode to the same tensors;
- a message fits the signature made of its own metadata, and the check of another one gives an answer or a refusal.

Input: 1 byte of mode, 1 byte of tensors described or 2 bytes of metadata length, see `_message`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import Any

import numpy as np

from fuzz.target import Havoc, Target
from fuzz.targets.verifier import changed_words
from tensorwire.codec import (
    DTYPES,
    FREE,
    CodecError,
    Encoder,
    Kind,
    Metadata,
    Placed,
    RaggedArray,
    Resolved,
    SignatureError,
    TensorSpec,
    check_signature,
    count_dims,
    decode_arrays,
    decode_metadata,
    dtype_by_name,
    encode_metadata,
    resolve,
)
from tensorwire.codec.limits import MAX_BODY_BYTES, MAX_DIM

RAW, FITTED, BATCHED = 1, 2, 4  # bits of mode: metadata as bytes; body cut or filled to its length; signature has rows
MAX_FITTED = 1 << 18  # bytes of a body that is made to fit
FLOAT = TensorSpec("x", dtype_by_name("float32"), (FREE, 3))


def check(data: bytes) -> None:
    message = _message(data)
    if message is None:
        return
    mode, metadata, dims, body = message
    try:
        resolved = resolve(metadata, dims)
    except CodecError:
        return
    assert 0 <= resolved.body_length <= MAX_BODY_BYTES
    _signatures(metadata, resolved, batched=mode & BATCHED != 0)
    if mode & FITTED and resolved.body_length <= MAX_FITTED:
        body = body[: resolved.body_length].ljust(resolved.body_length, b"\0")
    try:
        arrays = decode_arrays(resolved, body)
    except CodecError:
        return
    assert len(body) == resolved.body_length
    assert list(arrays) == [tensor.name for tensor in resolved.tensors]
    memory = np.frombuffer(body, np.uint8)
    for tensor, spec in zip(resolved.tensors, metadata.tensors, strict=True):
        _fits(tensor, spec, arrays[tensor.name], memory)
    _round_trip(metadata, arrays, body)


def _message(data: bytes) -> tuple[int, Metadata, bytes, bytes] | None:
    """(mode, metadata, dims, body) of an input, None if there is no metadata.

    With RAW: u16 length, metadata, u8 number of dims, dims, body. Else: u8 number of tensors, and for each a byte of
    dtype, one of kind (low 2 bits) and rank, and a byte for each dimension: 255 is 2^48, from 128 on fixed, else free,
    with its low 3 bits as size; a byte of items for the kinds that have them. The rest is the body.
    """
    if len(data) < 4:
        return None
    mode = data[0]
    if mode & RAW:
        end = 3 + int.from_bytes(data[1:3], "little")
        try:
            metadata = decode_metadata(data[3:end])
        except CodecError:
            return None
        stop = end + 1 + 8 * (data[end] if end < len(data) else 0)
        return mode, metadata, data[end + 1 : stop], data[stop:]
    return _described(mode, data)


def _described(mode: int, data: bytes) -> tuple[int, Metadata, bytes, bytes] | None:
    rest = iter(data[2:])
    tensors, sizes, used = [], [], 0
    for n in range(data[1] % 9):
        head = bytes(islice(rest, 2))
        if len(head) < 2:
            break
        kind, rank = Kind(head[1] % 3), (head[1] >> 2) % 9
        axes = bytes(islice(rest, rank))
        used += 2 + len(axes)
        shape = []
        for axis in axes:
            size = MAX_DIM if axis == 255 else axis & 7
            shape.append(size if axis & 128 else FREE)
            if not axis & 128:
                sizes.append(size)
        if kind is not Kind.DENSE:
            sizes.append(next(rest, 0))
            used += 1
        dtype = dtype_by_name("uint8") if kind is Kind.STRING else DTYPES[head[0] % len(DTYPES)]
        tensors.append(TensorSpec(f"t{n}", dtype, tuple(shape), kind))
    try:
        metadata = decode_metadata(encode_metadata("m", "", tensors))
    except CodecError as error:
        assert "ragged" in str(error), f"the target itself made bad metadata: {error}"
        return None
    return mode, metadata, struct.pack(f"<{len(sizes)}Q", *sizes), data[2 + used :]


def _signatures(metadata: Metadata, resolved: Resolved, batched: bool) -> None:
    assert count_dims(metadata) >= sum(spec.shape.count(FREE) for spec in metadata.tensors)
    assert check_signature(metadata.tensors, resolved, batched=False) == 1
    for expected in (metadata.tensors, (FLOAT,)):
        try:
            assert check_signature(expected, resolved, batched) >= 1
        except SignatureError as error:
            assert len(str(error)) < 2000


def _fits(tensor: Placed, spec: TensorSpec, array: Any, memory: np.ndarray[Any, Any]) -> None:
    assert tuple(array.shape) == tensor.shape
    assert all(want in (FREE, got) for want, got in zip(spec.shape, tensor.shape, strict=True))
    if tensor.kind is Kind.STRING:
        assert not array.flags.writeable
        assert all(type(text) is str for text in array.reshape(-1).tolist())
        return
    if tensor.kind is Kind.RAGGED:
        assert isinstance(array, RaggedArray)
        rows = list(array) if len(array) <= 64 else []
        assert not rows or sum(map(len, rows)) == tensor.items == len(array.values)
        _inside(array.offsets, spec, memory)
        array = array.values
    assert array.dtype == tensor.dtype.numpy
    _inside(array, spec, memory)


def _inside(part: np.ndarray[Any, Any], spec: TensorSpec, memory: np.ndarray[Any, Any]) -> None:
    assert not part.flags.writeable, f"{spec} can be written to"
    if part.size:
        low, high = np.lib.array_utils.byte_bounds(part)
        first, last = np.lib.array_utils.byte_bounds(memory)
        assert first <= low <= high <= last, f"{spec} lies outside the body"


def _round_trip(metadata: Metadata, arrays: dict[str, Any], body: bytes) -> None:
    try:
        encoded = Encoder().encode(metadata.model, metadata.version, arrays)
    except CodecError as error:
        # Dims that the metadata had fixed are free when we send, up to 124; with fixed ones the metadata may grow.
        assert "at most" in str(error), f"what was read cannot be sent: {error}"
        return
    assert b"".join(encoded.buffers) == body, "two bodies of the same tensors"
    assert encoded.body_length == len(body)
    again = resolve(decode_metadata(encoded.meta), encoded.dims)
    assert again.body_length == len(body)
    for left, right in zip(again.tensors, metadata.tensors, strict=True):
        assert (left.name, left.dtype, left.kind) == (right.name, right.dtype, right.kind)
    decode_arrays(again, body)


def seeds() -> Iterator[bytes]:
    arrays: dict[str, Any] = {
        "x": np.arange(6, dtype=np.float32).reshape(2, 3),
        "words": np.array(["hi", "", "é"], dtype=object),
        "rows": RaggedArray(np.array([0, 1, 3]), np.arange(3, dtype=np.int16)),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float64),
        "scalar": np.array(1.5),
    }
    for chosen in ([name] for name in arrays):
        yield _raw_seed({name: arrays[name] for name in chosen})
    yield _raw_seed(arrays)
    yield _raw_seed({})
    for dtype in range(len(DTYPES)):
        yield bytes((FITTED, 1, dtype, 2 << 2, 2, 131)) + bytes(range(48))
    yield bytes((FITTED, 3, 3, 1 << 2 | 1, 1, 2, 5, 2 << 2 | 2, 2, 131, 3, 0, 1 << 2, 255)) + bytes(64)
    yield bytes((FITTED | BATCHED, 2, 10, 4, 2, 10, 4, 3)) + bytes(200)
    yield bytes((0, 1, 10, 2 << 2, 127, 255))


def _raw_seed(arrays: dict[str, Any]) -> bytes:
    encoded = Encoder().encode("m", "1", arrays)
    head = bytes((RAW,)) + struct.pack("<H", len(encoded.meta)) + encoded.meta
    return head + bytes((len(encoded.dims) // 8,)) + encoded.dims + b"".join(encoded.buffers)


def mutate(data: bytes, most: int, random: Random, havoc: Havoc) -> bytes:
    """Raw metadata: half of the time its words change, or only what stands behind it does."""
    if len(data) < 16 or not data[0] & RAW or random.random() < 0.5:
        return havoc(data, most)
    end = min(3 + int.from_bytes(data[1:3], "little"), len(data))
    if random.random() < 0.5 and end > 15:
        return data[:3] + changed_words(data[3:end], random) + data[end:]
    return (data[:end] + havoc(data[end:] or b"\0", max(most - end, 1)))[:most]


TARGET = Target(
    name="decode",
    check=check,
    seeds=seeds,
    dictionary=(
        *(bytes(dtype.triple[:2]) for dtype in DTYPES),
        *(struct.pack("<Q", size) for size in (0, 1, 2, 3, 64, 1 << 32, MAX_DIM, MAX_DIM + 1, 1 << 63, 2**64 - 1)),
        b"\xc3\xa9", b"\xed\xa0\x80",
    ),
    max_bytes=4096,
    base_bytes=8 << 20,
    bytes_per_byte=512,
    mutate=mutate,
)  # fmt: skip
