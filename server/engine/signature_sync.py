"""Which call signatures an engine process knows, and sending it those it does not.

What lives here: numbers, and the slabs their metadata travels in. What must not: checking metadata (call_preparer.py
does, on both sides). One `SignatureSync` per life of a process. Metadata goes through the ring and the pool, like
requests, so that it arrives before the first request that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .records import FORGET, PREPARE

if TYPE_CHECKING:
    from ...gpu import Slab, SlabPool
    from .api import Prepared

__all__ = ["SignatureSync"]

#: Signatures the process keeps. Beyond it the oldest is forgotten, and sent again when it comes back.
MOST = 4096


class SignatureSync:
    """`known` holds the numbers, in the order they were sent. `tell` pushes a record."""

    def __init__(self, pool: SlabPool, tell: Callable[..., object]) -> None:
        self.known: dict[int, Slab | None] = {}
        self._pool = pool
        self._tell = tell

    @property
    def in_use(self) -> int:
        """Bytes of the pool with metadata that has not been read yet."""
        return sum(slab.nbytes for slab in self.known.values() if slab is not None)

    def send(self, prepared: Prepared) -> bool:
        """Send what a number stands for. False: the pool is full, or too many were sent and not read."""
        known = self.known
        if len(known) >= MOST:
            oldest = next(iter(known))
            if known[oldest] is not None:
                return False
            del known[oldest]
            self._tell(FORGET, number=oldest)
        meta, dims = prepared.meta, prepared.dims
        slab = self._pool.allocate(len(meta) + len(dims))
        if slab is None:
            return False
        slab.view[: len(meta)] = meta
        slab.view[len(meta) :] = dims
        known[prepared.number] = slab
        self._tell(PREPARE, number=prepared.number, start=len(meta), capacity=len(dims), offset=slab.offset)
        return True

    def read(self, number: int) -> None:
        """Give the memory of what the process has read back."""
        slab = self.known.get(number)
        if slab is not None:
            self.known[number] = None
            slab.release()

    def close(self) -> None:
        """Give all memory back: the process is gone, and reads nothing more."""
        for slab in self.known.values():
            if slab is not None:
                slab.release()
        self.known.clear()
