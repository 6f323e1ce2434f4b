"""Taking calls back from an engine process, and knowing for certain whether the model has seen them.

Both sides store first, and then look at what the other has stored:

* the process, just before the model may see requests: `marks[slot] = 1` for each; then, are any of them withdrawn?
* the front, when nobody waits for a call any more: `withdrawn[slot] = 1`; then, is it marked?

So at least one of the two sees the other: the process, and leaves the request out, or the front, and does not say that
the call has not started. A processor may let a look overtake its own earlier store, which would spoil that. A barrier
after the store on both sides forbids it; membarrier(2) puts the process's there, too, when the front calls it, so that
a batch pays nothing for it but the look. Where there is no such call, nothing is certain, and the front says so.

What lives here: the shared bytes and who writes them: `marks` the process (the front clears them between two requests
of a slot), the others the front. What must not: what a caller is told.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .api import Request

__all__ = ["Withdrawals", "shared_bytes"]

_SYSCALL: Final = {"x86_64": 324, "aarch64": 283}
_GLOBAL_EXPEDITED: Final = 1 << 1
_REGISTER_GLOBAL_EXPEDITED: Final = 1 << 2


def shared_bytes(slots: int) -> int:
    """Bytes of the shared memory: a mark and a withdrawal for each slot, and whether there are withdrawals at all."""
    return 2 * slots + 1


class Withdrawals:
    """One side's view of the shared memory behind `descriptor`."""

    def __init__(self, descriptor: int, slots: int) -> None:
        self._mapping = mmap.mmap(descriptor, shared_bytes(slots))
        whole = memoryview(self._mapping)
        self.marks = whole[:slots]
        self._withdrawn = whole[slots : 2 * slots]
        self._any = whole[2 * slots :]
        self.count = 0
        """Of the front: requests that are withdrawn and not over."""
        self.certain = False
        """Of the front: whether the process has registered for its barriers."""

    # the front

    def withdraw(self, slot: int) -> bool:
        """From now on the model does not begin with this request; True if it certainly has not."""
        if not self._withdrawn[slot]:
            self._withdrawn[slot] = 1
            self.count += 1
        self._any[0] = 1
        return self.certain and not self.marks[slot] and _membarrier(_GLOBAL_EXPEDITED) and not self.marks[slot]

    def over(self, slots: list[int]) -> None:
        """Free the slots of these requests, which are over, for others."""
        for slot in slots:
            self.count -= self._withdrawn[slot]
            self._withdrawn[slot] = 0
        if not self.count:
            self._any[0] = 0

    # the process

    def register(self) -> bool:
        """Have the front's barriers order what this process does; False if that cannot be had here."""
        return _membarrier(_REGISTER_GLOBAL_EXPEDITED)

    def begin(self, requests: list[Request]) -> list[Request]:
        """Mark what the model may see from now on; those given back are withdrawn, and it must not see them."""
        marks = self.marks
        for request in requests:
            marks[request.slot] = 1
        if not self._any[0]:
            return []
        withdrawn = [request for request in requests if self._withdrawn[request.slot]]
        for request in withdrawn:
            marks[request.slot] = 0
        return withdrawn

    def close(self) -> None:
        """Give the mapping back."""
        self.marks.release()
        self._withdrawn.release()
        self._any.release()
        self._mapping.close()


def _membarrier(command: int) -> bool:
    number = _SYSCALL.get(os.uname().machine)
    return number is not None and int(ctypes.CDLL(None).syscall(number, command, 0, 0)) == 0
