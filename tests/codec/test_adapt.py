"""What cannot be sent is refused with the tensor's name and a way out."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import CodecError, Encoder, RaggedArray
from tensorwire.codec.adapt import adapt


class Stubborn:
    """Says that it is an array and is none."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise ValueError("not today")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (object(), "holds object, expected str only"),
        (np.array([None, 1]), "holds NoneType"),
        (["a", 1], "holds int"),
        ([[1], [2, 3]], "RaggedArray.from_rows"),
        (2**70, "holds int"),
        (np.array([b"ab"]), "arrays of bytes"),
        (np.zeros(2, "M8[s]"), "datetime64"),
        (np.zeros(2, np.longdouble), "astype"),
        (np.zeros(2, [("a", "i4")]), "cannot be sent"),
        (np.zeros((1,) * 9), "9 dimensions, at most 8"),
        (np.ma.array([1, 2], mask=[False, True]), "masked"),
        ("\ud800", "lone surrogate"),
        (["ok", "\ud800"], "lone surrogate"),
        ({"a": 1}, "holds dict"),
        (Stubborn(), "Stubborn is no array: not today"),
        (RaggedArray([0, 1], np.zeros((1,) * 9)), "9 dimensions"),
        (RaggedArray([0, 1], np.array([None])), "cannot be sent"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "text",
)
def test_what_cannot_be_sent_is_refused_by_name(value: Any, says: str) -> None:
    with pytest.raises(CodecError, match="'image'") as caught:
        adapt("image", value)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["", "x" * 257, "\ud800"])
def test_a_tensor_name_is_1_to_256_bytes_of_utf_8(name: str) -> None:
    with pytest.raises(CodecError, match="tensor name"):
        Encoder().encode("m", "", {name: np.zeros(2)})


def test_a_peer_text_in_a_message_is_escaped_and_capped() -> None:
    with pytest.raises(CodecError) as caught:
        adapt("\x1b[31m\r\n" + "x" * 100_000, object())
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400


READ_ONLY = np.arange(4)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("value", "dtype", "right"),
    [
        (np.array([1, 2], ">i4"), "<i4", [1, 2]),
        (np.array([1 + 2j], ">c8"), "<c8", [1 + 2j]),
        (np.array(3.0, ">f8"), "<f8", [3.0]),
        (READ_ONLY, "<i8", [0, 1, 2, 3]),
        (np.arange(4)[::-1], "<i8", [3, 2, 1, 0]),
        (np.asfortranarray([[1, 2], [3, 4]]), "<i8", [1, 2, 3, 4]),
        (np.broadcast_to(np.float32(1), 2), "<f4", [1.0, 1.0]),
        (np.zeros(2, [("a", "i1"), ("b", "f4")])["b"], "<f4", [0.0, 0.0]),
        (np.lib.stride_tricks.sliding_window_view(np.arange(3), 2), "<i8", [0, 1, 1, 2]),
        (np.array([1, 2], ">i4").data, "<i4", [1, 2]),
        (array("f", [1, 2]), "<f4", [1.0, 2.0]),
        (np.float32(3), "<f4", [3.0]),
        ([1, 2**64 - 1], "<u8", [1, 2**64 - 1]),
    ],
)
def test_values_do_not_depend_on_how_they_lie_in_memory(value: Any, dtype: str, right: list[Any]) -> None:
    adapted = adapt("x", value)
    assert np.frombuffer(adapted.buffers[0], dtype).tolist() == right
    assert adapted.dtype.numpy == np.dtype(dtype)


def test_numbers_keep_their_value_and_text_keeps_its_zero_characters() -> None:
    assert bytes(adapt("x", ["a\0", "b"]).buffers[1]) == b"a\0b"
    assert adapt("x", 7).sizes == ()
