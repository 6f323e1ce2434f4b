"""What a caller may pass as a tensor -> one element type, shape, kind and the memory that goes on the wire.

What lives here: every accepted form (numpy, DLPack, buffers, Python numbers, lists and strings, RaggedArray), and the
refusals. What must not: copies of arrays that are already as the wire wants them (little-endian, C order).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .conversion import Array, as_numpy, refuse_masked
from .dlpack import from_dlpack
from .dtypes import UINT8, DType, dtype_of, find_numpy
from .errors import CodecError, shown
from .limits import MAX_DIMS
from .metadata import Kind
from .ragged import RaggedArray

_UINT8 = np.dtype(np.uint8)


class Adapted:
    """One tensor ready to be sent: `sizes` are its dims (shape, then items), `buffers` its one or two byte views."""

    __slots__ = ("buffers", "dtype", "kind", "ndim", "sizes")

    def __init__(
        self, dtype: DType, kind: Kind, ndim: int, sizes: tuple[int, ...], buffers: tuple[memoryview, ...]
    ) -> None:
        self.dtype = dtype
        self.kind = kind
        self.ndim = ndim
        self.sizes = sizes
        self.buffers = buffers


def adapt(name: str, value: Any) -> Adapted:
    """Take `value` as the tensor `name`. CodecError says what cannot be sent and what to pass instead."""
    try:
        if type(value) is np.ndarray:  # most tensors: a plain array as the wire wants it
            dtype = find_numpy(value.dtype)
            if dtype is not None and value.flags.c_contiguous and value.size and value.ndim <= MAX_DIMS:
                return Adapted(dtype, Kind.DENSE, value.ndim, value.shape, (value.reshape(-1).view(_UINT8).data,))
        elif isinstance(value, RaggedArray):
            return _ragged(value)
        dtype, array = _as_array(value)
        if array.ndim > MAX_DIMS:
            raise CodecError(f"array has {array.ndim} dimensions, at most {MAX_DIMS} are allowed")
        if dtype is None:
            return _strings(array)
        return Adapted(dtype, Kind.DENSE, array.ndim, array.shape, (flat_bytes(array),))
    except CodecError as error:
        raise CodecError(f"{shown(name)}: {error}") from None


def flat_bytes(array: Array) -> memoryview:
    """Return the memory of `array` as the wire wants it; copied only if not little-endian and in C order already."""
    little = array.dtype.newbyteorder("<")
    if array.dtype != little:
        array = array.astype(little, order="C")
    elif not array.flags.c_contiguous:
        array = array.copy(order="C")
    if not array.size:
        return memoryview(b"")
    # uint8 because complex and ml_dtypes kinds do not speak the buffer protocol.
    return array.reshape(-1).view(_UINT8).data


def _as_array(value: Any) -> tuple[DType | None, Array]:
    """Return (element type, array); no element type for an array of str."""
    if not isinstance(value, np.ndarray | np.generic):
        if hasattr(value, "__dlpack__"):
            return from_dlpack(value)
        value = _from_python(value)
    refuse_masked(value)
    array: Array = np.asarray(value)
    if array.dtype.kind in "OUT":
        return None, array
    if array.dtype.kind == "S":
        raise CodecError("arrays of bytes have no wire form; decode them to str, or send uint8")
    return dtype_of(array), array


def _from_python(value: Any) -> Any:
    if isinstance(value, str):
        return np.array(value, dtype=object)
    if isinstance(value, bytes | bytearray | memoryview):
        return as_numpy(memoryview(value))
    array = as_numpy(value)
    # numpy cuts zero characters off the end of str; as objects they stay whole. It also turns a mix of numbers and
    # str into str, which the object array shows.
    return np.array(value, dtype=object) if array.dtype.kind in "UT" else array


def _strings(array: Array) -> Adapted:
    texts = array.reshape(-1).tolist()
    for text in texts:
        if not isinstance(text, str):
            raise CodecError(
                f"an array of Python objects holds {type(text).__name__}, expected str only; "
                "give numbers a numeric dtype, or rows of different lengths as a RaggedArray"
            )
    try:
        parts = [text.encode() for text in texts]
    except UnicodeEncodeError:
        raise CodecError("a string holds a lone surrogate and has no UTF-8 form") from None
    blob = b"".join(parts)
    buffers = (_offset_bytes(map(len, parts), len(parts)), memoryview(blob))
    return Adapted(UINT8, Kind.STRING, array.ndim, (*array.shape, len(blob)), buffers)


def _offset_bytes(lengths: Iterable[int], count: int) -> memoryview:
    offsets = np.zeros(count + 1, "<i8")
    np.cumsum(np.fromiter(lengths, "<i8", count), out=offsets[1:])
    return flat_bytes(offsets)


def _ragged(value: RaggedArray) -> Adapted:
    if value.values.ndim > MAX_DIMS:
        raise CodecError(f"rows have {value.values.ndim} dimensions, at most {MAX_DIMS} are allowed")
    dtype, sizes = dtype_of(value.values), (*value.shape, len(value.values))
    buffers = (flat_bytes(value.offsets), flat_bytes(value.values))
    return Adapted(dtype, Kind.RAGGED, len(sizes) - 1, sizes, buffers)
