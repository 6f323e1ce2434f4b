"""Every tensor that can be sent comes out as it went in, through the real bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from fuzz import strategies_tensors as strategies
from tensorwire.codec import (
    DTYPES,
    DType,
    Encoded,
    Encoder,
    MetadataCache,
    RaggedArray,
    decode_arrays,
    resolve,
)

CACHE = MetadataCache()


def decode(message: Encoded) -> dict[str, Any]:
    body = b"".join(message.buffers)
    assert len(body) == message.body_length
    return decode_arrays(resolve(CACHE.get(message.meta), message.dims), memoryview(body))


@given(strategies.messages())
def test_every_message_survives(arrays: dict[str, Any]) -> None:
    got = decode(Encoder().encode("model", "", arrays))
    assert list(got) == list(arrays)
    for name, sent in arrays.items():
        assert strategies.same_tensor(sent, got[name])


@given(strategies.arrays(), strategies.arrays())
def test_a_warm_call_site_encodes_like_a_cold_one(first: Any, second: Any) -> None:
    encoder = Encoder()
    for array in (first, second, first, second):
        warm, cold = encoder.encode("m", "1", {"x": array}), Encoder().encode("m", "1", {"x": array})
        assert (warm.meta, warm.dims, warm.body_length) == (cold.meta, cold.dims, cold.body_length)
        assert b"".join(warm.buffers) == b"".join(cold.buffers)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.numpy is not None], ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3), (1, 2, 1, 2, 1, 2, 1, 2)], ids=str)
def test_every_dtype_at_every_kind_of_shape(dtype: DType, shape: tuple[int, ...]) -> None:
    assert dtype.numpy is not None
    array = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype.numpy)
    got = decode(Encoder().encode("m", "", {"x": array}))["x"]
    assert got.dtype == dtype.numpy
    assert strategies.same_bits(array, got)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, np.array(3)),
        (2.5, np.array(2.5)),
        (True, np.array(True)),
        ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        (np.float32(1.5), np.array(1.5, np.float32)),
        (b"\x01\x02", np.array([1, 2], np.uint8)),
        (bytearray(b"\x07"), np.array([7], np.uint8)),
        (np.arange(6, dtype=np.int16).reshape(2, 3).data, np.arange(6, dtype=np.int16).reshape(2, 3)),
        ([], np.array([])),
    ],
    ids=["int", "float", "bool", "lists", "numpy scalar", "bytes", "bytearray", "memoryview", "empty list"],
)
def test_python_values_become_arrays(value: Any, expected: np.ndarray[Any, Any]) -> None:
    assert strategies.same_bits(decode(Encoder().encode("m", "", {"x": value}))["x"], expected)


@pytest.mark.parametrize("value", ["", "héllo", ["a", "", "日本", "nul\0"], [["a"], ["b"]], np.array(["x", "yz"]), []])
def test_text_becomes_a_string_tensor(value: Any) -> None:
    got = decode(Encoder().encode("m", "", {"x": value}))["x"]
    assert got.tolist() == (value.tolist() if isinstance(value, np.ndarray) else value)


def test_rows_of_different_lengths_survive() -> None:
    rows = RaggedArray.from_rows([[1.0, 2.0], [], [3.0]])
    got = decode(Encoder().encode("m", "", {"x": rows}))["x"]
    assert got.tolist() == [[1.0, 2.0], [], [3.0]]


def test_a_message_without_tensors_has_no_body() -> None:
    message = Encoder().encode("m", "", {})
    assert (message.dims, message.buffers, message.body_length) == (b"", [], 0)
    assert decode(message) == {}
