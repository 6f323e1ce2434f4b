"""Views of result slabs: who still looks at one, and which may go back to the process that filled it.

What lives here: counting by weak reference, and the list of what waits to be told. What must not: telling (process.py).
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["ResultLeases"]

#: Released slabs wait for the next wake-up of the process unless so many of them wait: wake-ups cost more than memory.
MANY = 64
#: Bytes of a slab that is worth a wake-up of its own.
LARGE = 256 * 1024


class ResultLeases:
    """The result slabs of one process. `urgent` is called when `released` should be told now.

    Views may be dropped anywhere, by the garbage collector in the middle of anything too: then an offset is noted, and
    that is all that happens.
    """

    def __init__(self, urgent: Callable[[], object]) -> None:
        self.released: deque[int] = deque()
        self.eager = False  # the process waits for memory: nothing waits here
        self._urgent = urgent
        self._held: dict[int, _Lease] = {}
        self._closed = False

    def lease(self, view: memoryview, offset: int) -> memoryview:
        """Return the same bytes; when the last view of them is gone, `offset` is in `released`."""
        owner = np.frombuffer(view, np.uint8)
        lease = _Lease(owner, _dropped)
        lease.leases = self
        lease.offset = offset
        lease.large = len(view) >= LARGE
        self._held[offset] = lease
        return owner.data

    def release_eagerly(self) -> None:
        """Tell the process, which waits for memory, now, and at once from now on until it has published something.

        Also where there is nothing to tell: whoever is woken sees that replies are held which nobody reads.
        """
        self.eager = True
        self._urgent()

    def close(self) -> None:
        """Tell nothing any more: the process is gone. Views stay valid."""
        self._closed = True
        self.released.clear()

    def drop(self, offset: int, *, large: bool = False) -> None:
        """Note that the last view of the slab at `offset` is gone."""
        self._held.pop(offset, None)
        if not self._closed:
            self.released.append(offset)
            if large or self.eager or len(self.released) >= MANY:
                self._urgent()


class _Lease(weakref.ref[Any]):
    """Held by its ResultLeases, or it would die without calling back."""

    __slots__ = ("large", "leases", "offset")
    large: bool
    leases: ResultLeases
    offset: int


def _dropped(lease: weakref.ref[Any]) -> None:
    if isinstance(lease, _Lease):
        lease.leases.drop(lease.offset, large=lease.large)
