"""Rows of different lengths in one flat array.

What lives here: the RaggedArray that callers give and get. What must not: the wire (encoder.py, decoder.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .conversion import Array, convert, join
from .dlpack import to_numpy
from .errors import CodecError

_INT64 = np.dtype("<i8")


class RaggedArray(Sequence[Array]):
    """A list-like of rows: row i is values[offsets[i]:offsets[i + 1]], a view.

    `offsets` is int64 of shape (rows + 1), starts at 0, never decreases and ends at len(values); `values` has any dtype
    and at least one dimension. CodecError if the two do not fit together.
    """

    __slots__ = ("offsets", "values")

    def __init__(self, offsets: Any, values: Any) -> None:
        self.offsets: Array = convert(to_numpy(offsets), _INT64)
        self.values: Array = to_numpy(values)
        if self.values.ndim < 1:
            raise CodecError("ragged: values have no dimension, expected at least one")
        check_offsets("ragged", self.offsets, len(self.values))

    @classmethod
    def from_rows(cls, rows: Sequence[Any], dtype: Any = None) -> RaggedArray:
        """Copy `rows` (arrays or lists that differ in their first dimension only) into one array.

        `dtype`: what the values become; by default what holds them all. CodecError where it cannot hold one of them.
        """
        arrays, none = [to_numpy(row) for row in rows], np.zeros(0, dtype)
        if dtype is not None:
            arrays = [convert(array, none.dtype) for array in arrays]
        full = [array for array in arrays if len(array)]  # an empty list has no element type to speak of
        offsets = np.zeros(len(arrays) + 1, np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        return cls(offsets, join(full) if full else none)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        dtype: np.dtype[Any] = self.values.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, ...): the number of rows, then the dimensions of one item, as in tensor.fbs."""
        return (len(self), *self.values.shape[1:])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[Array]:
        bounds = self.offsets.tolist()
        return (self.values[start:end] for start, end in pairwise(bounds))

    def __repr__(self) -> str:
        return f"RaggedArray({len(self)} rows, {len(self.values)} items, {self.values.dtype})"

    def tolist(self) -> list[Any]:
        """Return the rows as lists."""
        return [row.tolist() for row in self]


def check_offsets(field: str, offsets: Array, total: int) -> None:
    """CodecError unless `offsets` is one-dimensional, starts at 0, never decreases and ends at `total`."""
    if offsets.ndim != 1 or not len(offsets):
        raise CodecError(f"{field}: offsets have shape {offsets.shape}, expected (rows + 1,)")
    if offsets[0] != 0 or offsets[-1] != total:
        raise CodecError(f"{field}: offsets go from {offsets[0]} to {offsets[-1]}, expected 0 to {total}")
    if (offsets[1:] < offsets[:-1]).any():
        raise CodecError(f"{field}: offsets decrease; row i ends where row i + 1 begins")
