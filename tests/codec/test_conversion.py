"""numpy's silent conversions, of lists and between dtypes: without loss, or refused."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.codec import DTYPES, CodecError, RaggedArray
from tensorwire.codec.adapt import adapt
from tensorwire.codec.conversion import as_numpy, convert

NUMPY = {dtype.name: dtype.numpy for dtype in DTYPES if dtype.numpy is not None}
FINFO: Any = ml_dtypes.finfo
MASKED = np.ma.array([1, 2], mask=[False, True])


@pytest.mark.parametrize("value", [MASKED, [MASKED, MASKED], [[1, 2], [3, np.ma.masked]], ((MASKED,),)])
def test_a_mask_is_never_forgotten(value: Any) -> None:
    with pytest.raises(CodecError, match="masked"):
        adapt("x", value)
    with pytest.raises(CodecError, match="masked"):
        RaggedArray.from_rows([[1, 2], value])
    with pytest.raises(CodecError, match="masked"):
        RaggedArray([0, 2], value)


@pytest.mark.parametrize(
    "value",
    [[0.5, 2**53 + 1], [2**53 + 1, 1j], [-1, 2**63 + 1], [np.int64(2**53 + 1), np.float32(1)], [[1.0], [2**60 + 1]]],
)
def test_an_integer_beside_floats_is_not_rounded(value: Any) -> None:
    with pytest.raises(CodecError, match="cannot hold"):
        adapt("x", value)


def test_integers_that_fit_one_dtype_get_it() -> None:
    assert as_numpy([1, 2**64 - 1]).tolist() == [1, 2**64 - 1]
    assert as_numpy([0.5, 2**53]).tolist() == [0.5, 2**53]
    assert as_numpy([float("nan"), math.inf, 1e300]).dtype == np.float64


def test_rows_are_joined_without_rounding() -> None:
    with pytest.raises(CodecError, match="give all rows one dtype"):
        RaggedArray.from_rows([[2**53 + 1], [0.5]])
    with pytest.raises(CodecError, match="int8 cannot hold 300"):
        RaggedArray.from_rows([[1], [300]], np.int8)
    with pytest.raises(CodecError, match=r"int64 cannot hold 1\.5"):
        RaggedArray([0, 1.5, 2], [1, 2])
    assert RaggedArray.from_rows([[1], [2.5]]).tolist() == [[1.0], [2.5]]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (70000, "float16"),
        (1e300, "float32"),
        (500.0, "float8_e4m3fn"),
        (math.inf, "float8_e4m3fn"),
        (0.0, "float8_e8m0fnu"),
        (1e300 + 1j, "complex64"),
        (1j, "float32"),
        (1j, "bfloat16"),
        (3.7, "int32"),
        (-1, "uint8"),
        (300, "uint8"),
        (2, "bool"),
        (0.5, "bool"),
        (math.nan, "int8"),
        (2.0**63, "int64"),
        (2**63, "int64"),
        (-(2.0**63) * 2, "int64"),
        (-1.0, "uint64"),
        (2.0**64, "uint64"),
        (np.longdouble("1e4000"), "float64"),
        (np.datetime64("2020"), "int64"),
        ("1", "int64"),
        (np.void(b"abcd"), "int32"),
    ],
)
def test_what_a_dtype_cannot_hold_is_refused(value: Any, dtype: str) -> None:
    with pytest.raises(CodecError, match=r"cannot hold|does not become"):
        convert(np.array([value]), NUMPY[dtype])


@given(st.sampled_from(sorted(NUMPY)), st.sampled_from(sorted(NUMPY)), st.binary(min_size=16, max_size=16))
def test_hypothesis_a_converted_number_is_the_nearest_or_refused(source: str, target: str, bits: bytes) -> None:
    before = np.array([bits[0] > 127]) if source == "bool" else np.frombuffer(bits, NUMPY[source])[:1]
    try:
        after = convert(before, NUMPY[target])
    except CodecError:
        after = None
    if after is None:
        return
    with np.errstate(invalid="ignore"):  # signalling NaNs
        assert fair(before.real[0], after.real[0])
        if after.dtype.kind == "c":
            assert fair(before.imag[0] if before.dtype.kind == "c" else np.float64(0), after.imag[0])


def fair(item: Any, kept: Any) -> bool:
    """Whether `kept` is what may become of `item` in its dtype."""
    number, sent = exact(item), exact(kept)
    if not (isinstance(number, Fraction) and isinstance(sent, Fraction)):
        return str(number) == str(sent)
    if number == sent or kept.dtype.kind in "iub":
        return number == sent
    info = FINFO(kept.dtype)
    # A step at most, not half of one: ml_dtypes rounds twice, through float32.
    return bool(abs(number - sent) <= max(abs(number) * exact(info.eps), exact(info.smallest_subnormal)))


def exact(number: Any) -> Fraction | float:
    """The value without rounding, NaN and infinities as they are."""
    if isinstance(number, np.bool_ | np.integer):
        return Fraction(int(number))
    return Fraction(float(number)) if np.isfinite(number) else float(number)


@pytest.mark.parametrize("target", sorted(NUMPY))
def test_every_number_in_the_range_of_a_dtype_is_taken(target: str) -> None:
    dtype = NUMPY[target]
    if dtype.kind in "iu":
        ends = [np.iinfo(dtype).min, np.iinfo(dtype).max]
        assert convert(as_numpy(ends), dtype).tolist() == ends
    elif dtype.kind in "fV":
        top = float(FINFO(dtype).max)
        assert convert(np.array([top, 1.0]), dtype).astype(np.float64).tolist() == [top, 1.0]
