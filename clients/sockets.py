"""Sockets for the blocking client: made, written without blocking, waited for. No protocol, no calls."""

from __future__ import annotations

import errno
import socket
from select import POLLIN, POLLOUT, poll
from struct import Struct

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

_TIMEVAL = Struct("@ll")

Buffers = list[bytes | memoryview]


def dial(address: Address, timeout: float) -> socket.socket:
    """A connected, blocking socket. Raises ``OSError``; ``timeout`` is in seconds."""
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
        sock = socket.create_connection((address.host, address.port), timeout)
        tune_tcp(sock)
    sock.settimeout(None)
    return sock


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
        return "no answer in time; is the address right, and does a firewall drop packets?"
    reason = error.strerror or str(error)
    if error.errno in {errno.ECONNREFUSED, errno.ENOENT}:
        return f"{reason.lower()}; is the server running and listening on {address}?"
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
