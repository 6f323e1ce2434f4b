"""Sending is a gather list over the caller's own memory."""

from __future__ import annotations

import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from fuzz import strategies_tensors as strategies
from tensorwire.codec import (
    CodecError,
    Encoder,
    Kind,
    TensorSpec,
    decode_arrays,
    decode_metadata,
    dtype_by_name,
    resolve,
)


def address(buffer: memoryview) -> int:
    return int(np.frombuffer(buffer, np.uint8).__array_interface__["data"][0])


def start_of(array: np.ndarray[Any, Any]) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.mark.parametrize("dtype", ["bool", "float32", "complex64", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_contiguous_arrays_are_not_copied(dtype: Any) -> None:
    encoder, array = Encoder(), np.zeros((4, 5), dtype)
    for _ in range(2):  # a cold and a warm call site
        (buffer,) = encoder.encode("m", "", {"x": array}).buffers
        assert address(buffer) == start_of(array)
        assert (buffer.format, buffer.ndim, buffer.nbytes) == ("B", 1, array.nbytes)


def test_several_contiguous_arrays_are_not_copied() -> None:
    first, second = np.zeros(16, np.float32), np.zeros(3, np.int64)
    buffers = Encoder().encode("m", "", {"a": first, "b": second}).buffers
    assert [address(buffer) for buffer in buffers] == [start_of(first), start_of(second)]


def test_a_torch_tensor_in_host_memory_is_not_copied() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.zeros(2, 3), torch.zeros(4, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.float8_e5m2)):
        (buffer,) = Encoder().encode("m", "", {"x": tensor}).buffers
        assert address(buffer) == tensor.data_ptr()


def test_bytes_are_not_copied() -> None:
    raw = b"0123456789"
    (buffer,) = Encoder().encode("m", "", {"x": raw}).buffers
    assert address(buffer) == start_of(np.frombuffer(raw, np.uint8))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4).T,
        np.arange(12)[::2],
        np.arange(4, dtype=">f8"),
        np.broadcast_to(np.arange(3), (2, 3)),
    ],
    ids=["transposed", "strided", "big-endian", "broadcast"],
)
def test_other_arrays_are_copied_once_into_wire_order(array: np.ndarray[Any, Any]) -> None:
    encoder = Encoder()
    for _ in range(2):
        (buffer,) = encoder.encode("m", "", {"x": array}).buffers
        assert bytes(buffer) == array.astype(array.dtype.newbyteorder("<")).tobytes()
        assert address(buffer) != start_of(array)


def test_a_warm_call_site_still_refuses_what_changed() -> None:
    encoder, plain = Encoder(), np.arange(12, dtype=np.float32).reshape(3, 4)
    encoder.encode("m", "", {"x": plain})
    assert bytes(encoder.encode("m", "", {"x": plain[:, ::2]}).buffers[0]) == plain[:, ::2].tobytes()
    assert encoder.encode("m", "", {"x": plain[:0]}).buffers == []
    assert decode_metadata(encoder.encode("m", "", {"x": plain[0]}).meta).tensors[0].shape == (-1,)


def test_empty_tensors_send_no_buffer_and_no_padding() -> None:
    empty, full = np.zeros((0, 3), np.float32), np.ones(1, np.uint8)
    message = Encoder().encode("m", "", {"a": empty, "b": full, "c": empty, "d": full})
    assert [buffer.nbytes for buffer in message.buffers] == [1, 63, 1]
    assert message.body_length == 65


def test_each_buffer_starts_at_a_multiple_of_64_and_the_body_ends_with_the_last_byte() -> None:
    message = Encoder().encode("m", "", {"a": np.ones(3, np.uint8), "b": ["xy"], "c": np.ones(16, np.float32)})
    assert [buffer.nbytes for buffer in message.buffers] == [3, 61, 16, 48, 2, 62, 64]
    assert message.body_length == 256
    assert not any(b"".join(message.buffers[1::2]))


def test_dims_carry_every_size_then_the_blob_or_the_items() -> None:
    message = Encoder().encode("m", "", {"a": np.zeros((2, 3)), "s": ["ab", "c"], "n": 5})
    assert message.dims == struct.pack("<4Q", 2, 3, 2, 3)


def test_one_signature_has_one_metadata_string_whatever_the_shapes() -> None:
    encoder = Encoder()
    first = encoder.encode("m", "1", {"x": np.zeros((1, 16), np.float32)})
    second = encoder.encode("m", "1", {"x": np.zeros((7, 3), np.float32)})
    assert first.meta is second.meta
    assert decode_metadata(first.meta).tensors == (TensorSpec("x", dtype_by_name("float32"), (-1, -1), Kind.DENSE),)


def test_more_sizes_than_dims_can_carry_are_fixed_in_the_metadata() -> None:
    arrays: dict[str, Any] = {str(index): np.zeros((1, 2, index % 3), np.int8) for index in range(60)} | {"s": ["a"]}
    message = Encoder().encode("m", "", arrays)
    assert len(message.dims) <= 8 * 124
    specs = decode_metadata(message.meta).tensors
    assert specs[0].shape == (1, 2, 0)
    assert specs[59].shape == (-1, -1, -1)
    decoded = decode_arrays(resolve(decode_metadata(message.meta), message.dims), b"".join(message.buffers))
    assert all(np.array_equal(decoded[name], array) for name, array in arrays.items())


def test_as_many_strings_as_dims_can_carry() -> None:
    texts = {str(index): "x" for index in range(124)}
    assert len(Encoder().encode("m", "", texts).dims) == 8 * 124
    with pytest.raises(CodecError, match="at most 124"):
        Encoder().encode("m", "", texts | {"one more": "x"})


@given(strategies.messages(max_size=3))
def test_signatures_kept_are_bounded(arrays: dict[str, Any]) -> None:
    encoder = Encoder(max_entries=4)
    for index in range(12):
        encoder.encode(f"m{index}", "", arrays)
    assert len(encoder._sites) <= 4
    with pytest.raises(CodecError, match="model"):
        encoder.encode("", "", arrays)
