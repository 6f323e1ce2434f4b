"""Sizes and places: exact, aligned, capped, and never overflowing."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import strategies_tensors as strategies
from tensorwire.codec import (
    FREE,
    CodecError,
    Encoder,
    Kind,
    Metadata,
    Resolved,
    TensorSpec,
    count_dims,
    decode_metadata,
    dtype_by_name,
    resolve,
)

CAP = 1 << 48


def spec(shape: tuple[int, ...], kind: Kind = Kind.DENSE, dtype: str = "float32", name: str = "x") -> TensorSpec:
    return TensorSpec(name, dtype_by_name(dtype), shape, kind)


def place(*tensors: TensorSpec, dims: tuple[int, ...] = ()) -> Resolved:
    named = tuple(TensorSpec(str(index), one.dtype, one.shape, one.kind) for index, one in enumerate(tensors))
    return resolve(Metadata("m", "", named), struct.pack(f"<{len(dims)}Q", *dims))


def test_free_sizes_come_in_order_then_the_items_of_the_second_buffer() -> None:
    resolved = place(
        spec((FREE, 3, FREE)),
        spec((FREE,), Kind.STRING, "uint8"),
        spec((2, FREE), Kind.RAGGED, "int64"),
        dims=(2, 5, 7, 11, 4, 6),
    )
    dense, strings, ragged = resolved.tensors
    assert (dense.shape, dense.nbytes, dense.offset) == ((2, 3, 5), 120, 0)
    assert (strings.shape, strings.items, strings.nbytes, strings.data_nbytes) == ((7,), 11, 64, 11)
    assert (strings.offset, strings.data_offset) == (128, 192)
    assert (ragged.shape, ragged.items, ragged.nbytes, ragged.data_nbytes) == ((2, 4), 6, 24, 192)
    assert (ragged.offset, ragged.data_offset) == (256, 320)
    assert resolved.body_length == 512
    assert resolved.gaps == ((120, 128), (203, 256), (280, 320))


@given(strategies.messages())
def test_sender_and_receiver_agree_on_every_place(arrays: dict[str, Any]) -> None:
    message = Encoder().encode("m", "", arrays)
    metadata = decode_metadata(message.meta)
    resolved = resolve(metadata, message.dims)
    assert resolved.body_length == message.body_length == sum(buffer.nbytes for buffer in message.buffers)
    assert len(message.dims) == 8 * count_dims(metadata)
    places = sorted(
        (offset, nbytes)
        for tensor in resolved.tensors
        for offset, nbytes in ((tensor.offset, tensor.nbytes), (tensor.data_offset, tensor.data_nbytes))
        if nbytes
    )
    end = 0
    for offset, nbytes in places:
        assert offset % 64 == 0
        assert 0 <= offset - end < 64
        end = offset + nbytes
    assert end == resolved.body_length


@pytest.mark.parametrize("size", [0, 1, 7, 9, 15, 16, 24, 1 << 16])
def test_dims_of_another_length_are_refused(size: int) -> None:
    metadata = Metadata("m", "", (spec((FREE,)),))
    with pytest.raises(CodecError, match="expected 8 for 1 free"):
        resolve(metadata, bytes(size))


@pytest.mark.parametrize(
    ("tensor", "dims"),
    [
        (spec((FREE,)), (CAP + 1,)),
        (spec((FREE,)), (1 << 63,)),
        (spec((FREE,)), ((1 << 64) - 1,)),
        (spec((FREE, FREE)), (1 << 32, 1 << 32)),
        (spec((FREE, FREE), dtype="uint8"), (1 << 28, (1 << 28) + 1)),
        (spec((FREE,) * 8), (1 << 8,) * 8),
        (spec((FREE,) * 8), (CAP,) * 8),
        (spec((CAP, CAP, FREE)), (0,)),
        (spec((0, CAP, CAP)), ()),
        (spec((FREE,), Kind.STRING, "uint8"), (1, CAP + 1)),
        (spec((FREE,), Kind.STRING, "uint8"), (CAP + 1, 1)),
        (spec((FREE, FREE), Kind.STRING, "uint8"), (1 << 30, 1 << 30, 0)),
        (spec((FREE, FREE), Kind.STRING, "uint8"), (1 << 27, 1 << 27, 0)),
        (spec((FREE,), Kind.RAGGED), (1, (1 << 64) - 1)),
        (spec((1, FREE, FREE), Kind.RAGGED), (1 << 30, 1 << 30, 1)),
        (spec((1, CAP, CAP), Kind.RAGGED), (0,)),
    ],
)
def test_sizes_that_overflow_are_refused(tensor: TensorSpec, dims: tuple[int, ...]) -> None:
    with pytest.raises(CodecError, match=r"at most|larger than"):
        place(tensor, dims=dims)


def test_a_body_over_the_cap_is_refused_even_if_each_tensor_is_not() -> None:
    large = spec((FREE, 1 << 5))  # 2^46 x 2^5 x 4 bytes = 2^53
    assert place(*[large] * 8, dims=(1 << 46,) * 8).body_length == 1 << 56
    with pytest.raises(CodecError, match="body"):
        place(*[large] * 9, dims=(1 << 46,) * 9)


def test_many_short_strings_are_no_overflow() -> None:
    resolved = place(spec((FREE,), Kind.STRING, "uint8"), dims=(1 << 32, 1 << 40))
    assert resolved.body_length == 8 * (1 << 32) + 64 + (1 << 40)


def test_empty_tensors_take_no_place() -> None:
    resolved = place(spec((FREE,)), spec((0, 5)), spec((1,)), spec((FREE,)), dims=(0, 0))
    assert [(tensor.offset, tensor.nbytes) for tensor in resolved.tensors] == [(0, 0), (0, 0), (0, 4), (0, 0)]
    assert (resolved.body_length, resolved.gaps, resolved.unchecked) == (4, (), False)


@given(
    st.lists(st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, CAP, CAP + 1]), max_size=8), st.sampled_from(Kind)
)
def test_any_sizes_give_a_place_that_numpy_can_take_or_codec_error(sizes: list[int], kind: Kind) -> None:
    if kind is Kind.RAGGED and not sizes:
        return
    tensor = spec((FREE,) * len(sizes), kind, "uint8" if kind is Kind.STRING else "complex128")
    dims = (*sizes, 3) if kind is not Kind.DENSE else tuple(sizes)
    try:
        (placed,) = place(tensor, dims=dims).tensors
    except CodecError:
        return
    assert placed.nbytes + placed.data_nbytes <= 1 << 57
    if kind is Kind.DENSE:
        assert placed.nbytes == 16 * math.prod(sizes)
        if not placed.nbytes:
            assert np.ndarray(placed.shape, placed.dtype.storage, b"").size == 0


def test_a_placed_tensor_reads_well() -> None:
    (placed,) = place(spec((FREE, 3)), dims=(2,)).tensors
    assert (str(placed), repr(placed)) == ("float32[2, 3]", "Placed('0', float32[2, 3], offset=0, nbytes=24)")
