"""Inputs to try a model with before anybody calls it: ordinary ones of a fixed seed, loud ones, and what is no number.

What lives here: making such arrays, and what is left of two answers when one is taken from the other. What must not:
running a model, and any verdict about it (neighbours.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...codec import Kind, RaggedArray, dtype_by_name
from ...codec.limits import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...codec import TensorSpec

__all__ = ["LOUD", "Batch", "difference", "large", "loud", "not_finite", "ordinary", "small"]

Array = np.ndarray[Any, Any]

LOUD = 1000.0
"""How many times larger than its neighbour a loud row is."""
WORDS = np.array(["one", "two", "three", "four", "five", "six", "seven", "eight"], dtype=object)


def ordinary(tensor: TensorSpec, shape: Sequence[int], seed: int, below: int) -> Any:
    """Floats from 0 to 1, integers from 0 to `below` - 1 (token ids must be in the vocabulary), words; the same for the
    same seed. Never all zeros, which would hide what a row does to its neighbours, unless `below` is 1.
    """
    random = np.random.default_rng(seed)
    if tensor.kind is Kind.STRING:
        return WORDS[random.integers(0, len(WORDS), tuple(shape))]
    if tensor.kind is Kind.RAGGED:
        rows = shape[0]
        return RaggedArray(np.arange(rows + 1), _dense(tensor, (rows, *shape[2:]), random, below))
    return _dense(tensor, tuple(shape), random, below)


def loud(tensor: TensorSpec, shape: Sequence[int], seed: int, below: int) -> Array:
    """Return the same LOUD times over, where the dtype has such numbers; integers and bools are ordinary."""
    with np.errstate(all="ignore"):
        values: Array = ordinary(tensor, shape, seed, below)
        return values if values.dtype.kind in "biu" else (values * values.dtype.type(LOUD)).astype(values.dtype)


def not_finite(tensor: TensorSpec, shape: Sequence[int], seed: int, below: int) -> Array:
    """NaN and both infinities, where the dtype has them; integers and bools are ordinary."""
    values: Array = ordinary(tensor, shape, seed, below)
    if values.dtype.kind in "biu":
        return values
    with np.errstate(all="ignore"):
        return np.resize(np.array([np.nan, np.inf, -np.inf]), values.shape).astype(values.dtype)


def small(tensor: TensorSpec, shape: Sequence[int], seed: int, below: int) -> Array:
    """Integers 0 and 1 in turn, only 0 where `below` is less than 8, and False; floats are ordinary."""
    values: Array = ordinary(tensor, shape, seed, below)
    if values.dtype.kind in "biu":
        values[...] = np.resize([0, int(below >= 8 and values.dtype.kind != "b")], values.shape)
    return values


def large(tensor: TensorSpec, shape: Sequence[int], seed: int, below: int) -> Array:
    """Return the largest integers that the model is known to take (`below` - 1), of those of 8 bits the largest there
    is, and True; floats are ordinary. Wider ones may be ids and sizes.
    """
    values: Array = ordinary(tensor, shape, seed, below)
    if values.dtype.kind == "b":
        values[...] = True
    elif values.dtype.kind in "iu":
        values[...] = np.iinfo(values.dtype).max if values.dtype.itemsize == 1 else max(1, below) - 1
    return values


class Batch:
    """Inputs of `rows` rows at one place in memory, written anew for each run: the model may have changed them."""

    def __init__(self, tensors: Sequence[TensorSpec], shapes: Sequence[Sequence[int]], rows: int) -> None:
        self.arrays: dict[str, Array] = {}
        for tensor, shape in zip(tensors, shapes, strict=True):
            dtype = tensor.dtype.numpy or tensor.dtype.storage
            empty = np.empty((rows, *shape), dtype)
            raw = np.empty(empty.nbytes + ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            self.arrays[tensor.name] = raw[start : start + empty.nbytes].view(dtype).reshape(empty.shape)

    def of(self, values: dict[str, Array]) -> dict[str, Array]:
        """Return the model's inputs, holding `values` (as many rows as there are, or fewer)."""
        taken = {}
        for name, array in self.arrays.items():
            taken[name] = array[: len(values[name])]
            taken[name][...] = values[name]
        return taken


def difference(dtype: str, one: bytes, other: bytes) -> tuple[float, float]:
    """Return the largest difference between two answers of one dtype, and the largest finite value of the first.

    Infinite where only one of them is NaN or infinite. Equal bits are no difference.
    """
    if one == other:
        return 0.0, 0.0
    kind = dtype_by_name(dtype).numpy or dtype_by_name(dtype).storage
    with np.errstate(all="ignore"):
        a, b = (_wide(np.frombuffer(data, kind)) for data in (one, other))
        apart = np.abs(a - b)
        apart[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
        apart[np.isnan(apart)] = np.inf
        size = np.abs(a[np.isfinite(a)])
    return float(apart.max(initial=0.0)), float(size.max(initial=0.0))


def _dense(tensor: TensorSpec, shape: tuple[int, ...], random: np.random.Generator, below: int) -> Array:
    dtype = np.dtype(tensor.dtype.numpy or tensor.dtype.storage)
    if dtype.kind == "b":
        return np.asarray(random.integers(0, 2, shape)).astype(dtype)
    if dtype.kind in "iu":
        return np.asarray(random.integers(0, below, shape)).astype(dtype)
    return np.asarray(random.random(shape)).astype(dtype)


def _wide(array: Array) -> Array:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
