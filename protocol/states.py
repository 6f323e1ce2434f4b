"""States of a connection and of a stream, and every move between them: tables, no behaviour (SPEC 6.1, 8.3 and 9.1).

Who may send which frame in which state, what may arrive, and what state follows: all of it is here, for both sides.
Who looks a move up, and what becomes of one that is not in a table, is streams.py's, calls.py's and control.py's.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from .header import FrameType
from .limits import Role

# ---- connections ----


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

_ALWAYS: Final = frozenset((_T.PING, _T.CLOSE))
_CALLS: Final = frozenset((_T.OPEN, _T.DATA, _T.CANCEL))
# (role of the sender, state) -> types that may be queued. Until AUTH (client) or READY (server) is, all but the
# handshake and CLOSE waits for it (`Writer.held`): a client opens streams before it is let in.
SENDS: Final[dict[tuple[Role, State], frozenset[FrameType]]] = {
    (Role.SERVER, State.PREFACE): _ALWAYS,
    (Role.SERVER, State.HELLO): _ALWAYS | {_T.WELCOME},
    (Role.SERVER, State.AUTH): _ALWAYS,
    (Role.SERVER, State.READY): _ALWAYS | {_T.READY, _T.END, _T.PONG},
    (Role.SERVER, State.OPEN): _ALWAYS | {_T.DATA, _T.END, _T.PONG, _T.GOAWAY},
    (Role.SERVER, State.CLOSED): frozenset(),
    (Role.CLIENT, State.WELCOME): _ALWAYS | _CALLS | {_T.HELLO, _T.AUTH},
    (Role.CLIENT, State.READY): _ALWAYS | _CALLS,
    (Role.CLIENT, State.OPEN): _ALWAYS | _CALLS | {_T.PONG},
    (Role.CLIENT, State.CLOSED): frozenset(),
}
NOT_WHILE_DRAINING: Final = frozenset((_T.OPEN,))  # what a client does not send after GOAWAY

# (state, frame) -> the state that it leads to, for whoever sends it and whoever gets it. The preface leads a server to
# HELLO, the end of a connection, with CLOSE or without, everybody to CLOSED. No other frame changes the state.
MOVES: Final[dict[tuple[State, FrameType], State]] = {
    (State.HELLO, _T.WELCOME): State.AUTH,  # the server sends it
    (State.WELCOME, _T.AUTH): State.READY,  # the client sends it
    (State.AUTH, _T.AUTH): State.READY,  # the server gets it
    (State.READY, _T.READY): State.OPEN,  # the server sends it, the client gets it
}

# ---- streams ----


class StreamState(IntEnum):
    """State of an open stream. Idle and closed ones are not kept.

    FINISHING is the server's own: its terminal is queued but not written, because it is chunked or waits for chunks.
    """

    OPEN = 0
    HALF_CLOSED = 1
    CANCELLED = 2
    FINISHING = 3
    CLOSED = 4


class Action(IntEnum):
    """What a side does on a stream: the columns of the table in SPEC 8.3."""

    MESSAGE = 0  # client
    LAST_MESSAGE = 1  # client
    CANCEL = 2  # client
    REPLY = 3  # server
    TERMINAL = 4  # server: DATA with END_STREAM, or END


# What the peer does. A missing entry is its connection error.
PEER_MOVES: Final[dict[tuple[StreamState, Action], StreamState]] = {
    (StreamState.OPEN, Action.MESSAGE): StreamState.OPEN,
    (StreamState.OPEN, Action.LAST_MESSAGE): StreamState.HALF_CLOSED,
    (StreamState.OPEN, Action.CANCEL): StreamState.CANCELLED,
    (StreamState.OPEN, Action.REPLY): StreamState.OPEN,
    (StreamState.OPEN, Action.TERMINAL): StreamState.CLOSED,
    (StreamState.HALF_CLOSED, Action.CANCEL): StreamState.CANCELLED,
    (StreamState.HALF_CLOSED, Action.REPLY): StreamState.HALF_CLOSED,
    (StreamState.HALF_CLOSED, Action.TERMINAL): StreamState.CLOSED,
    (StreamState.CANCELLED, Action.CANCEL): StreamState.CANCELLED,
    (StreamState.CANCELLED, Action.REPLY): StreamState.CANCELLED,
    (StreamState.CANCELLED, Action.TERMINAL): StreamState.CLOSED,
    # The client does not know yet that the terminal is on its way: what it sends is late.
    (StreamState.FINISHING, Action.MESSAGE): StreamState.FINISHING,
    (StreamState.FINISHING, Action.LAST_MESSAGE): StreamState.FINISHING,
    (StreamState.FINISHING, Action.CANCEL): StreamState.CLOSED,
}
# What this side does, by its role. A missing entry is its owner's LocalError. A terminal is queued first, and the
# stream is closed when it is written.
OWN_MOVES: Final[dict[Role, dict[tuple[StreamState, Action], StreamState]]] = {
    Role.CLIENT: {
        (StreamState.OPEN, Action.MESSAGE): StreamState.OPEN,
        (StreamState.OPEN, Action.LAST_MESSAGE): StreamState.HALF_CLOSED,
        (StreamState.OPEN, Action.CANCEL): StreamState.CANCELLED,
        (StreamState.HALF_CLOSED, Action.CANCEL): StreamState.CANCELLED,
    },
    Role.SERVER: {
        (StreamState.OPEN, Action.REPLY): StreamState.OPEN,
        (StreamState.OPEN, Action.TERMINAL): StreamState.FINISHING,
        (StreamState.HALF_CLOSED, Action.REPLY): StreamState.HALF_CLOSED,
        (StreamState.HALF_CLOSED, Action.TERMINAL): StreamState.FINISHING,
        (StreamState.CANCELLED, Action.REPLY): StreamState.CANCELLED,
        (StreamState.CANCELLED, Action.TERMINAL): StreamState.FINISHING,
    },
}
