"""Addresses of servers: ``tw://host:port`` and ``tw+unix:///path/to.sock``.

Here: text in, an :class:`Address` out, with errors that say what to write instead. Not here: sockets and name lookup.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidURL

DEFAULT_PORT = 7411
UNIX_PATH_MAX = 107
"""Bytes of a path that ``sockaddr_un`` holds on Linux, without the closing zero."""

_EXPECTED = "write tw://HOST:PORT, for example tw://127.0.0.1:7411, or tw+unix:///path/to.sock"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a host and port, or the path of a Unix socket (then ``host`` is empty and ``port`` 0)."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_unix(self) -> bool:
        """Whether this is a Unix socket."""
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"tw+unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tw://{host}:{self.port}"


def parse_url(url: str) -> Address:
    """Parse a server address.

    ``tw://host``, ``tw://host:port``, ``tw://[::1]:port`` (port 7411 where none is given) and ``tw+unix:///absolute/path``.
    Raises :class:`InvalidURL` (a ``ValueError``) that names the wrong part and shows a right one.
    """
    if not isinstance(url, str):
        raise InvalidURL(f"a server address is a str, not {type(url).__name__}: {_EXPECTED}")
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise InvalidURL(f"{url!r} has no scheme: {_EXPECTED}")
    if scheme == "tw":
        return _parse_tcp(url, rest)
    if scheme == "tw+unix":
        return _parse_unix(url, rest)
    raise InvalidURL(f"{url!r} has the unknown scheme {scheme!r}: {_EXPECTED}")


def _parse_tcp(url: str, rest: str) -> Address:
    authority = rest.removesuffix("/")
    for mark, what in (("/", "a path"), ("?", "a query"), ("#", "a fragment"), ("@", "a user name")):
        if mark in authority:
            raise InvalidURL(f"{url!r} has {what}, and a tw:// address has none: {_EXPECTED}")
    if authority.startswith("["):
        host, closed, tail = authority[1:].partition("]")
        if not closed or (tail and not tail.startswith(":")):
            raise InvalidURL(f"{url!r} has an IPv6 address without its brackets: write tw://[::1]:{DEFAULT_PORT}")
        port, has_port = tail[1:], bool(tail)
    else:
        host, colon, port = authority.partition(":")
        has_port = bool(colon)
        if ":" in port:
            raise InvalidURL(
                f"{url!r} has more than one colon: an IPv6 address goes in brackets, tw://[::1]:{DEFAULT_PORT}"
            )
    if not host or not host.isprintable() or " " in host:
        raise InvalidURL(f"{url!r} names no host: {_EXPECTED}")
    return Address(host=host, port=_parse_port(url, port) if has_port else DEFAULT_PORT)


def _parse_port(url: str, text: str) -> int:
    # isdecimal() also takes other scripts' digits; int() would too.
    if text.isascii() and text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    raise InvalidURL(f"{url!r} has the port {text!r}, expected a number from 1 to 65535")


def _parse_unix(url: str, rest: str) -> Address:
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
    return Address(path=path)
