"""States of a connection, and which frame may arrive in which: tables, no behaviour (SPEC 6.1 and 9.1)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from .header import FrameType
from .limits import Role


class State(IntEnum):
    """Where a connection stands; the names are those of SPEC 9.1."""

    PREFACE = 0  # server waits for the preface
    HELLO = 1  # server waits for HELLO
    WELCOME = 2  # client waits for WELCOME
    AUTH = 3  # server waits for AUTH
    READY = 4  # client waits for READY; server's owner has not accepted yet
    OPEN = 5
    CLOSED = 6


_T = FrameType
_FROM_CLIENT: Final = frozenset((_T.OPEN, _T.DATA, _T.CANCEL, _T.PING, _T.CLOSE))
# (role of the receiver, state) -> types that may arrive. A type in no row is unknown.
RECEIVES: Final[dict[tuple[Role, State], frozenset[FrameType]]] = {
    (Role.SERVER, State.HELLO): frozenset((_T.HELLO, _T.CLOSE)),
    (Role.SERVER, State.AUTH): frozenset((_T.AUTH, _T.CLOSE)),
    (Role.SERVER, State.READY): _FROM_CLIENT,
    (Role.SERVER, State.OPEN): _FROM_CLIENT | {_T.PONG},
    (Role.CLIENT, State.WELCOME): frozenset((_T.WELCOME, _T.CLOSE)),
    (Role.CLIENT, State.READY): frozenset((_T.READY, _T.CLOSE)),
    (Role.CLIENT, State.OPEN): frozenset((_T.DATA, _T.END, _T.PING, _T.PONG, _T.GOAWAY, _T.CLOSE)),
}
KNOWN_TYPES: Final = frozenset().union(*RECEIVES.values())  # types that may arrive somewhere
