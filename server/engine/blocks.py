"""Buckets and blocks: which calls may share a batch, and the memory in which their rows lie.

What lives here: plain objects over memory. What must not: requests, whose rows they are (batch_memory.py).

A *bucket* is all calls of a model whose rows look alike (same shape apart from the batch axis): they can share a batch.
A *block* is one slab with room for `capacity` rows, one array per input.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any, Protocol

import numpy as np

from ...codec.limits import ALIGNMENT

__all__ = ["FORMING_BYTES", "Block", "Bucket", "Field", "Pool", "SlabLike"]

Array = np.ndarray[Any, Any]

FORMING_BYTES = 1 << 20
"""Bytes of a forming block at most, one row aside: a lone 64 KiB row must not take 64 KiB x max_batch of the pool."""


class SlabLike(Protocol):
    """What slots need of a gpu.Slab."""

    view: memoryview
    nbytes: int

    @property
    def plenty(self) -> bool:
        """Whether the pool has room enough to hold this one longer than must be."""

    def release(self) -> None:
        """Back to the pool."""

    def lease(self) -> memoryview:
        """Return a view of all of it; back to the pool once the last view made from this one is dropped."""

    def leave(self, owners: list[Any]) -> None:
        """Back to the pool once none of these objects exists any more."""


class Pool(Protocol):
    """What slots need of a gpu.SlabPool."""

    def allocate(self, nbytes: int, /) -> SlabLike | None:
        """Return a slab of at least `nbytes`, None if there is no room."""


class Field:
    """One input as a bucket sees it: `row_shape` and `row_bytes` leave out the batch axis."""

    __slots__ = ("dtype", "name", "row_bytes", "row_shape")

    def __init__(self, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.name = name
        self.dtype = dtype
        self.row_shape = row_shape
        self.row_bytes = dtype.itemsize
        for size in row_shape:
            self.row_bytes *= size


class Bucket:
    """Calls whose rows look alike. `capacity` is the rows of a forming block, `forming` the block being filled."""

    __slots__ = ("capacity", "fields", "forming", "row_bytes")

    def __init__(self, fields: tuple[Field, ...], max_rows: int) -> None:
        self.fields = fields
        self.row_bytes = sum(field.row_bytes for field in fields)
        self.capacity = max(1, min(max_rows, FORMING_BYTES // max(1, self.row_bytes)))
        self.forming: Block | None = None

    def layout(self, rows: int) -> tuple[tuple[int, ...], int]:
        """(offset of each input, bytes in all) of a block with `rows` rows."""
        offsets = []
        end = 0
        for field in self.fields:
            end = -(-end // ALIGNMENT) * ALIGNMENT
            offsets.append(end)
            end += field.row_bytes * rows
        return tuple(offsets), end


class Block:
    """`capacity` rows of one bucket in one piece of memory, or one whole body that runs alone (bucket None).

    `offsets` are where each input's array starts in `memory`. `used` rows are taken, `live` of them not yet done.
    `left` is set when a model has kept its memory: what has to be gone before that may be used again.
    """

    __slots__ = (
        "_flat",
        "_kept",
        "_own",
        "arrays",
        "bucket",
        "capacity",
        "left",
        "live",
        "memory",
        "offsets",
        "slab",
        "used",
        "views",
    )  # fmt: skip

    def __init__(
        self, bucket: Bucket | None, memory: memoryview, capacity: int, offsets: tuple[int, ...], slab: SlabLike | None
    ) -> None:
        self.bucket = bucket
        self.memory = memory
        self.capacity = capacity
        self.offsets = offsets
        self.slab = slab
        self.used = 0
        self.live = 0
        self.left: list[Any] | None = None
        self.views: list[memoryview] = []
        self.arrays: list[tuple[str, Array]] | None = None  # see named_arrays
        self._flat: Array | None = None
        self._own = 0  # what getrefcount says of it where nobody else has it
        self._kept: memoryview | None = None
        if bucket is not None:
            for field, offset in zip(bucket.fields, offsets, strict=True):
                self.views.append(memory[offset : offset + capacity * field.row_bytes])

    @property
    def named_arrays(self) -> list[tuple[str, Array]]:
        """(name, array of shape (capacity, *row_shape)) of each input, writable, over the block's own memory.

        The base of any array made of these is `flat`.
        """
        if self.arrays is None:
            fields = () if self.bucket is None else self.bucket.fields
            flat = self.flat
            self.arrays = [
                (field.name, np.ndarray((self.capacity, *field.row_shape), field.dtype, flat, offset))
                for field, offset in zip(fields, self.offsets, strict=True)
            ]
            self._own += len(self.arrays)  # whose base it is
        return self.arrays

    @property
    def flat(self) -> Array:
        """All bytes of the block, to tell whether an array lies in it."""
        if self._flat is None:
            self._flat = np.frombuffer(self.memory, np.uint8)
            self._own = getrefcount(self._flat)
        return self._flat

    def is_ours(self) -> bool:
        """Whether nothing but the block itself refers to `flat`, and so to its memory (see ownership.py).

        Weak references are not counted: those to what a model was given end with it, and nobody is given `flat`.
        """
        return getrefcount(self._flat) == self._own

    def keep(self) -> memoryview | None:
        """Return a view of the block that keeps its memory from being used again; None where others need it, too.

        For outputs that are the inputs: a reply then leaves from where its request came in, and holds the memory until
        its caller has read it.
        """
        slab, bucket = self.slab, self.bucket
        alone = bucket is not None and bucket.forming is not self
        if self._kept is None and slab is not None and alone and slab.plenty:
            self._kept = slab.lease()
            self.slab = None  # whoever drops the last view gives it back
        return self._kept
