"""Noticing a fork: a client of the parent must not be used in the child, where both would write into one connection.

A counter that every fork raises in the child; comparing it costs a client less than asking for the process id. And what
the parent's connections and captures are in the child: /dev/null, so that nothing that is done with them there, by
``close``, the end of TLS, the collector or the end of the process, reaches the parent's. An event loop does not even
stop watching them: a descriptor taken out of the epoll set that both processes share would be out of the parent's, too.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet

from .errors import ForkedClient

generation = [0]
"""How many forks lie between this process and the one that imported this module."""


class HasDescriptor(Protocol):
    """A socket or a file, or what has one."""

    def fileno(self) -> int:
        """Its descriptor; below 0, or an error, where it has none any more."""


parents: WeakSet[HasDescriptor] = WeakSet()
"""What a child must not touch; an entry leaves with its object."""


def _forked() -> None:
    generation[0] += 1
    theirs = list(parents)
    parents.clear()
    if not theirs:
        return
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for each in theirs:
        with suppress(OSError, ValueError):  # closed meanwhile
            if (descriptor := each.fileno()) >= 0:
                os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


os.register_at_fork(after_in_child=_forked)


def check_fork(made_in: int) -> None:
    """Raise :class:`ForkedClient` unless this is the process, by its generation, that made the client."""
    if made_in != generation[0]:
        raise ForkedClient(
            f"this client was made before a fork and is used in the child, process {os.getpid()}: "
            "connect again in the child"
        )
