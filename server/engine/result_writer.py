"""What an engine process tells its front: results laid into shared memory, and the records that say where.

What lives here: result slabs, layouts of outputs, failures. What must not: requests, running, when to end
(process_main.py).
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import msgpack

from ...protocol import Status
from .api import BatchResult, Failure, OutputSignature, Request
from .records import ENCODED, KEPT, RESULT, SHORT, SIGNATURE, output_places

if TYPE_CHECKING:
    from ...gpu import Slab, SlabPool
    from .control import Channel
    from .ring import Ring

__all__ = ["ResultWriter"]

#: BatchMemory in one failure message; keeps it far below the channel's limit.
SLOTS_PER_MESSAGE: Final = 8192
#: Output layouts remembered. A model whose output shapes never repeat costs a message per batch, not memory.
MAX_SIGNATURES: Final = 1024


class ResultWriter:
    """`pool` is for results. `wait()` returns when the front has said something (it may have given memory back),
    `stand_by()` after a moment; both end the process when the front is gone.
    """

    def __init__(
        self,
        pool: SlabPool,
        ring: Ring,
        channel: Channel,
        wait: Callable[[], object],
        stand_by: Callable[[], object],
    ) -> None:
        self._pool = pool
        self._ring = ring
        self._channel = channel
        self._wait = wait
        self._stand_by = stand_by
        self._signatures: dict[OutputSignature, int] = {}
        self._slabs: dict[int, Slab] = {}

    def flush(self) -> None:
        """Announce everything said since the last time, with one system call."""
        self._ring.publish()

    def released(self, offset: int) -> None:
        """Take back the memory of a result whose last view the front has dropped."""
        self._slabs.pop(offset).release()

    def lay_out(self, outcome: list[BatchResult | Failure]) -> None:
        """Put what came of batches where the front finds it; it learns of it at `flush()`."""
        for each in outcome:
            if isinstance(each, Failure):
                self._publish_failure(each)
            elif each.encoded is not None:
                self._publish_encoded(each)
            else:
                self._publish_batch(each)

    def _publish_batch(self, result: BatchResult) -> None:
        """In one slab, or, if that is more than can be had, call by call in as few as a quarter of the memory allows:
        what the callers of one have read makes room for the next.
        """
        nbytes = output_places(len(result.requests), result.batch_rows, result.signature)[1]
        if nbytes <= self._pool.largest:
            self._publish_whole(result)
            return
        for piece in _pieces(result, self._pool.largest // 4):
            self._publish_whole(piece)

    def _publish_whole(self, result: BatchResult) -> None:
        signature = result.signature
        number = self._signatures.get(signature)
        if number is None:
            number = self._introduce(signature)
        slots = [request.slot for request in result.requests]
        places, nbytes = output_places(len(slots), result.batch_rows, signature)
        slab = self._allocate(nbytes, result)
        if slab is None:
            return
        view = slab.view
        view[: 4 * len(slots)] = array("I", slots).tobytes()
        for (start, size), data in zip(places, result.outputs, strict=True):
            view[start : start + size] = data
        self._say_result(RESULT, result, slab, number, len(slots), nbytes)

    def _publish_encoded(self, result: BatchResult) -> None:
        encoded = result.encoded
        if encoded is None:
            return
        meta, dims, nbytes = encoded.meta, encoded.dims, encoded.body_length
        slab = self._allocate(64 + nbytes + len(meta) + len(dims), result)
        if slab is None:
            return
        view = slab.view
        view[:4] = result.requests[0].slot.to_bytes(4, sys.byteorder)
        end = 64
        pieces: list[memoryview | bytes] = [*encoded.buffers, meta, dims]
        for buffer in pieces:
            view[end : end + len(buffer)] = buffer
            end += len(buffer)
        self._say_result(ENCODED, result, slab, len(meta), len(dims), nbytes)

    def _publish_failure(self, failure: Failure) -> None:
        slots = [request.slot for request in failure.requests]
        for start in range(0, len(slots), SLOTS_PER_MESSAGE):
            self._channel.send(
                "failure",
                slots=slots[start : start + SLOTS_PER_MESSAGE],
                status=int(failure.status),
                message=failure.message,
                started=failure.started,
                kept=_kept(failure.requests),
            )

    def _introduce(self, signature: OutputSignature) -> int:
        """Return number an output layout, and tell the front what the number stands for."""
        if len(self._signatures) >= MAX_SIGNATURES:
            self._signatures.clear()
        raw = msgpack.packb(signature)
        slab = self._allocate(len(raw), None)
        if slab is None:
            raise MemoryError("no result memory for the layout of the outputs")
        slab.view[:] = raw
        number = self._signatures[signature] = len(self._signatures)
        self.say(SIGNATURE, signature=number, offset=slab.offset, nbytes=len(raw))
        return number

    def _allocate(self, nbytes: int, result: BatchResult | None) -> Slab | None:
        """Wait for result memory while callers hold it; None (and the batch has failed) if it can never fit."""
        while (slab := self._pool.allocate(nbytes)) is None:
            if nbytes > self._pool.largest or not self._slabs:
                self._fail_too_large(nbytes, result)
                return None
            self.say(SHORT)
            self._ring.publish()
            self._wait()
        self._slabs[slab.offset] = slab
        return slab

    def _fail_too_large(self, nbytes: int, result: BatchResult | None) -> None:
        if result is not None:
            text = (
                f"the outputs have {nbytes} bytes, more than the {self._pool.largest} that the model's result memory "
                "has room for; result_bytes in model.toml, or --result-bytes, gives more"
            )
            self._publish_failure(Failure(result.requests, Status.RESOURCE_EXHAUSTED, text, started=True))

    def _say_result(self, kind: int, result: BatchResult, slab: Slab, signature: int, count: int, nbytes: int) -> None:
        times = (result.planned, result.copied_in, result.computed, monotonic())
        flags = KEPT if _kept(result.requests) else 0
        self._push(kind, flags, signature, count, result.batch_rows, slab.offset, nbytes, *times)

    def say(self, kind: int, *, signature: int = 0, count: int = 0, offset: int = 0, nbytes: int = 0) -> None:
        """One record that is no result."""
        self._push(kind, 0, signature, count, 0, offset, nbytes, 0.0, 0.0, 0.0, 0.0)

    def _push(self, *record: Any) -> None:
        """Wait for room: the front takes everything at once whenever it looks."""
        while not self._ring.push(*record):
            self._ring.publish()
            self._stand_by()


def _pieces(result: BatchResult, most: int) -> Iterator[BatchResult]:
    """Return the same calls in order, as batches whose outputs have at most `most` bytes, or are those of one call."""
    first = row = 0
    requests = result.requests
    while first < len(requests):
        end, rows = first + 1, requests[first].rows
        while end < len(requests):
            more = rows + requests[end].rows
            if output_places(end + 1 - first, more, result.signature)[1] > most:
                break
            end, rows = end + 1, more
        outputs = [
            data[row * size : (row + rows) * size]
            for data, (*_, size) in zip(result.outputs, result.signature, strict=True)
        ]
        times = result.planned, result.copied_in, result.computed, result.copied_out
        yield BatchResult(requests[first:end], result.signature, outputs, rows, *times)
        first, row = end, row + rows


def _kept(requests: list[Request]) -> bool:
    """Whether the model has kept the memory of these, a lone request's; said once, the front then leaves the block."""
    block = requests[0].block
    if block is None or block.left is None:
        return False
    block.left = None
    return True
