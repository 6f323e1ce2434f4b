"""TLS 1.3 under both clients: who is trusted, which certificate the server showed, what its errors mean.

A :class:`Channel` is TLS for the blocking client, without I/O. Its socket stays a plain one: a thread waits for
ciphertext, or asks for it without sleeping, while another one sends, which one SSL object would not survive; and the
kernel's timeouts and wake-ups work as they do without TLS. The asyncio client has asyncio's TLS and takes the context
from here. Certificates are always verified; nothing here can be told not to. Not here: when to connect (``core``).
"""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import time
from contextlib import suppress

from .errors import AuthenticationError, ConnectFailed, InvalidInput, TensorwireError
from .url import Address

CA_VARIABLE = "TENSORWIRE_TLS_CA"
CERT_VARIABLE = "TENSORWIRE_TLS_CLIENT_CERT"
KEY_VARIABLE = "TENSORWIRE_TLS_CLIENT_KEY"

CIPHERTEXT_BYTES = 256 << 10
"""Bytes of one read: one chunk of the largest usual size."""

JOIN = 65536
"""Bytes up to which what is written at once is joined: each buffer costs a record of TLS."""

_HANDSHAKE, _ALERT = 0x16, 0x15  # first bytes of what a TLS server may answer with
_UNKNOWN_ISSUER = frozenset({18, 19, 20, 21})  # OpenSSL's X509_V_ERR_*: self-signed, or by nobody who is trusted
_OTHER_NAME = frozenset({62, 64})
_NOT_TLS = (
    "the port does not speak TLS: where it speaks plain tensorwire the address begins with tw://, and TLS has a port "
    "of its own (tls_port of the server, usually 7413)"
)
_WORDS = {
    "WRONG_VERSION_NUMBER": _NOT_TLS,
    "HTTP_REQUEST": _NOT_TLS,
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server does not speak TLS 1.3, which it must",
    "UNSUPPORTED_PROTOCOL": "the server does not speak TLS 1.3, which it must",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        f"the server wants a certificate of the client: give tls_cert and tls_key, or set {CERT_VARIABLE} and "
        f"{KEY_VARIABLE}"
    ),
}


class Trust:
    """What one client trusts, and shows, under TLS.

    ``ca``: PEM file of the CAs that a server's certificate may come from; None for what TENSORWIRE_TLS_CA names, else
    the system's. ``cert``, ``key``: PEM files of the client's own certificate and its key, for servers that want one;
    None for what TENSORWIRE_TLS_CLIENT_CERT and TENSORWIRE_TLS_CLIENT_KEY name. Files that change are read again at the
    next connection. Raises :class:`InvalidInput` for files that will not do.
    """

    def __init__(
        self,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
    ) -> None:
        self._ca = _path(ca, CA_VARIABLE)
        self._cert = _path(cert, CERT_VARIABLE)
        self._key = _path(key, KEY_VARIABLE)
        if bool(self._cert) != bool(self._key):
            raise InvalidInput("tls_cert and tls_key go together: the client's certificate and the key of it")
        self._stamps = self._look()
        self._context = self._make()

    def context(self) -> ssl.SSLContext:
        """Make the context of the next connection. Raises :class:`InvalidInput`."""
        stamps = self._look()
        if stamps != self._stamps:
            self._context = self._make()
            self._stamps = stamps
        return self._context

    def _look(self) -> list[tuple[int, int, int]]:
        found = []
        for path in filter(None, (self._ca, self._cert, self._key)):
            try:
                status = os.stat(path)  # noqa: PTH116 - every client pays for its imports
            except OSError as error:
                raise InvalidInput(f"the TLS file {path!r} cannot be read: {error.strerror}") from None
            found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    def _make(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._ca or None)
        except (ssl.SSLError, OSError) as error:
            raise InvalidInput(f"tls_ca {self._ca!r} cannot be used: {_plain(error)}; expected PEM") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # guard: tls-version-of-server
        if self._cert:
            try:
                context.load_cert_chain(self._cert, self._key, password=_no_password)
            except (ssl.SSLError, OSError, ValueError) as error:
                raise InvalidInput(
                    f"tls_cert {self._cert!r} and tls_key {self._key!r} cannot be used: {_plain(error)}; expected PEM, "
                    "the certificate first and then those of its issuers, and its unencrypted key"
                ) from None
        return context


def trust_for(
    address: Address,
    ca: str | os.PathLike[str] | None,
    cert: str | os.PathLike[str] | None,
    key: str | os.PathLike[str] | None,
) -> Trust | None:
    """Return what a client of ``address`` trusts; None without TLS. Raises :class:`InvalidInput`."""
    if address.tls:
        return Trust(ca, cert, key)
    for name, value in (("tls_ca", ca), ("tls_cert", cert), ("tls_key", key)):
        if value is not None:  # guard: tls-left-out
            raise InvalidInput(f"{name} is given, and {address} is an address without TLS: write tws://HOST:PORT")
    return None


def _path(given: str | os.PathLike[str] | None, variable: str) -> str:
    return os.environ.get(variable, "") if given is None else os.fspath(given)


def _no_password() -> str:
    """Refuse an encrypted key: asking for its password would stop whoever connects."""
    raise ValueError("the key is encrypted")


def _plain(error: Exception) -> str:
    """OpenSSL's or the system's own words."""
    reason = getattr(error, "reason", None)
    if reason:
        return str(reason).lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)


class Channel:
    """TLS on one socket: ciphertext in and out, by hand. Made by :func:`secure`; serialised by its owner."""

    __slots__ = ("_incoming", "_outgoing", "_tls", "binding", "buffer", "ended")

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.buffer = memoryview(bytearray(CIPHERTEXT_BYTES))
        """Where ciphertext is read to."""
        self.binding = b""
        """The channel binding, once the handshake is done."""
        self.ended = False
        """The server has said that it sends no more."""

    def shake(self) -> bytes:
        """One step of the handshake: what is to be sent. ``binding`` is set once it is over. Raises ``SSLError``."""
        with suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            self.binding = binding_of(self._tls)
        return self._outgoing.read()

    def leftover(self) -> bytes:
        """Return what is to be sent still."""
        return self._outgoing.read()

    def feed(self, n: int) -> None:
        """``n`` bytes of ciphertext lie in the buffer."""
        self._incoming.write(self.buffer[:n])

    def open(self, buffer: memoryview) -> int:
        """Fill ``buffer`` with what the ciphertext holds: how many bytes, 0 for none now. Raises ``SSLError``."""
        filled, size = 0, len(buffer)
        with suppress(ssl.SSLWantReadError):
            while filled < size and (self._incoming.pending or self._tls.pending()):
                n = int(self._tls.read(size - filled, buffer[filled:]))
                if not n:
                    self.ended = True
                    break
                filled += n
        return filled

    def seal(self, buffers: list[bytes | memoryview]) -> list[bytes | memoryview]:
        """Encrypt ``buffers``. Raises ``SSLError``."""
        if sum(map(len, buffers)) <= JOIN:
            buffers = [b"".join(buffers)]
        for data in buffers:
            sent = self._tls.write(data)
            while sent < len(data):  # one record at a time
                sent += self._tls.write(memoryview(data)[sent:])
        return [self._outgoing.read()]

    def explain(self, error: OSError) -> str:
        """Return what an error of the socket or of TLS means."""
        return describe(error) if isinstance(error, ssl.SSLError) else error.strerror or str(error)

    def goodbye(self) -> bytes:
        """Return what tells the server that no more follows."""
        with suppress(ssl.SSLError):  # it wants to read the server's answer, which nobody waits for
            self._tls.unwrap()
        return self._outgoing.read()


def secure(sock: socket.socket, context: ssl.SSLContext, host: str, timeout: float) -> Channel:
    """TLS on a socket connected to ``host``, within ``timeout`` seconds.

    Raises :class:`TensorwireError`, ``OSError``.
    """
    until = time.monotonic() + timeout
    channel = Channel(context, host)
    first = True
    try:
        while True:
            sock.settimeout(max(1e-3, until - time.monotonic()))
            sock.sendall(channel.shake())
            if channel.binding:
                return channel
            n = sock.recv_into(channel.buffer)
            if not n:
                raise ConnectFailed("the server closed the connection instead of speaking TLS: is it the right port?")
            if first and channel.buffer[0] not in {_HANDSHAKE, _ALERT}:
                raise ConnectFailed(_NOT_TLS)
            first = False
            channel.feed(n)
    except ssl.SSLError as error:
        with suppress(OSError):
            sock.sendall(channel.leftover())  # the alert, which tells the server
        raise refused(error) from None
    finally:
        sock.settimeout(None)


def binding_of(tls: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    """Return the channel binding: SHA-256 of the certificate that the server showed here (SPEC 11.3).

    Raises :class:`AuthenticationError` where it cannot be learned.
    """
    certificate = tls.getpeercert(binary_form=True)
    if not certificate:  # guard: tls-binding
        raise AuthenticationError("the server's certificate cannot be learned, so that nothing can be bound to it")
    return hashlib.sha256(certificate).digest()


def refused(error: ssl.SSLError) -> TensorwireError:
    """Make the error of a failed TLS handshake: :class:`AuthenticationError` where another try would not do either."""
    kind = AuthenticationError if isinstance(error, ssl.SSLCertVerificationError) else ConnectFailed
    return kind(describe(error))


def describe(error: ssl.SSLError) -> str:
    """Return what a TLS error means, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "whoever runs the server must mend it"
        if error.verify_code in _UNKNOWN_ISSUER:
            hint = f"give the CA that it comes from with tls_ca= or {CA_VARIABLE}"
        elif error.verify_code in _OTHER_NAME:
            hint = "connect by a name that stands in the certificate"
        return f"the server's certificate is not trusted ({error.verify_message.rstrip('.')}): {hint}"
    reason = error.reason or ""
    if reason in _WORDS:
        return _WORDS[reason]
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return f"the server does not take the client's certificate ({_plain(error)}): see tls_cert and tls_key"
    return f"TLS failed: {_plain(error)}"
