"""Lists and other libraries' arrays -> numpy arrays of the same values, where numpy itself would let some go.

What lives here: the conversions that numpy makes without a word (masks forgotten, integers rounded, numbers that become
infinite), done or refused. What must not: the wire, and any other library by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import CodecError

Array = np.ndarray[Any, Any]

LARGEST_EXACT = 2.0**53
"""Every integer up to here has a float64 of its own."""


def as_numpy(value: Any) -> Array:
    """Read `value` as numpy does. CodecError where it is no array, has a mask, or integers in it would be rounded."""
    refuse_masked(value)
    try:
        array: Array = np.asarray(value)
        return _not_rounded(value, array) if isinstance(value, list | tuple) and array.dtype.kind in "fc" else array
    except CodecError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever another library's __array__ raises is a refusal
        if "inhomogeneous" in str(error):
            raise CodecError("nested lists of different lengths; pass a RaggedArray.from_rows(rows)") from None
        raise CodecError(f"{type(value).__name__} is no array: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """Return what another library's error says, without its explanations of many lines."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def refuse_masked(value: Any) -> None:
    """Raise CodecError where `value`, or what a list of any depth holds, has a mask: numpy would send it all."""
    if isinstance(value, np.ma.MaskedArray):
        raise CodecError("masked arrays have no wire form; pass .filled(...) or data and mask as two tensors")
    if isinstance(value, list | tuple):
        kinds = set(map(type, value))
        if not kinds.isdisjoint((list, tuple)) or any(issubclass(kind, np.ma.MaskedArray) for kind in kinds):
            for item in value:
                refuse_masked(item)


def join(arrays: list[Array]) -> Array:
    """Join `arrays` in a dtype for all of them. CodecError where integers would be rounded for that."""
    dtype = np.result_type(*arrays)
    if dtype.kind in "fc":
        for array in arrays:
            if array.dtype.kind in "iu" and (np.abs(array.astype(np.float64)) >= LARGEST_EXACT).any():
                raise CodecError(f"{dtype.name} cannot hold integers of 2**53 and more; give all rows one dtype")
    return np.concatenate(arrays)


def convert(array: Array, dtype: np.dtype[Any]) -> Array:
    """Return `array` as `dtype`: numbers may be rounded to the nearest of a narrower float; nothing else may change.

    CodecError names the first value that `dtype` cannot hold: a fraction or a number out of range for integers, one
    that would become infinite or NaN for floats. It also refuses what holds no numbers, and complex for real ones.
    """
    if array.dtype == dtype:
        return array
    if not _numeric(array.dtype) or (array.dtype.kind == "c" and dtype.kind != "c"):
        raise CodecError(f"{array.dtype} does not become {dtype.name}; convert it with .astype()")
    with np.errstate(all="ignore"):
        if not issubclass(array.dtype.type, np.number | np.bool_):  # ml_dtypes' kinds do not become one another
            array = array.astype(np.float64)
        cast = array.astype(dtype)
        lost = _lost(array, cast)
        if lost.any():
            raise CodecError(f"{dtype.name} cannot hold {array[lost].flat[0]}")
    return cast


def _numeric(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biufc" or (dtype.kind == "V" and dtype.type is not np.void)


def _lost(array: Array, cast: Array) -> Array:
    """Tell where `cast` is not what `array` was."""
    lost: Array
    if cast.dtype.kind == "c":
        return _lost(array.real, cast.real) | _lost(array.imag, cast.imag)
    if cast.dtype.kind in "iub":
        lost = cast != array
        if array.dtype.kind == "f" and cast.dtype.kind != "b":
            # One above the largest integer is a float, which some processors turn into the largest.
            lost = lost | (array.astype(np.float64) >= float(int(np.iinfo(cast.dtype).max) + 1))
        return lost
    lost = (np.isfinite(array) != np.isfinite(cast)) | (np.isnan(array) != np.isnan(cast))
    return lost


def _not_rounded(value: Any, array: Array) -> Array:
    """Return `array`, made of `value` as floats, where that has changed no integer; else as uint64 if it can."""
    if not (np.abs(array) >= LARGEST_EXACT).any():
        return array
    items = np.array(value, dtype=object)
    if items.shape != array.shape:
        return array
    pairs = list(zip(items.reshape(-1).tolist(), array.reshape(-1).tolist(), strict=True))
    rounded = [item for item, number in pairs if isinstance(item, int | np.integer) and int(item) != number]
    if not rounded:
        return array
    if all(isinstance(item, int) and 0 <= item < 1 << 64 for item, _ in pairs):
        return items.astype(np.uint64)
    raise CodecError(f"{array.dtype} cannot hold {rounded[0]} beside the other numbers; pass an array of one dtype")
