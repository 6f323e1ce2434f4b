"""The certificates of the TLS port: contexts that speak TLS 1.3 alone, made from files and made again when they change.

What lives here: which certificate new connections are served with, and the channel binding that belongs to it. What
must not: connections (front/tls_layer.py), making certificates (cert_commands.py).
"""

from __future__ import annotations

import hashlib
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .logs import get_logger

log = get_logger("tls")


class CertificateError(Exception):
    """A certificate or its key cannot be used; the message says which file, and what was expected."""


@dataclass(frozen=True, slots=True)
class LoadedCertificate:
    """What one connection is served with: the context, and SHA-256 of the leaf certificate that it presents."""

    context: ssl.SSLContext
    binding: bytes


class Certificates:
    """The certificate, its key and the CA of the clients, as their files were when last looked at.

    Connections keep what they were accepted with. Raises CertificateError if the files cannot be used at the start;
    later that is logged, and what was loaded before stays.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._stamps = self._look()
        self.served = _load(cert, key, client_ca)

    def binding(self) -> bytes:
        """Return the channel binding of a connection accepted now (SPEC 11.3)."""
        return self.served.binding  # guard: tls-binding-of-server

    def reload_if_changed(self) -> None:
        """Load the files again if one of them is another than it was; for a look every second or so."""
        if self._look() != self._stamps:
            self.reload()

    def reload(self) -> None:
        """Load the files again. What cannot be used is logged, and the certificate stays the one there was."""
        self._stamps = self._look()
        try:
            self.served = _load(self._cert, self._key, self._client_ca)
        except CertificateError as error:  # guard: tls-reload
            log.error("TLS certificate not reloaded; the one before stays in use", reason=str(error))  # noqa: TRY400
        else:
            log.info("TLS certificate loaded", binding=self.served.binding.hex())

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in (self._cert, self._key, self._client_ca) if path is not None]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what differs when a file was written or replaced."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


def _load(cert: Path, key: Path, client_ca: Path | None) -> LoadedCertificate:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # guard: tls-version
    context.num_tickets = 0  # every connection shows its certificate: nothing is resumed
    for path, setting in ((cert, "tls_cert"), (key, "tls_key"), (client_ca, "tls_client_ca")):
        try:
            if path is not None:
                path.open("rb").close()
        except OSError as error:
            raise CertificateError(f"{setting} {str(path)!r} cannot be read: {error.strerror}") from None
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(
            f"tls_cert {str(cert)!r} and tls_key {str(key)!r} cannot be used: {_reason(error)}; expected PEM, the "
            "server's certificate first and then those of its issuers, and the unencrypted key of the first"
        ) from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise CertificateError(
                f"tls_client_ca {str(client_ca)!r} cannot be used: {_reason(error)}; expected the PEM certificates of "
                "the CAs that clients' certificates are checked with"
            ) from None
        context.verify_mode = ssl.CERT_REQUIRED  # guard: client-certificate
    return LoadedCertificate(context, hashlib.sha256(_presented(context)).digest())


def _no_password() -> str:
    """Refuse an encrypted key: asking for its password would stop the server, or its reload."""
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return reason.lower().replace("_", " ") if reason else str(error)


def _presented(context: ssl.SSLContext) -> bytes:
    """Return the leaf certificate, as DER, that `context` presents.

    Asked for in memory as a client would ask, so that it is what clients see, whatever happens to the files meanwhile.
    """
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE  # our own certificate, from our own memory
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = asking.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        with suppress(ssl.SSLWantReadError):
            side.do_handshake()
    certificate = client.getpeercert(binary_form=True)
    if certificate is None:
        raise CertificateError("the TLS certificate cannot be learned from its own context; report this as a bug")
    return certificate
