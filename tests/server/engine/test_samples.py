"""Inputs to try a model with: of every dtype, never all zeros, loud where there is loud; differences of answers."""

from __future__ import annotations

import numpy as np
import pytest

from tensorwire.codec import Kind, RaggedArray, TensorSpec, dtype_by_name
from tensorwire.server.engine.samples import LOUD, Batch, difference, large, loud, not_finite, ordinary, small

FLOATS = ["float16", "float32", "float64", "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
SHAPE = (4, 3, 5)


def spec(dtype: str, kind: Kind = Kind.DENSE) -> TensorSpec:
    return TensorSpec("x", dtype_by_name(dtype), (-1, 3, 5), kind)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "bool"])
def test_ordinary_values_are_small_the_same_again_and_not_all_zeros(dtype: str) -> None:
    values = ordinary(spec(dtype), SHAPE, 1, 8)
    assert (values.shape, values.dtype) == (SHAPE, dtype_by_name(dtype).numpy)
    assert values.tobytes() == ordinary(spec(dtype), SHAPE, 1, 8).tobytes()
    assert values.tobytes() != ordinary(spec(dtype), SHAPE, 2, 8).tobytes()
    assert all(row.any() for row in values)
    wide = values.astype(np.complex128).real
    assert wide.min() >= 0
    assert wide.max() <= (1 if dtype in FLOATS else 7)


@pytest.mark.parametrize("dtype", FLOATS)
def test_loud_values_are_louder_and_the_others_no_numbers(dtype: str) -> None:
    with np.errstate(all="ignore"):
        values = loud(spec(dtype), SHAPE, 1, 8).astype(np.complex128).real
        strange = not_finite(spec(dtype), SHAPE, 1, 8).astype(np.complex128).real
    assert not np.nan_to_num(values, nan=LOUD).max() < LOUD / 4  # float8 ends before it, with NaN or infinity
    assert np.isnan(strange).any()
    assert not np.isfinite(strange).any()


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_integers_are_never_loud(dtype: str) -> None:
    for make in (loud, not_finite):
        assert make(spec(dtype), SHAPE, 1, 2).max() <= 1


@pytest.mark.parametrize(
    ("dtype", "below", "least", "most"),
    [("int64", 8, 1, 7), ("uint16", 2, 0, 1), ("int32", 1, 0, 0), ("uint8", 8, 1, 255), ("int8", 2, 0, 127)],
)
def test_large_integers_are_larger_than_small_ones_and_no_larger_than_known(
    dtype: str, below: int, least: int, most: int
) -> None:
    assert small(spec(dtype), SHAPE, 1, below).max() == least
    assert (large(spec(dtype), SHAPE, 1, below) == most).all()
    assert not small(spec("bool"), SHAPE, 1, below).any()
    assert large(spec("bool"), SHAPE, 1, below).all()
    for make in (small, large):
        assert make(spec("float32"), SHAPE, 1, below).tobytes() == ordinary(spec("float32"), SHAPE, 1, below).tobytes()


def test_words_and_ragged_rows() -> None:
    words = ordinary(spec("uint8", Kind.STRING), (5,), 1, 8)
    assert all(isinstance(word, str) and word for word in words)
    ragged = ordinary(TensorSpec("x", dtype_by_name("float32"), (-1, -1), Kind.RAGGED), (4, 8), 1, 8)
    assert isinstance(ragged, RaggedArray)
    assert len(ragged.offsets) == 5


def test_a_batch_lies_at_one_place_whatever_the_model_did_to_it() -> None:
    batch = Batch([spec("float32")], [(3, 5)], 4)
    ones = {"x": np.ones(SHAPE, np.float32)}
    first = batch.of(ones)["x"]
    place = first.ctypes.data
    assert place % 64 == 0
    first -= 1
    again = batch.of(ones)["x"]
    assert again.ctypes.data == place
    assert (again == 1).all()
    assert batch.of({"x": np.ones((1, 3, 5), np.float32)})["x"].shape == (1, 3, 5)


@pytest.mark.parametrize(
    ("one", "other", "apart", "largest"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5, 2.0),
        ([1.0, np.nan], [1.0, np.nan], 0.0, 0.0),
        ([-3.0, np.nan], [-3.5, np.nan], 0.5, 3.0),
        ([1.0, np.nan], [1.0, 7.0], np.inf, 1.0),
        ([1.0, np.inf], [1.0, 7.0], np.inf, 1.0),
        ([1.0, np.inf], [2.0, np.inf], 1.0, 1.0),
        ([0.0], [-0.0], 0.0, 0.0),
        ([], [], 0.0, 0.0),
    ],
)
def test_differences(one: list[float], other: list[float], apart: float, largest: float) -> None:
    first, second = (np.array(values, np.float32).tobytes() for values in (one, other))
    assert difference("float32", first, second) == (apart, largest)
