"""Sockets for the blocking client: made, written without blocking, waited for; and in which order both clients try the
addresses of a name. No protocol, no calls.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Sequence
from select import POLLIN, POLLOUT, poll
from struct import Struct
from typing import Any

from .errors import NOBODY_LISTENS
from .url import Address

IOV_MAX = 1024
"""Buffers that one ``sendmsg`` takes on Linux."""
KEEPALIVE = (
    ("TCP_KEEPIDLE", 30),
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 3),
)
"""Seconds of silence before the kernel asks whether the peer is still there, between questions, and how often."""

LONGEST_WAIT = 86400.0
"""Seconds beyond which a wait has no end: ``poll`` refuses times that are too large."""
UNIX_SEND_BUFFER = 1 << 20
"""Bytes that a Unix socket takes before it makes its writer wait: unlike TCP's, its buffer never grows by itself."""

NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a name is tried beside those that have not answered (RFC 8305, section 5)."""
MAX_LOOKUPS = 16
"""Names looked up at once: each takes a thread, which the system's resolver may hold for as long as it likes."""
CONNECT_NAP = 0.05
"""Seconds after which whoever waits for a connection asks whether it is still wanted."""

_TIMEVAL = Struct("@ll")

Buffers = list[bytes | memoryview]
Found = tuple[Any, ...]
"""One address of a name, as ``getaddrinfo`` tells it."""

_looking_up: list[str] = []


def wanted() -> bool:
    """Return true: nobody gives the dial up."""
    return True


def dial(address: Address, timeout: float, still: Callable[[], bool] = wanted) -> socket.socket:
    """Connect a blocking socket to the first address of the name that answers. Raises ``OSError``, and
    ``InterruptedError`` once it is not ``still`` wanted; ``timeout`` is in seconds, looking up the name included.
    """
    if address.is_unix:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BUFFER)
            sock.settimeout(timeout)
            sock.connect(address.path)
        except BaseException:
            sock.close()
            raise
    else:
        until = time.monotonic() + timeout
        found = numeric(address.host, address.port) or look_up(address.host, address.port, until, still)
        sock = connect_first(in_turn(found), until, still)
        tune_tcp(sock)
    sock.settimeout(None)
    return sock


def numeric(host: str, port: int) -> list[Found]:
    """Return the address that ``host`` is, [] where it is a name."""
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
    except (OSError, UnicodeError):
        return []


def look_up(host: str, port: int, until: float, still: Callable[[], bool]) -> list[Found]:
    """Look up the addresses of a name. The system's resolver knows no deadline, and is therefore asked in a thread."""
    if len(_looking_up) >= MAX_LOOKUPS:
        raise OSError(
            errno.EAGAIN, f"{MAX_LOOKUPS} names are being looked up, and the system's resolver does not answer"
        )
    done = allocate_lock()
    done.acquire()
    found: list[list[Found] | OSError] = []

    def ask() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:  # a name that cannot be written as one in DNS
            found.append(error if isinstance(error, OSError) else OSError(errno.EINVAL, "no such name"))
        finally:
            _looking_up.remove(host)
            done.release()

    _looking_up.append(host)
    try:
        start_new_thread(ask, ())
    except RuntimeError:
        _looking_up.remove(host)
        raise OSError(errno.EAGAIN, "no thread can be started to look up the name") from None
    while not done.acquire(timeout=max(0.0, min(CONNECT_NAP, until - time.monotonic()))):
        check_wanted(until, still, ["the name is still being looked up"])
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def in_turn(found: Sequence[Found]) -> list[Found]:
    """Addresses in the resolver's order, but families in turn: where one does not work at all, the other comes second
    (RFC 8305, section 4).
    """
    first = [each for each in found if each[0] == found[0][0]]
    others = [each for each in found if each[0] != found[0][0]]
    order: list[Found] = []
    for n in range(max(len(first), len(others))):
        order += first[n : n + 1] + others[n : n + 1]
    return order


def connect_first(found: list[Found], until: float, still: Callable[[], bool]) -> socket.socket:
    """Connect a socket to whichever address answers first; each begins ``NEXT_ADDRESS`` after the one before, or as
    soon as that has failed. Raises ``OSError`` that says what came of each.
    """
    trying: dict[int, tuple[socket.socket, str]] = {}
    said: list[str] = []
    failures: list[OSError] = []
    left, next_at = list(found), 0.0
    try:
        while True:
            now = time.monotonic()
            check_wanted(until, still, said + [f"{host}: no answer" for _, host in trying.values()])
            if left and (now >= next_at or not trying):
                family, kind, protocol, _, where = left.pop(0)
                next_at = now + NEXT_ADDRESS
                sock = socket.socket(family, kind, protocol)
                trying[sock.fileno()] = sock, str(where[0])
                sock.setblocking(False)
                code = sock.connect_ex(where)
                if code == errno.EINPROGRESS:
                    continue
                ready = [(sock.fileno(), code)]
            else:
                poller = poll()
                for descriptor in trying:
                    poller.register(descriptor, POLLOUT)
                wait = min(until - now, next_at - now if left else CONNECT_NAP, CONNECT_NAP)
                ready = [(each, -1) for each, _ in poller.poll(max(1.0, wait * 1000.0))]
            for descriptor, code in ready:
                sock, host = trying.pop(descriptor)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if code < 0 else code
                if code == 0:
                    return sock
                sock.close()
                said.append(f"{host}: {os.strerror(code).lower()}")
                failures.append(OSError(code, os.strerror(code)))
                next_at = 0.0
            if not left and not trying:
                raise failures_of(failures, said)
    finally:
        for sock, _ in trying.values():
            sock.close()


def failures_of(failures: list[OSError], said: list[str]) -> OSError:
    """One error for all addresses: the only one's own, or one that says what came of each."""
    error = failures[-1]
    return error if len(failures) == 1 else OSError(error.errno, "; ".join(said))


def check_wanted(until: float, still: Callable[[], bool], said: list[str]) -> None:
    """Raise ``TimeoutError`` that says what came of it so far, or ``InterruptedError``."""
    if not still():
        raise InterruptedError
    if time.monotonic() >= until:
        raise TimeoutError(errno.ETIMEDOUT, "; ".join(said))


def tune_tcp(sock: socket.socket) -> None:
    """No delay for small frames; the kernel finds out about vanished peers."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def explain(error: OSError, address: Address) -> str:
    """Why a connection could not be made, and what to look at."""
    if isinstance(error, TimeoutError):
        what = f" ({error.strerror})" if error.strerror else ""
        return f"no answer in time{what}; is the address right, and does a firewall drop packets?"
    reason = error.strerror or str(error)
    if error.errno in {errno.ECONNREFUSED, errno.ENOENT}:
        return f"{reason.lower()}; {NOBODY_LISTENS} {address}?"
    if address.tls and isinstance(error, ConnectionError):
        return f"the connection broke within the TLS handshake ({reason.lower()}); does {address} speak TLS?"
    return reason.lower()


def send_now(sock: socket.socket, buffers: Buffers) -> Buffers:
    """Write what the kernel takes now; gives back what is left, [] where all went. Raises ``OSError``."""
    if len(buffers) > IOV_MAX:
        return send_now(sock, buffers[:IOV_MAX]) + buffers[IOV_MAX:]
    try:
        sent = sock.sendmsg(buffers, (), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return buffers
    if sent == sum(map(len, buffers)):
        return []
    for index, buffer in enumerate(buffers):
        size = len(buffer)
        if sent < size:
            return [memoryview(buffer)[sent:], *buffers[index + 1 :]]
        sent -= size
    return []


def wait_for(sock: socket.socket | int, *, read: bool, write: bool, timeout: float) -> tuple[bool, bool]:
    """Sleep until the socket can be read or written or ``timeout`` seconds went by; says which."""
    poller = poll()
    poller.register(sock, (POLLIN if read else 0) | (POLLOUT if write else 0))
    ready = poller.poll(None if timeout > LONGEST_WAIT else max(0.0, timeout) * 1000.0)
    mask = ready[0][1] if ready else 0
    # An error or a hang-up counts as both: the next read or write tells which it was.
    other = mask & ~(POLLIN | POLLOUT)
    return bool(mask & POLLIN or other), bool(mask & POLLOUT or other)


def set_receive_timeout(sock: socket.socket, seconds: float) -> None:
    """Blocking reads give up after ``seconds``; 0 for never. The kernel keeps the time, so a read stays one system
    call.
    """
    whole = int(seconds)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(whole, int((seconds - whole) * 1e6)))
