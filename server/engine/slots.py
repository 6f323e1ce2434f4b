"""Where the rows of requests lie in memory: buckets, blocks and the slots in them.

What lives here: the forming batch slab that small bodies are copied into, the adoption of slabs that large bodies were
received into, and giving both back. What must not: order (queue.py), running anything, numpy operations per row.

A *bucket* is all calls of a model whose rows look alike (same shape apart from the batch axis): they can share a batch.
A *block* is one slab with room for `capacity` rows, one array per input. Small bodies are copied once, each into the
next free rows of its bucket's forming block; a large body that came in a slab of its own is a block that is full from
the start. What a model gets of it, a view or a copy, is inputs.py's affair.

A forming block whose rows are all done starts over at row 0. Each engine keeps at most one such idle block out of the
pool (1 MiB at most, unless one row is larger); `trim()` gives it back.
"""

from __future__ import annotations

from sys import getrefcount
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ...codec.limits import ALIGNMENT

if TYPE_CHECKING:
    from .api import Prepared, Request

__all__ = ["Block", "Bucket", "Field", "Pool", "Run", "SlabLike", "Slots", "runs_of"]

Array = np.ndarray[Any, Any]

FORMING_BYTES = 1 << 20
"""Bytes of a forming block at most, one row aside: a lone 64 KiB row must not take 64 KiB x max_batch of the pool."""
MAX_BUCKETS = 1024
"""Row shapes remembered per model, as many as call signatures are by default: a caller must not grow it without end."""


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
        """A view of all of it; back to the pool once the last view made from this one is dropped."""

    def leave(self, owners: list[Any]) -> None:
        """Back to the pool once none of these objects exists any more."""


class Pool(Protocol):
    """What slots need of a gpu.SlabPool."""

    def allocate(self, nbytes: int, /) -> SlabLike | None:
        """A slab of at least `nbytes`, None if there is no room."""


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
        """A view of the block that keeps its memory from being used again; None where others need it, too.

        For outputs that are the inputs: a reply then leaves from where its request came in, and holds the memory until
        its caller has read it.
        """
        slab, bucket = self.slab, self.bucket
        alone = bucket is not None and bucket.forming is not self
        if self._kept is None and slab is not None and alone and slab.plenty:
            self._kept = slab.lease()
            self.slab = None  # whoever drops the last view gives it back
        return self._kept


Run = tuple[Block, int, int]
"""Neighbouring rows of one block: (block, first row, rows)."""


def runs_of(requests: list[Request]) -> list[Run]:
    """The rows of these requests as runs of neighbours; one run means that the batch is a view."""
    runs: list[Run] = []
    block: Block | None = None
    start = end = 0
    for request in requests:
        if request.block is block and request.start == end:
            end += request.rows
            continue
        if block is not None:
            runs.append((block, start, end - start))
        block = request.block
        start = request.start
        end = start + request.rows
    if block is not None:
        runs.append((block, start, end - start))
    return runs


class Slots:
    """The blocks of one engine, on the side that owns the pool. `max_rows` caps the rows of a forming block."""

    def __init__(self, pool: Pool, max_rows: int) -> None:
        self._pool = pool
        self._max_rows = max_rows
        self._buckets: dict[tuple[tuple[int, ...], ...], Bucket] = {}
        self._idle: Block | None = None
        self._held = 0

    @property
    def in_use(self) -> int:
        """Bytes of blocks with rows that are not done."""
        idle = self._idle
        return self._held - (0 if idle is None or idle.live else len(idle.memory))

    def bucket(self, fields: tuple[Field, ...]) -> Bucket:
        """The bucket of these row shapes (names and dtypes are the model's, always the same).

        One that was forgotten for others lives on with the calls prepared for it; they batch among themselves.
        """
        key = tuple(field.row_shape for field in fields)
        found = self._buckets.get(key)
        if found is None:
            if len(self._buckets) >= MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            found = self._buckets[key] = Bucket(fields, self._max_rows)
        return found

    def place(self, prepared: Prepared, body: memoryview, request: Request) -> bool:
        """Copy `body` into slots of the forming block (or a block of its own). False: the pool is full."""
        bucket = prepared.bucket
        if bucket is None:
            return self._place_alone(prepared, body, request)
        block = bucket.forming
        rows = prepared.rows
        if block is None or block.used + rows > block.capacity:
            block = self._form(bucket, rows)
            if block is None:
                return False
        start = block.used
        views = block.views
        if len(views) == 1:
            size = prepared.body_length
            at = start * bucket.row_bytes
            views[0][at : at + size] = body
        else:
            for view, field, (offset, size) in zip(views, bucket.fields, prepared.parts, strict=True):
                at = start * field.row_bytes
                view[at : at + size] = body[offset : offset + size]
        block.used = start + rows
        block.live += rows
        request.start = start
        request.block = block
        return True

    def adopt(self, prepared: Prepared, slab: SlabLike, request: Request) -> None:
        """Take over a slab that holds the whole body of this request."""
        memory = slab.view[: prepared.body_length]
        offsets = tuple(offset for offset, _ in prepared.parts)
        self._occupy(Block(prepared.bucket, memory, prepared.rows, offsets, slab), prepared.rows, request)

    def release(self, block: Block, rows: int) -> None:
        """`rows` rows of the block are done with; the memory goes back when the last row is."""
        block.live -= rows
        if block.live:
            return
        bucket = block.bucket
        if bucket is None or bucket.forming is not block or block.left is not None:
            self._drop(block)  # it may still be noted as the idle one, from before it was full
            return
        block.used = 0
        previous, self._idle = self._idle, block
        if previous is not None and previous is not block and not previous.live:
            self._drop(previous)

    def trim(self) -> None:
        """Give the idle block back to the pool."""
        idle, self._idle = self._idle, None
        if idle is not None and not idle.live:
            self._drop(idle)

    def _place_alone(self, prepared: Prepared, body: memoryview, request: Request) -> bool:
        slab = self._pool.allocate(prepared.body_length)
        if slab is None:
            return False
        slab.view[: prepared.body_length] = body
        self.adopt(prepared, slab, request)
        return True

    def _occupy(self, block: Block, rows: int, request: Request) -> None:
        self._held += len(block.memory)
        block.used = block.live = rows
        request.start = 0
        request.block = block

    def _form(self, bucket: Bucket, rows: int) -> Block | None:
        """Begin a new forming block; when memory is short, one with room for this call alone."""
        for capacity in (max(rows, bucket.capacity), rows):
            offsets, nbytes = bucket.layout(capacity)
            slab = self._pool.allocate(nbytes)
            if slab is not None:
                break
            self.trim()
        else:
            return None
        self._held += nbytes
        block = Block(bucket, slab.view[:nbytes], capacity, offsets, slab)
        full, bucket.forming = bucket.forming, block
        if full is not None and not full.live:  # empty but too small for this call
            self._drop(full)
        return block

    def _drop(self, block: Block) -> None:
        bucket = block.bucket
        if bucket is not None and bucket.forming is block:
            bucket.forming = None
        if self._idle is block:
            self._idle = None
        self._free(block)

    def _free(self, block: Block) -> None:
        self._held -= len(block.memory)
        slab = block.slab
        if slab is None:
            return
        if block.left is None:
            slab.release()
        else:
            slab.leave(block.left)
