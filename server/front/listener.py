"""Where the server listens: TCP and Unix sockets; beyond loopback only where connections prove a key or are under TLS.

Addresses are checked here, before a socket exists. What happens on an accepted connection is in transport.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import cast

from ..defaults import FAR_LOW_WATER, is_loopback

UNIX_MODE = 0o600
"""Mode of the Unix socket: where no keys are asked for, the file's owner is the only identity there is."""


class ListenError(Exception):
    """The server cannot listen where it was told to; the message says why and what to do."""


def check_address(host: str, *, guarded: bool) -> None:
    """Raise ListenError where anybody who reaches `host` could use the server.

    guarded: whether connections prove a key, or are under TLS; if not, only loopback addresses will do.
    """
    if not guarded and not is_loopback(host):  # guard: plain-beyond-loopback
        raise ListenError(
            f"{host!r} is not a loopback address, and without keys anybody who reaches the port could use the server: "
            "make a key with `tensorwire keys new`, or listen on 127.0.0.1, ::1 or localhost, on a Unix socket with "
            "--unix PATH, or with TLS alone (--no-tcp --tls-port)"
        )


def tcp_socket(
    host: str, port: int, backlog: int, unsent_low_water: int = FAR_LOW_WATER, *, guarded: bool = False
) -> socket.socket:
    """Make a listening socket. Raises ListenError, also for an address that `check_address` refuses.

    unsent_low_water: bytes of a connection that the kernel keeps unsent, before it says that it takes more.
    """
    check_address(host, guarded=guarded)
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        _tune(listening, unsent_low_water)
        listening.bind((address, port))
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise ListenError(
            f"cannot listen on {address} port {port}: {error.strerror}. Another server may have the port, or the "
            "address may not be this machine's: choose another with --port (or --tls-port; 0 for any free one) or "
            "--host"
        ) from None
    return listening


def _tune(listening: socket.socket, unsent_low_water: int) -> None:
    """Set no Nagle, little unsent in the kernel, and keepalive that finds dead peers.

    Accepted sockets inherit all of it (tcp(7)), and asking the loop for each of them would cost memory for as long as
    it is connected.
    """
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_NOTSENT_LOWAT", unsent_low_water),
        ("TCP_KEEPIDLE", 60),
        ("TCP_KEEPINTVL", 10),
        ("TCP_KEEPCNT", 3),
    ):
        if hasattr(socket, option):  # not every system has them all
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def unix_socket(path: Path, backlog: int) -> socket.socket:
    """Make a listening Unix socket at `path`, replacing one that nobody answers any more. Raises ListenError."""
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~UNIX_MODE)  # so that the socket never exists with a wider mode
    try:
        listening.bind(str(path))
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise ListenError(f"cannot listen on Unix socket {str(path)!r}: {error.strerror or error}") from None
    finally:
        os.umask(mask)
    return listening


def _remove_stale(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"{str(path)!r} exists and is not a socket; give another path")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise ListenError(f"another server listens on {str(path)!r}; stop it or give another path")
        path.unlink()


class Listener:
    """The listening sockets of one server."""

    def __init__(self, make_protocol: Callable[[], object]) -> None:
        self._make_protocol = cast("Callable[[], asyncio.BufferedProtocol]", make_protocol)
        self._servers: list[asyncio.Server] = []
        self._paths: list[tuple[Path, int]] = []
        self.addresses: list[str] = []
        """The addresses clients connect to, as URLs: tw://127.0.0.1:7411, tws://..., tw+unix:///run/tensorwire.sock."""

    async def listen_tcp(
        self,
        host: str,
        port: int,
        backlog: int,
        unsent_low_water: int = FAR_LOW_WATER,
        *,
        guarded: bool = False,
        scheme: str = "tw",
    ) -> None:
        """Listen on an address that `check_address` allows; port 0 takes a free one. scheme: what clients call it."""
        listening = tcp_socket(host, port, backlog, unsent_low_water, guarded=guarded)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self._make_protocol, sock=listening, backlog=backlog))
        address, bound = listening.getsockname()[:2]
        self.addresses.append(f"{scheme}://[{address}]:{bound}" if ":" in address else f"{scheme}://{address}:{bound}")

    async def listen_unix(self, path: Path, backlog: int) -> None:
        """Listen on a Unix socket that only this user may connect to."""
        listening = unix_socket(path, backlog)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(self._make_protocol, sock=listening, backlog=backlog))
        whole = Path(os.getcwd(), path)  # noqa: PTH109 - pathlib's form counts as blocking
        self._paths.append((whole, os.lstat(path).st_ino))
        self.addresses.append(f"tw+unix://{whole}")

    def descriptors(self) -> list[int]:
        """Return those of the listening sockets."""
        return [each.fileno() for server in self._servers for each in server.sockets]

    def close(self) -> None:
        """Stop accepting; open connections stay. A socket file is removed if it is still ours."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path, inode in self._paths:
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_ino == inode:
                    path.unlink()
        self._paths.clear()
