"""Noticing a fork: a client of the parent must not be used in the child, where both would write into one connection.

A counter that every fork raises in the child; comparing it costs a client less than asking for the process id.
"""

from __future__ import annotations

import os

from .errors import ForkedClient

generation = [0]
"""How many forks lie between this process and the one that imported this module."""


def _forked() -> None:
    generation[0] += 1


os.register_at_fork(after_in_child=_forked)


def check_fork(made_in: int) -> None:
    """Raise :class:`ForkedClient` unless this is the process, by its generation, that made the client."""
    if made_in != generation[0]:
        raise ForkedClient(
            f"this client was made before a fork and is used in the child, process {os.getpid()}: "
            "connect again in the child"
        )
