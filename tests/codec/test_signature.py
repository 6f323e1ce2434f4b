"""Names, element types, kinds and shapes against a model; the error says which, what came and what was wanted."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tensorwire.codec import (
    CodecError,
    Kind,
    Metadata,
    Resolved,
    SignatureError,
    TensorSpec,
    check_signature,
    dtype_by_name,
    resolve,
)


def spec(name: str, *shape: int, dtype: str = "float32", kind: Kind = Kind.DENSE) -> TensorSpec:
    return TensorSpec(name, dtype_by_name(dtype), shape, kind)


def sent(*tensors: TensorSpec) -> Resolved:
    items = sum(tensor.kind is not Kind.DENSE for tensor in tensors)
    return resolve(Metadata("m", "", tensors), struct.pack(f"<{items}Q", *[0] * items))


IMAGE, MASK = spec("image", -1, 3, -1), spec("mask", -1, dtype="bool")


def test_rows_are_the_batch_axis() -> None:
    assert check_signature([IMAGE, MASK], sent(spec("mask", 4, dtype="bool"), spec("image", 4, 3, 9)), True) == 4
    assert check_signature([IMAGE], sent(spec("image", 1, 3, 0)), True) == 1


def test_without_a_batch_axis_a_message_is_one_row_and_every_axis_counts() -> None:
    assert check_signature([spec("x", 2, -1)], sent(spec("x", 2, 7)), False) == 1
    assert check_signature([spec("x")], sent(spec("x")), False) == 1
    assert check_signature([], sent(), True) == 1
    with pytest.raises(SignatureError):
        check_signature([spec("x", 2, -1)], sent(spec("x", 3, 7)), False)


@pytest.mark.parametrize(
    ("tensors", "field", "was", "expected"),
    [
        ([spec("image", 2, 3, 5)], "'mask'", "no such tensor", "bool[-1]"),
        (
            [spec("image", 2, 3, 5), spec("maks", 2, dtype="bool")],
            "'maks'",
            "nearest: 'mask'",
            "one of 'image', 'mask'",
        ),
        ([spec("image", 2, 3, 5), spec("mask", 2, dtype="bool"), spec("zzz", 2)], "'zzz'", "of that name", "one of"),
        ([spec("image", 2, 3, 5, dtype="float64"), MASK], "'image'", "float64[2, 3, 5]", "float32[-1, 3, -1]"),
        ([spec("image", 2, 4, 5), MASK], "'image'", "float32[2, 4, 5]", "float32[-1, 3, -1]"),
        ([spec("image", 3, 5), MASK], "'image'", "float32[3, 5]", "float32[-1, 3, -1]"),
        ([spec("image"), MASK], "'image'", "float32[]", "float32[-1, 3, -1]"),
        ([spec("image", 2, 3, 5, kind=Kind.RAGGED), MASK], "'image'", "ragged float32[2, 3, 5]", "float32[-1, 3, -1]"),
        ([spec("image", 2, 3, 5), spec("mask", 3, dtype="bool")], "'mask'", "3 rows", "2, as 'image' has"),
        ([spec("image", 0, 3, 5), spec("mask", 0, dtype="bool")], "'image'", "0 rows", "at least 1"),
    ],
)
def test_what_does_not_fit_is_named(tensors: list[TensorSpec], field: str, was: str, expected: str) -> None:
    fixed = [TensorSpec(t.name, t.dtype, tuple(2 if size < 0 else size for size in t.shape), t.kind) for t in tensors]
    with pytest.raises(SignatureError) as caught:
        check_signature([IMAGE, MASK], sent(*fixed), True)
    error = caught.value
    assert error.field == field
    assert was in error.sent
    assert expected in error.expected
    assert str(error) == f"{error.field}: sent {error.sent}, expected {error.expected}"
    assert isinstance(error, CodecError)


AS_FLOAT32 = "; convert it, as with numpy.asarray(..., 'float32')"
IN_FRONT = "; add the batch axis in front, as with [None]"


@pytest.mark.parametrize(
    ("want", "come", "advice"),
    [
        (spec("x", -1, 4), spec("x", 1, 4, dtype="float64"), AS_FLOAT32),
        (spec("x", -1, 4), spec("x", 4, dtype="int64"), AS_FLOAT32 + IN_FRONT),
        (spec("x", -1, 4), spec("x", 4), IN_FRONT),
        (spec("x", -1, 4), spec("x", 1, 5), ""),
        (spec("x", -1, kind=Kind.RAGGED), spec("x", 2, 2), "; pass rows of different lengths as a RaggedArray"),
        (spec("x", -1, kind=Kind.RAGGED), spec("x", 2, kind=Kind.RAGGED, dtype="float64"), AS_FLOAT32),
        (spec("x", -1, kind=Kind.STRING), spec("x", 2), ""),
    ],
)
def test_what_would_mend_it_is_said(want: TensorSpec, come: TensorSpec, advice: str) -> None:
    with pytest.raises(SignatureError) as caught:
        check_signature([want], sent(come), want.kind is Kind.DENSE)
    assert caught.value.expected == f"{want}{advice}"


def test_a_scalar_has_no_rows() -> None:
    with pytest.raises(SignatureError, match="a batch axis"):
        check_signature([spec("x")], sent(spec("x")), True)


def test_a_peers_names_are_escaped_and_capped() -> None:
    hostile: Any = spec("\x1b[31m" + "x" * 240, 1)
    with pytest.raises(SignatureError) as caught:
        check_signature([IMAGE], sent(hostile), True)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_thousand_long_names_are_answered_quickly() -> None:
    tensors = tuple(spec(f"{index:04d}" + "ab" * 20, 1, dtype="int8") for index in range(1024))
    with pytest.raises(SignatureError):
        check_signature([IMAGE], sent(*tensors), True)
    with pytest.raises(SignatureError):
        check_signature(tensors, sent(spec("ab" * 22, 1)), True)
