"""Where each tensor lies in a body: metadata + dims -> sizes and offsets (tensor.fbs, "Body layout" and "Dims").

What lives here: shape arithmetic, which cannot overflow (Python integers, every one capped) and the 64-byte places.
What must not: tensor bytes. A Resolved depends on nothing but (metadata, dims): cache it under the two.
"""

from __future__ import annotations

import math
import struct

from .dtypes import DType
from .errors import CodecError, shown
from .limits import ALIGNMENT, MAX_BODY_BYTES, MAX_DIM
from .metadata import FREE, Kind, Metadata, describe_tensor

_OFFSET_BYTES = 8


class Placed:
    """One tensor of one message: every size known.

    DENSE: `offset`, `nbytes` are its buffer. STRING and RAGGED: `offset`, `nbytes` are the int64 offsets,
    `data_offset`, `data_nbytes` the blob or the values, and `items` is the length of their first axis. An empty buffer
    has offset 0.
    """

    __slots__ = ("data_nbytes", "data_offset", "dtype", "items", "kind", "name", "nbytes", "offset", "shape")

    def __init__(self, name: str, dtype: DType, kind: Kind, shape: tuple[int, ...], items: int) -> None:
        self.name = name
        self.dtype = dtype
        self.kind = kind
        self.shape = shape
        self.items = items
        self.offset = 0
        self.nbytes = 0
        self.data_offset = 0
        self.data_nbytes = 0

    def __str__(self) -> str:
        return describe_tensor(self.dtype, self.shape, self.kind)

    def __repr__(self) -> str:
        return f"Placed({self.name!r}, {self}, offset={self.offset}, nbytes={self.nbytes})"


class Resolved:
    """All tensors of one message with their places, and the exact length of its body in bytes.

    `gaps` are the padding ranges (start, end) between buffers. `unchecked` is True if the body holds bytes that have
    rules of their own (padding, bools, string and ragged offsets): see decoder.check_body.
    """

    __slots__ = ("body_length", "gaps", "model", "tensors", "unchecked", "version")

    def __init__(
        self, model: str, version: str, tensors: tuple[Placed, ...], body_length: int, gaps: tuple[tuple[int, int], ...]
    ) -> None:
        self.model = model
        self.version = version
        self.tensors = tensors
        self.body_length = body_length
        self.gaps = gaps
        self.unchecked = bool(gaps) or any(t.kind is not Kind.DENSE or t.dtype.name == "bool" for t in tensors)


def count_dims(metadata: Metadata) -> int:
    """Count the u64 that the dims of this metadata hold."""
    return sum(spec.shape.count(FREE) + (spec.kind is not Kind.DENSE) for spec in metadata.tensors)


def resolve(metadata: Metadata, dims: bytes) -> Resolved:
    """Place every tensor. `dims` is the DIMS item's raw value. CodecError on a wrong count or a size over a cap."""
    expected = count_dims(metadata)
    if len(dims) != 8 * expected:  # guard: shape-sizes
        raise CodecError(f"dims: {len(dims)} bytes, expected {8 * expected} for {expected} free sizes")
    sizes = iter(struct.unpack(f"<{expected}Q", dims))
    placer = _Placer()
    tensors = []
    for spec in metadata.tensors:
        shape = tuple(next(sizes) if size == FREE else size for size in spec.shape)
        placed = Placed(spec.name, spec.dtype, spec.kind, shape, 0 if spec.kind is Kind.DENSE else next(sizes))
        _place(placer, placed)
        tensors.append(placed)
    return Resolved(metadata.model, metadata.version, tuple(tensors), placer.end, tuple(placer.gaps))


def _place(placer: _Placer, placed: Placed) -> None:
    for size in (*placed.shape, placed.items):
        if size > MAX_DIM:  # guard: shape-size
            raise CodecError(f"{shown(placed.name)}: dimension {size}, at most {MAX_DIM} is allowed")
    itemsize = placed.dtype.itemsize
    if placed.kind is Kind.DENSE:
        placed.offset, placed.nbytes = placer.add(_size(placed, placed.shape, itemsize))
        return
    text = placed.kind is Kind.STRING
    rows = _size(placed, placed.shape if text else placed.shape[:1], 1)
    placed.offset, placed.nbytes = placer.add((rows + 1) * _OFFSET_BYTES)
    data = (placed.items,) if text else (placed.items, *placed.shape[1:])
    placed.data_offset, placed.data_nbytes = placer.add(_size(placed, data, itemsize))


def _size(placed: Placed, shape: tuple[int, ...], itemsize: int) -> int:
    """Count bytes of `shape`. numpy refuses empty arrays whose other dimensions overflow: the cap leaves out the 0."""
    if math.prod(filter(None, shape)) * itemsize > MAX_BODY_BYTES:  # guard: shape-product
        raise CodecError(f"{shown(placed.name)}: {placed} is larger than {MAX_BODY_BYTES} bytes")
    return math.prod(shape) * itemsize


class _Placer:
    """Gives out places in the body, in order."""

    __slots__ = ("end", "gaps")

    def __init__(self) -> None:
        self.end = 0
        self.gaps: list[tuple[int, int]] = []

    def add(self, nbytes: int) -> tuple[int, int]:
        """Return (offset, nbytes) of the next buffer. An empty one takes no place."""
        if not nbytes:
            return 0, 0
        start = -(-self.end // ALIGNMENT) * ALIGNMENT
        if start != self.end:
            self.gaps.append((self.end, start))
        self.end = start + nbytes
        if self.end > MAX_BODY_BYTES:
            raise CodecError(f"body: {self.end} bytes or more, at most {MAX_BODY_BYTES} are allowed")
        return start, nbytes
