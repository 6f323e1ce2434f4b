"""What a process that a model forks must not have of ours: our signal handlers, our wake-up descriptor, our sockets.

A forked child gets a copy of all three. A signal meant for it would be written into the pipe that wakes its parent,
which would take it for its own; a socket that it holds stays open when its parent closes it, so that the other side
waits. What a model has set itself, the child keeps. Children that run another program (subprocess, "spawn") have none
of this anyway. What must not live here: who is told to end, and how.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def leave_to_parent(
    handlers: Callable[[], Mapping[int, Any]],
    descriptors: Callable[[], Iterable[int]],
    forked: Callable[[], object],
) -> None:
    """From now on every child that this process forks begins without these.

    handlers: by signal, what this process has set; such a signal does again what it does by default. descriptors: lead
    nowhere in the child. forked: called there last.
    """
    mask = threading.local()

    def before() -> None:
        mask.of_thread = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask.of_thread)

    def in_child() -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in handlers().items():
            if signal.getsignal(number) == handler:
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in descriptors():
            os.dup2(null, descriptor, inheritable=False)  # not closed: the number would be somebody else's next
        os.close(null)
        forked()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask.of_thread)

    # A signal that comes before the child is ready for it, as from a parent that ends it at once, waits until it is.
    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)
