"""The calls that go upwards: who is called implements a class of this file, who calls knows nothing else of it.

Each has one implementer: Outlet is socket_outlet.py's, ConnectionObserver connection_table.py's. (ReplyTarget, which
speaks of calls, stands in call.py and is call_table.py's.) Native classes, since what is compiled calls them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod


class ConnectionInfo:
    """What is known of one connection, for those who are told of it; its session keeps it up to date.

    id: the 8 bytes drawn for it. since: when it came, monotonic seconds. peer: address and port, ("", 0) of a Unix
    socket. key_id: what the peer named, be it true or not. principal: whose it is, "" before that is known.
    ended: why we closed it, in one of a few fixed words. greeted: it had an answer to its HELLO. streams: how many it
    has opened, told when it is over.
    """

    __slots__ = (
        "authenticated", "draining", "ended", "greeted", "id", "key_id", "peer", "principal", "since", "streams",
    )  # fmt: skip

    def __init__(self, connection_id: bytes, now: float) -> None:
        self.id = connection_id
        self.since = now
        self.peer: tuple[str, int] = ("", 0)
        self.key_id = b""
        self.principal = ""
        self.authenticated = False
        self.draining = False
        self.greeted = False
        self.ended = ""
        self.streams = 0

    @property
    def name(self) -> str:
        """The connection's name in logs and request ids."""
        return self.id.hex()


class Outlet(ABC):
    """Where the bytes of one connection leave.

    reply_limit_reached: so many replies wait to be read by the peer that no more are kept for it.
    """

    __slots__ = ("reply_limit_reached",)

    def __init__(self) -> None:
        self.reply_limit_reached = False

    @abstractmethod
    def flush(self) -> None:
        """Write what the core has queued, until nothing is left or the kernel takes no more."""

    @abstractmethod
    def count_unread(self) -> None:
        """Take stock of the replies that wait for the peer: a large one was queued."""

    @abstractmethod
    def over_reply_budget(self) -> bool:
        """Tell whether so much waits in all that a reply may keep no more memory than its own bytes."""

    @abstractmethod
    def stalled_since(self, since: float) -> bool:
        """Tell whether replies wait of which the peer has taken nothing to speak of since then."""

    @abstractmethod
    def reading_paused(self) -> bool:
        """Tell whether the peer is not read for now."""

    @abstractmethod
    def descriptor(self) -> int:
        """Return that of the socket, -1 if it is closed or about to be."""

    @abstractmethod
    def close(self) -> None:
        """Send what is queued, then close."""

    @abstractmethod
    def abort(self, reason: str) -> None:
        """Drop the connection at once; `reason`, one of a few fixed words, is counted and logged."""


class ConnectionObserver(ABC):
    """Who is told what becomes of connections."""

    __slots__ = ()

    @abstractmethod
    def authenticated(self, info: ConnectionInfo) -> None:
        """Take note that a handshake is over: the connection is its principal's."""

    @abstractmethod
    def dropped(self, info: ConnectionInfo, reason: str, detail: str = "") -> None:
        """Take note that we close a connection; `reason` is one of a few fixed words."""

    @abstractmethod
    def forget(self, info: ConnectionInfo) -> None:
        """Take note that a connection is gone."""
