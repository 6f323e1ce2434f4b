"""Who of several threads does a thing for all of them: the *lead*, and the sleep of those that follow; and the one lock
under which all of it happens, with what is asked for in the middle of it (:class:`Monitor`).

Not here: what the leader does (``blocking_driver``).
"""

from __future__ import annotations

import time
from _thread import LockType, RLock, allocate_lock
from typing import TYPE_CHECKING, Any

from .calls import FOREVER, Call

if TYPE_CHECKING:
    from .core import ClientCore

LOOK_AROUND = 1.0
"""Seconds after which a sleeper looks around in any case: Python runs the handler of a signal that comes just before a
system call only after it, and a thread that was interrupted may have woken nobody."""
_IS_OWNED = "_is_owned"  # what threading.Condition asks a lock, too; typeshed does not know it


class Monitor:
    """The lock of one client: within it everything of the core happens, and nobody waits.

    A signal handler, a finalizer or an input's own code may use the client anywhere in the middle of that, in the very
    thread that holds the lock. It cannot wait for itself: what it asks for is refused, or done ``late``.
    """

    __slots__ = ("_core", "_is_owned", "late", "lock")

    def __init__(self, core: ClientCore) -> None:
        self.lock = RLock()
        """Only ever held once; an RLock because it knows, at every moment, which thread holds it."""
        self.late: list[Call | None] = []
        """Calls to give up, and None for closing the client, as soon as whoever holds the lock can."""
        self._core = core
        self._is_owned: Any = getattr(self.lock, _IS_OWNED)

    def held_here(self) -> bool:
        """Whether this very thread holds the lock, further down its stack."""
        return bool(self._is_owned())

    def step_out(self) -> bool:
        """Let go of the lock in order to wait; false where something is to be done first. Then :meth:`step_in`."""
        self._core.changing = False
        self.lock.release()
        # Looked at without the lock: what a handler asks for from here on, it does itself.
        return not self.late

    def step_in(self) -> None:
        """Take the lock again. What a signal handler raises meanwhile is raised once it is held."""
        raised: BaseException | None = None
        while not self._is_owned():
            try:
                self.lock.acquire()
            except BaseException as error:  # noqa: BLE001 - raised below
                raised = error
        if raised is not None:
            raise raised


def wake(call: Call) -> None:
    """Wake the threads that wait for ``call``: what the blocking client gives its core as ``notify``."""
    waiters: list[LockType] | None = call.waiter
    if waiters is not None:
        call.waiter = None
        for waiter in waiters:
            waiter.release()


class Lead:
    """One thing to lead in, such as reading from one connection."""

    __slots__ = ("followers", "holder")

    def __init__(self) -> None:
        self.holder = 0
        """The thread that leads, 0 for none."""
        self.followers: dict[LockType, Call] = {}
        """Who sleeps, and for which call."""

    def step_down(self) -> None:
        """Give the lead up; one of those that still wait is woken to take it."""
        self.holder = 0
        for waiter, call in self.followers.items():
            if not call.finished and _wake_one(waiter, call):
                return

    def wake_all(self) -> None:
        """Let every follower look where its call is now."""
        for waiter, call in self.followers.items():
            _wake_one(waiter, call)

    def wake_strays(self, link: object) -> None:
        """Wake those whose call is no longer on ``link``, the connection that they follow."""
        for waiter, call in self.followers.items():
            if call.link is not link:
                _wake_one(waiter, call)

    def follow(self, monitor: Monitor, call: Call, due: float) -> None:
        """Sleep until there is news of ``call``, until the lead is free, or until ``due``; now and then for nothing.

        The lock is held on entry and exit, and not meanwhile.
        """
        waiter = allocate_lock()
        waiter.acquire()
        if call.waiter is None:
            call.waiter = []
        call.waiter.append(waiter)
        self.followers[waiter] = call
        timeout = LOOK_AROUND if due == FOREVER else min(max(0.0, due - time.monotonic()), LOOK_AROUND)
        try:
            if monitor.step_out():
                waiter.acquire(timeout=timeout)
        finally:
            monitor.step_in()
            del self.followers[waiter]
            if call.waiter is not None and waiter in call.waiter:
                call.waiter.remove(waiter)


def _wake_one(waiter: LockType, call: Call) -> bool:
    """Release ``waiter``; false where it was released before."""
    if call.waiter is None or waiter not in call.waiter:
        return False
    call.waiter.remove(waiter)
    waiter.release()
    return True
