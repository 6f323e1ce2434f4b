"""Addresses of servers: ``tw://host:port``, ``tws://host:port`` for TLS, and ``tw+unix:///path/to.sock``.

Here: text in, an :class:`Address` out, with errors that say what to write instead and never repeat what may be a
secret. Not here: sockets and name lookup, keys themselves (``keys``).
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass

from ..protocol.limits import DEFAULT_PORT, DEFAULT_TLS_PORT
from .errors import InvalidURL

DEFAULT_URL = f"tw://127.0.0.1:{DEFAULT_PORT}"
URL_VARIABLE = "TENSORWIRE_URL"
_LOOPBACK6 = bytes(15) + b"\x01"
UNIX_PATH_MAX = 107
"""Bytes of a path that ``sockaddr_un`` holds on Linux, without the closing zero."""

_EXPECTED = "write tw://HOST:PORT, for example tw://127.0.0.1:7411, tws://HOST:PORT for TLS, or tw+unix:///path/to.sock"
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAY_BE_SECRET = re.compile(r"[A-Za-z0-9_=-]{40,}")
"""A key's secret is 43 of these characters: text like it is not repeated in an error."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a host and port, or the path of a Unix socket (then ``host`` is empty and ``port`` 0).

    ``key_id``: which of the caller's keys is meant, "" for the only one. It is no part of the printed address. ``tls``:
    whether the port speaks TLS.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    key_id: str = ""
    tls: bool = False

    @property
    def is_unix(self) -> bool:
        """Whether this is a Unix socket."""
        return bool(self.path)

    @property
    def is_local(self) -> bool:
        """Whether nothing sent there leaves this machine: a Unix socket, ``localhost``, a loopback address. A name is
        not looked up: whoever answers look-ups could answer this one.
        """
        if self.path or self.host == "localhost":
            return True
        try:
            return socket.inet_pton(socket.AF_INET, self.host)[0] == 127
        except OSError:
            pass
        try:
            return socket.inet_pton(socket.AF_INET6, self.host) == _LOOPBACK6
        except OSError:
            return False

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read or change what is sent there, signed or not."""
        return self.tls or self.is_local

    def __str__(self) -> str:
        if self.path:
            return f"tw+unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tws' if self.tls else 'tw'}://{host}:{self.port}"


def parse_url(url: str | None) -> Address:
    """Parse a server address; None for what TENSORWIRE_URL holds, else ``tw://127.0.0.1:7411``.

    ``tw://host``, ``tw://host:port``, ``tw://[::1]:port`` (port 7411 where none is given), ``tws://`` likewise for TLS
    (port 7413), and ``tw+unix:///absolute/path``. ``tw://KEYID@host`` and ``tw+unix://KEYID@/path`` say which key is
    meant; its secret never stands in an address. Without a scheme ``host:port`` and ``/path`` are what they look like.
    Raises :class:`InvalidURL` (a ``ValueError``) that names the wrong part and shows a right one.
    """
    if url is None:
        url = os.environ.get(URL_VARIABLE) or DEFAULT_URL
    if not isinstance(url, str):
        raise InvalidURL(f"a server address is a str, not {type(url).__name__}: {_EXPECTED}")
    if "://" not in url:  # as people type it
        url = f"tw+unix://{url}" if url.startswith("/") else f"tw://{url}"
    scheme, _, rest = url.partition("://")
    if scheme not in {"tw", "tws", "tw+unix"}:
        raise InvalidURL(f"{_shown(url)} has the unknown scheme {_shown(scheme)}: {_EXPECTED}")
    key_id, rest = _split_key_id(rest)
    url = f"{scheme}://{rest}"
    if scheme == "tw+unix":
        return _parse_unix(url, rest, key_id)
    return _parse_tcp(url, rest, key_id, tls=scheme == "tws")


def _shown(text: str) -> str:
    """``text`` as errors show it, where a key may have been written in the place of an address."""
    head, slashes, rest = text.rpartition("//")
    user, at, host = rest.rpartition("@")
    return repr(_MAY_BE_SECRET.sub("***", f"{head}{slashes}{'***' if user else ''}{at}{host}"))


def _split_key_id(rest: str) -> tuple[str, str]:
    """Return what stands before the host, and the rest. Nothing of it is repeated where it is refused."""
    user, at, _ = rest.partition("/")[0].rpartition("@")
    if not at:
        return "", rest
    key_id, colon, _password = user.partition(":")
    if colon:
        raise InvalidURL(
            "the address has a password, and addresses end up in logs and process lists: leave it out, and give the "
            "key with key=, TENSORWIRE_KEY or TENSORWIRE_KEY_FILE"
        )
    if not _KEY_ID.fullmatch(key_id):
        raise InvalidURL(
            "what stands before the @ of the address is no key id, expected 1 to 64 of letters, digits, '.', '_', '-'"
        )
    return key_id, rest[len(user) + 1 :]


def _parse_tcp(url: str, rest: str, key_id: str, *, tls: bool) -> Address:
    authority = rest.removesuffix("/")
    for mark, what in (("/", "a path"), ("?", "a query"), ("#", "a fragment")):
        if mark in authority:
            raise InvalidURL(f"{_shown(url)} has {what}, and an address has none: {_EXPECTED}")
    if authority.startswith("["):
        host, closed, tail = authority[1:].partition("]")
        if not closed or (tail and not tail.startswith(":")):
            raise InvalidURL(f"{_shown(url)} has an IPv6 address without its brackets: write tw://[::1]:{DEFAULT_PORT}")
        port, has_port = tail[1:], bool(tail)
    else:
        host, colon, port = authority.partition(":")
        has_port = bool(colon)
        if ":" in port:
            raise InvalidURL(
                f"{_shown(url)} has more than one colon: an IPv6 address goes in brackets, tw://[::1]:{DEFAULT_PORT}"
            )
    if not host or not host.isprintable() or " " in host:
        raise InvalidURL(f"{_shown(url)} names no host: {_EXPECTED}")
    if ":" not in host and not _is_name(host):
        raise InvalidURL(f"{_shown(url)} has an empty or overlong part between the dots of its host: {_EXPECTED}")
    number = _parse_port(url, port) if has_port else DEFAULT_TLS_PORT if tls else DEFAULT_PORT
    return Address(host=host, port=number, key_id=key_id, tls=tls)


def _is_name(host: str) -> bool:
    """Whether a look-up takes the name: parts of 1 to 63 bytes. The last may be empty."""
    if host.isascii():
        return all(1 <= len(part) <= 63 for part in host.removesuffix(".").split("."))
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _parse_port(url: str, text: str) -> int:
    # isdecimal() also takes other scripts' digits; int() would too.
    if text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    raise InvalidURL(f"{_shown(url)} has the port {_shown(text)}, expected a number from 1 to 65535")


def _parse_unix(url: str, rest: str, key_id: str) -> Address:
    # Imported here: most addresses have nothing to unquote, and every client pays for its imports.
    from urllib.parse import unquote

    path = unquote(rest)
    if not path.startswith("/"):
        raise InvalidURL(f"{url!r} needs an absolute path, with three slashes: tw+unix:///path/to.sock")
    if "\0" in path:
        raise InvalidURL(f"{url!r} has a NUL byte in its path")
    size = len(path.encode("utf-8", "surrogateescape"))
    if size > UNIX_PATH_MAX:
        raise InvalidURL(
            f"{url!r} is {size} bytes long as a path, a Unix socket takes at most {UNIX_PATH_MAX}: use a shorter one"
        )
    if path.endswith("/"):
        raise InvalidURL(f"{url!r} names a folder, expected the socket's own path")
    return Address(path=path, key_id=key_id)
