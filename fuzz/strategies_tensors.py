"""Hypothesis strategies for tensors, metadata and hostile metadata bytes; shared by tests/codec and the fuzz targets.

What lives here: generating and comparing. What must not: assertions about a particular module.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tensorwire.codec import DTYPES, FREE, DType, Kind, Metadata, RaggedArray, TensorSpec, encode_metadata

Array = np.ndarray[Any, Any]

MAX_ELEMENTS = 2048
"""Elements of one generated tensor: enough for several cache lines, little enough for thousands of examples."""

array_dtypes = st.sampled_from([dtype for dtype in DTYPES if dtype.numpy is not None])
all_dtypes = st.sampled_from(DTYPES)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda text: len(text.encode()) <= 48)
texts = st.text(st.characters(codec="utf-8"), max_size=9)


def shapes(min_dims: int = 0, max_dims: int = 8, max_side: int = 5) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of at most MAX_ELEMENTS elements, empty ones and all ranks included."""
    sides = st.lists(st.integers(0, max_side), min_size=min_dims, max_size=max_dims)
    return sides.map(tuple).filter(lambda shape: math.prod(shape) <= MAX_ELEMENTS)


@st.composite
def contiguous_arrays(draw: st.DrawFn, dtype: DType | None = None, shape: tuple[int, ...] | None = None) -> Array:
    """Arrays of any element type, any bits (NaN, signalling NaN, subnormals), in C order."""
    dtype = draw(array_dtypes) if dtype is None else dtype
    shape = draw(shapes()) if shape is None else shape
    seed = draw(st.integers(0, 1 << 32))
    raw = np.random.default_rng(seed).integers(0, 256, math.prod(shape) * dtype.itemsize, np.uint8)
    if dtype.name == "bool":
        raw &= 1
    assert dtype.numpy is not None
    return raw.view(dtype.numpy).reshape(shape)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays in every memory layout: C, Fortran, strided, reversed, broadcast, big-endian, read-only."""
    array = draw(contiguous_arrays())
    layout = draw(st.sampled_from(["C", "F", "strided", "reversed", "broadcast", "swapped", "read-only"]))
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided" and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if layout == "reversed" and array.ndim:
        return array[::-1]
    if layout == "broadcast" and array.ndim and array.shape[0]:
        return np.broadcast_to(array[:1], array.shape)
    if layout == "swapped" and array.dtype.kind in "iufc":
        return array.astype(array.dtype.newbyteorder(">"))
    if layout == "read-only":
        array.flags.writeable = False
    return array


@st.composite
def string_arrays(draw: st.DrawFn) -> Array:
    """Object arrays of str, any shape up to 64 elements."""
    shape = draw(shapes(max_dims=3).filter(lambda shape: math.prod(shape) <= 64))
    items = draw(st.lists(texts, min_size=math.prod(shape), max_size=math.prod(shape)))
    flat = np.empty(len(items), dtype=object)
    flat[:] = items
    return flat.reshape(shape)


@st.composite
def ragged_arrays(draw: st.DrawFn) -> RaggedArray:
    """Ragged arrays of any element type with zero to six rows and items of up to three dimensions."""
    lengths = draw(st.lists(st.integers(0, 5), max_size=6))
    item = draw(shapes(max_dims=3, max_side=3))
    values = draw(contiguous_arrays(shape=(sum(lengths), *item)))
    return RaggedArray(np.cumsum([0, *lengths]), values)


def messages(max_size: int = 5) -> st.SearchStrategy[dict[str, Any]]:
    """What a caller passes: tensors of every kind by name."""
    return st.dictionaries(names, arrays() | string_arrays() | ragged_arrays(), max_size=max_size)


@st.composite
def tensor_specs(draw: st.DrawFn, name: str | None = None) -> TensorSpec:
    """Any tensor that metadata can describe."""
    kind = draw(st.sampled_from(Kind))
    dtype = draw(all_dtypes) if kind is not Kind.STRING else next(dtype for dtype in DTYPES if dtype.name == "uint8")
    sides = st.just(FREE) | st.integers(0, 5) | st.integers(0, 1 << 48)
    shape = draw(st.lists(sides, min_size=int(kind is Kind.RAGGED), max_size=8))
    return TensorSpec(draw(names) if name is None else name, dtype, tuple(shape), kind)


@st.composite
def metadata(draw: st.DrawFn) -> Metadata:
    """Any valid metadata of up to six tensors."""
    tensors = draw(st.lists(tensor_specs(), max_size=6, unique_by=lambda spec: spec.name))
    return Metadata(draw(names), draw(st.just("") | names), tuple(tensors))


@st.composite
def mutated_metadata(draw: st.DrawFn) -> bytes:
    """Valid metadata bytes with a few bytes, words or the length changed: mostly invalid, sometimes not."""
    value = draw(metadata())
    raw = bytearray(encode_metadata(value.model, value.version, value.tensors))
    for _ in range(draw(st.integers(1, 4))):
        what = draw(st.sampled_from(["byte", "bit", "word", "short", "cut", "insert", "copy"]))
        at = draw(st.integers(0, max(len(raw) - 4, 0)))
        if len(raw) < 8:
            break
        if what == "byte":
            raw[at] = draw(st.integers(0, 255))
        elif what == "bit":
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "word":
            word = draw(st.sampled_from([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(raw)]) | st.integers(0, 96))
            struct.pack_into("<I", raw, at & ~3, word)
        elif what == "short":
            struct.pack_into("<H", raw, at & ~1, draw(st.sampled_from([0, 2, 4, 6, 0xFFFF]) | st.integers(0, 64)))
        elif what == "cut":
            del raw[at:]
        elif what == "insert":
            raw[at:at] = draw(st.binary(max_size=8))
        else:
            source = draw(st.integers(0, len(raw) - 4)) & ~3
            raw[at & ~3 : (at & ~3) + 4] = raw[source : source + 4]
    return bytes(raw)


def same_bits(left: Array, right: Array) -> bool:
    """Equal shape, element type (in any byte order) and bits; NaN equals itself."""
    little = left.dtype.newbyteorder("<")
    return (
        left.shape == right.shape
        and little == right.dtype.newbyteorder("<")
        and left.astype(little).tobytes() == right.astype(little).tobytes()
    )


def same_tensor(sent: Any, got: Any) -> bool:
    """Is `got` what a round trip must make of `sent`?"""
    if isinstance(sent, RaggedArray):
        return bool((sent.offsets == got.offsets).all()) and same_bits(sent.values, got.values)
    if sent.dtype == object:
        return bool(sent.shape == got.shape and sent.tolist() == got.tolist())
    return same_bits(sent, got)
