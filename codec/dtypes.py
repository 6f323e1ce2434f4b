"""Element types: DLPack's (code, bits, lanes) on the wire, numpy's dtypes in memory, one closed table between them.

What lives here: the table and its look-ups. What must not: np.dtype() of anything a peer sent. A triple that is not in
the table does not exist. ml_dtypes is imported when the first of its kinds is met: most processes meet none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CodecError, shown


class TypeCode(IntEnum):
    """DLPack's type codes, by number (tensor.fbs, TypeCode)."""

    INT = 0
    UINT = 1
    FLOAT = 2
    BFLOAT = 4
    COMPLEX = 5
    BOOL = 6
    FLOAT8_E3M4 = 7
    FLOAT8_E4M3 = 8
    FLOAT8_E4M3B11FNUZ = 9
    FLOAT8_E4M3FN = 10
    FLOAT8_E4M3FNUZ = 11
    FLOAT8_E5M2 = 12
    FLOAT8_E5M2FNUZ = 13
    FLOAT8_E8M0FNU = 14


class DType:
    """One element type. Instances are singletons of the table: compare with `is` or ==.

    `numpy` is the dtype arrays of it have, None where ml_dtypes is not installed (or too old) for this kind;
    `storage` is always there: a plain numpy dtype of the same width that holds the bits.
    """

    __slots__ = ("bits", "code", "itemsize", "lanes", "name", "numpy", "storage")

    numpy: np.dtype[Any] | None

    def __init__(self, name: str, code: TypeCode, bits: int, storage: np.dtype[Any]) -> None:
        self.name = name
        self.code = int(code)
        self.bits = bits
        self.lanes = 1
        self.itemsize = storage.itemsize
        self.storage = storage

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Reached once per kind of ml_dtypes, whose `numpy` is not set yet.
            if name != "numpy":
                raise AttributeError(f"DType has no attribute {name!r}")
            _load_ml_dtypes()
            return self.numpy

    @property
    def triple(self) -> tuple[int, int, int]:
        """DLPack's (code, bits, lanes)."""
        return self.code, self.bits, self.lanes

    def __repr__(self) -> str:
        return f"DType({self.name})"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return dtype_by_name, (self.name,)


# numpy's own kinds: (name, code). The width is in the name of the numpy dtype; bool is 8 bits in DLPack too.
_NUMPY: tuple[tuple[str, TypeCode], ...] = (
    ("bool", TypeCode.BOOL),
    ("int8", TypeCode.INT),
    ("int16", TypeCode.INT),
    ("int32", TypeCode.INT),
    ("int64", TypeCode.INT),
    ("uint8", TypeCode.UINT),
    ("uint16", TypeCode.UINT),
    ("uint32", TypeCode.UINT),
    ("uint64", TypeCode.UINT),
    ("float16", TypeCode.FLOAT),
    ("float32", TypeCode.FLOAT),
    ("float64", TypeCode.FLOAT),
    ("complex64", TypeCode.COMPLEX),
    ("complex128", TypeCode.COMPLEX),
)

# Kinds of the package ml_dtypes: (name there and here, code, bits).
_ML_DTYPES: tuple[tuple[str, TypeCode, int], ...] = (
    ("bfloat16", TypeCode.BFLOAT, 16),
    ("float8_e3m4", TypeCode.FLOAT8_E3M4, 8),
    ("float8_e4m3", TypeCode.FLOAT8_E4M3, 8),
    ("float8_e4m3b11fnuz", TypeCode.FLOAT8_E4M3B11FNUZ, 8),
    ("float8_e4m3fn", TypeCode.FLOAT8_E4M3FN, 8),
    ("float8_e4m3fnuz", TypeCode.FLOAT8_E4M3FNUZ, 8),
    ("float8_e5m2", TypeCode.FLOAT8_E5M2, 8),
    ("float8_e5m2fnuz", TypeCode.FLOAT8_E5M2FNUZ, 8),
    ("float8_e8m0fnu", TypeCode.FLOAT8_E8M0FNU, 8),
)


def _import_ml_dtypes() -> ModuleType | None:
    try:
        return importlib.import_module("ml_dtypes")
    except ImportError:
        return None


def _build_table() -> list[DType]:
    table = []
    for name, code in _NUMPY:
        # Little-endian on the wire; on a big-endian host these are not native and numpy converts on use.
        plain = np.dtype(name).newbyteorder("<")
        dtype = DType(name, code, plain.itemsize * 8, plain)
        dtype.numpy = plain
        table.append(dtype)
    for name, code, bits in _ML_DTYPES:
        table.append(DType(name, code, bits, np.dtype(f"uint{bits}").newbyteorder("<")))
    return table


def _load_ml_dtypes() -> None:
    """Give the kinds of ml_dtypes their numpy dtypes, None where the package does not have them. May be repeated."""
    ml_dtypes = _import_ml_dtypes()
    for name, _, _ in _ML_DTYPES:
        scalar = getattr(ml_dtypes, name, None)
        dtype = _BY_NAME[name]
        dtype.numpy = None if scalar is None else np.dtype(scalar)
        if dtype.numpy is not None:
            _BY_NUMPY[dtype.numpy] = dtype


DTYPES: tuple[DType, ...] = tuple(_build_table())
"""Every element type of version 1, numpy's first."""

_BY_NAME: dict[str, DType] = {dtype.name: dtype for dtype in DTYPES}
_BY_TRIPLE: dict[tuple[int, int, int], DType] = {dtype.triple: dtype for dtype in DTYPES}
# numpy dtypes hash by value, and byte orders differ in value: a big-endian dtype is not found here.
_BY_NUMPY: dict[np.dtype[Any], DType] = {_BY_NAME[name].storage: _BY_NAME[name] for name, _ in _NUMPY}

UINT8 = _BY_NAME["uint8"]
INT64 = _BY_NAME["int64"]


def dtype_by_name(name: str) -> DType:
    """Return the element type called `name` ("float32", "bfloat16", ...). CodecError with the nearest name if none."""
    found = _BY_NAME.get(name)
    if found is None:
        import difflib

        near = difflib.get_close_matches(name[:64], _BY_NAME, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; one of {', '.join(_BY_NAME)}"
        raise CodecError(f"dtype: unknown element type {shown(name)}{hint}")
    return found


def dtype_by_triple(code: int, bits: int, lanes: int) -> DType:
    """Return the element type of DLPack's (code, bits, lanes). CodecError if the table has no such triple."""
    found = _BY_TRIPLE.get((code, bits, lanes))
    if found is None:
        raise CodecError(f"dtype: ({code}, {bits}, {lanes}) is no (code, bits, lanes) of this protocol; see tensor.fbs")
    return found


find_numpy: Callable[[np.dtype[Any]], DType | None] = _BY_NUMPY.get
"""The element type of a little-endian numpy dtype, None if none is known yet: the look-up of the hot path."""


def dtype_by_numpy(dtype: np.dtype[Any]) -> DType:
    """Return the element type of a little-endian numpy dtype. CodecError says what to do about any other."""
    found = _BY_NUMPY.get(dtype)
    if found is None:
        _load_ml_dtypes()
        found = _BY_NUMPY.get(dtype)
    if found is None:
        known = ", ".join(_BY_NAME)
        raise CodecError(f"dtype: numpy's {dtype!s} cannot be sent; convert it with .astype() to one of {known}")
    return found


def dtype_of(array: np.ndarray[Any, Any]) -> DType:
    """Return the element type of `array`, in any byte order. CodecError for objects, dates and structs."""
    return dtype_by_numpy(array.dtype.newbyteorder("<"))
