"""Receiving is a view; every byte with a rule of its own is checked."""

from __future__ import annotations

import struct
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import strategies_tensors as strategies
from tensorwire.codec import (
    CodecError,
    Encoder,
    Kind,
    Metadata,
    RaggedArray,
    Resolved,
    TensorSpec,
    check_body,
    decode_arrays,
    decode_metadata,
    dtype_by_name,
    resolve,
)


def encoded(arrays: dict[str, Any]) -> tuple[Resolved, bytearray]:
    message = Encoder().encode("m", "", arrays)
    return resolve(decode_metadata(message.meta), message.dims), bytearray(b"".join(message.buffers))


def strings(offsets: list[int], blob: bytes) -> tuple[Resolved, bytes]:
    """A string tensor with offsets as the peer likes them."""
    spec = TensorSpec("s", dtype_by_name("uint8"), (-1,), Kind.STRING)
    dims = struct.pack("<2Q", len(offsets) - 1, len(blob))
    table = struct.pack(f"<{len(offsets)}q", *offsets)
    return resolve(Metadata("m", "", (spec,)), dims), table + (bytes(-len(table) % 64) + blob if blob else b"")


def test_arrays_are_read_only_views_of_the_body() -> None:
    resolved, body = encoded({"x": np.ones((2, 3), np.float32), "r": RaggedArray([0, 2], np.ones(2))})
    arrays = decode_arrays(resolved, memoryview(body))
    start = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
    assert arrays["x"].__array_interface__["data"] == (start, True)
    assert arrays["r"].values.__array_interface__["data"] == (start + 128, True)
    body[0:4] = struct.pack("<f", 9.0)
    assert arrays["x"][0, 0] == 9.0
    with pytest.raises(ValueError, match="read-only"):
        arrays["x"][0, 0] = 1


def test_views_keep_the_body_alive_and_let_it_go() -> None:
    resolved, body = encoded({"x": np.ones(4, np.float32)})
    before = sys.getrefcount(body)
    array = decode_arrays(resolved, memoryview(body))["x"]
    with pytest.raises(BufferError):
        body.append(0)
    del array
    assert sys.getrefcount(body) == before
    body.append(0)


@given(strategies.messages(max_size=3), st.sampled_from([-64, -1, 1, 64]))
def test_a_body_of_another_length_is_refused(arrays: dict[str, Any], change: int) -> None:
    resolved, body = encoded(arrays)
    other = bytes(body[: max(len(body) + change, 0)]) if change < 0 else bytes(body) + bytes(change)
    if len(other) != len(body):
        with pytest.raises(CodecError, match=f"expected {len(body)}"):
            decode_arrays(resolved, other)


def test_padding_must_be_zero() -> None:
    resolved, body = encoded({"a": np.ones(1, np.uint8), "b": np.ones(1, np.uint8)})
    assert resolved.unchecked
    for at in (1, 63):
        forged = bytearray(body)
        forged[at] = 1
        with pytest.raises(CodecError, match="padding"):
            decode_arrays(resolved, forged)


@pytest.mark.parametrize("value", [2, 255])
def test_a_bool_must_be_0_or_1(value: int) -> None:
    resolved, body = encoded({"x": np.array([True, False])})
    body[1] = value
    with pytest.raises(CodecError, match="neither 0 nor 1"):
        check_body(resolved, memoryview(body))
    resolved, body = encoded({"x": RaggedArray([0, 2], np.array([True, False]))})
    body[-1] = value
    with pytest.raises(CodecError, match="neither 0 nor 1"):
        decode_arrays(resolved, body)


def test_one_plain_tensor_needs_no_check() -> None:
    assert not encoded({"x": np.ones(3)})[0].unchecked


@pytest.mark.parametrize(
    ("offsets", "says"),
    [
        ([1, 2], "expected 0 to 2"),
        ([0, 3], "expected 0 to 2"),
        ([0, 1], "expected 0 to 2"),
        ([0, 2, 1, 2], "decrease"),
        ([0, -1, 2], "decrease"),
        ([0, 1 << 62, 2], "decrease"),
        ([0, -(1 << 63), 2], "decrease"),
    ],
)
def test_offsets_start_at_0_never_decrease_and_end_with_the_blob(offsets: list[int], says: str) -> None:
    with pytest.raises(CodecError, match=says):
        decode_arrays(*strings(offsets, b"ab"))


@pytest.mark.parametrize(
    ("offsets", "blob"), [([0, 2], b"\xff\xfe"), ([0, 1, 2], "é".encode()), ([0, 3], b"\xed\xa0\x80")]
)
def test_strings_must_be_utf_8_one_by_one(offsets: list[int], blob: bytes) -> None:
    with pytest.raises(CodecError, match="not UTF-8"):
        decode_arrays(*strings(offsets, blob))


def test_strings_come_as_a_read_only_object_array_of_str() -> None:
    array = decode_arrays(*strings([0, 0, 1, 3], "aé".encode()))["s"]
    assert (array.dtype, array.tolist(), array.flags.writeable) == (np.dtype(object), ["", "a", "é"], False)


def test_an_element_type_without_numpy_dtype_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved, body = encoded({"x": np.ones(2, np.float16)})
    bfloat16 = dtype_by_name("bfloat16")
    monkeypatch.setattr(bfloat16, "numpy", None)
    resolved.tensors[0].dtype = bfloat16
    with pytest.raises(CodecError, match="pip install ml_dtypes"):
        decode_arrays(resolved, body)


@given(strategies.messages(max_size=3), st.data())
def test_only_codec_error_leaves_on_a_forged_body(arrays: dict[str, Any], data: st.DataObject) -> None:
    resolved, body = encoded(arrays)
    for _ in range(data.draw(st.integers(1, 5))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(CodecError):
        decode_arrays(resolved, body)
