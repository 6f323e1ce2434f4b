"""Who of several threads does a thing for all of them: the *lead*, and the sleep of those that follow.

Everything here happens under the one lock of the client's driver. Not here: what the leader does (``blocking_driver``).
"""

from __future__ import annotations

import time
from _thread import LockType, allocate_lock

from .calls import FOREVER, Call

LONGEST_SLEEP = 3600.0
"""Seconds after which a sleeper looks around in any case: system calls refuse times that are too large."""


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

    def follow(self, lock: LockType, call: Call, due: float) -> None:
        """Sleep until there is news of ``call``, until the lead is free, or until ``due``.

        ``lock`` is held on entry and exit, and not meanwhile.
        """
        waiter = allocate_lock()
        waiter.acquire()
        if call.waiter is None:
            call.waiter = []
        call.waiter.append(waiter)
        self.followers[waiter] = call
        timeout = -1.0 if due == FOREVER else min(max(0.0, due - time.monotonic()), LONGEST_SLEEP)
        lock.release()
        try:
            waiter.acquire(timeout=timeout)
        finally:
            lock.acquire()
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
