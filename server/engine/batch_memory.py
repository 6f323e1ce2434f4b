"""Where the rows of requests lie in memory: their places in blocks (blocks.py).

What lives here: the forming batch slab that small bodies are copied into, the adoption of slabs that large bodies were
received into, and giving both back. What must not: order (queue.py), running anything, numpy operations per row.

Small bodies are copied once, each into the next free rows of the forming block of their bucket; a large body that came
in a slab of its own is a full block from the start. What a model gets of it, a view or a copy, is inputs.py's affair.

A forming block whose rows are all done starts over at row 0. Each engine keeps at most one such idle block out of the
pool (1 MiB at most, unless one row is larger); `trim()` gives it back.
"""

from __future__ import annotations

from .blocks import Block, Bucket, Field, Pool, SlabLike
from .types import Prepared, Request

__all__ = ["BatchMemory", "Run", "runs_of"]

MAX_BUCKETS = 1024
"""Row shapes remembered per model, as many as call signatures are by default: a caller must not grow it without end."""

Run = tuple[Block, int, int]
"""Neighbouring rows of one block: (block, first row, rows)."""


def runs_of(requests: list[Request]) -> list[Run]:
    """Return the rows of these requests as runs of neighbours; one run means that the batch is a view."""
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


class BatchMemory:
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
        """Return the bucket of these row shapes (names and dtypes are the model's, always the same).

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
