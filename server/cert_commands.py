"""`tensorwire certs dev`: a certificate authority of one's own, for trying TLS.

What lives here: making the certificates, and the lines to try them with. What must not: serving with them (tls.py).
"""

from __future__ import annotations

import ipaddress
import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..protocol.safe_text import masked

DAYS = 30
"""Days that the certificates hold: enough to try, too few to be forgotten in production."""

ALWAYS = ("localhost", "127.0.0.1", "::1")
FILES = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")

_Certificate = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


@click.group(short_help="Make certificates for trying TLS.")
def certs() -> None:
    """Certificates for trying TLS; production brings its own."""


@certs.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("certs"),
    show_default=True,
    help="Folder for the files. It is made if it is not there; files in it are never overwritten.",
)
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help=f"Host name or address that clients use, beside {', '.join(ALWAYS)}. May be repeated.",
)
@click.option(
    "--client", default="client", show_default=True, metavar="NAME", help="Common name of the client's certificate."
)
def dev(out: Path, hosts: tuple[str, ...], client: str) -> None:
    """Make a local CA, a server certificate and a client certificate.

    They hold for 30 days. The CA's key is not kept: nobody can make further certificates that its users would trust.

    \b
    Examples:
      tensorwire certs dev
      tensorwire certs dev --out certs --host gpu1.example.com --host 10.0.0.7
    """  # noqa: D301 - click knows a paragraph not to be wrapped by a backspace
    there = [name for name in FILES if os.path.lexists(out / name)]
    if there:
        raise click.ClickException(
            f"{str(out)!r} has {', '.join(there)} already, and nothing is overwritten: give another folder with --out, "
            "or remove them"
        )
    files = make_files(hosts, client)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            _write(out / name, content)
    except OSError as error:
        raise click.ClickException(f"{error.filename!r}: {error.strerror}") from None
    click.echo(masked(_advice(out, client)))


def make_files(hosts: Sequence[str] = (), client: str = "client") -> dict[str, bytes]:
    """Make the files of `tensorwire certs dev`, name -> PEM: ca.pem, server.pem, server.key, client.pem, client.key.

    hosts: names and addresses of the server beside localhost. client: common name of the client's certificate. Raises
    click.ClickException for a name that no certificate can have.
    """
    try:
        names = [_general_name(host) for host in dict.fromkeys((*ALWAYS, *hosts))]
        authority = _issue("tensorwire development CA", None)
        server = _issue("tensorwire development server", authority, ExtendedKeyUsageOID.SERVER_AUTH, names)
        caller = _issue(client, authority, ExtendedKeyUsageOID.CLIENT_AUTH)
    except ValueError as error:
        raise click.ClickException(f"no certificate can have this name: {error}") from None
    return {
        "ca.pem": _pem(authority),
        "server.pem": _pem(server),
        "server.key": _key(server),
        "client.pem": _pem(caller),
        "client.key": _key(caller),
    }


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not host:
            raise ValueError("the name of a host is empty") from None
        return x509.DNSName(host)


def _issue(
    name: str,
    issuer: _Certificate | None,
    usage: x509.ObjectIdentifier | None = None,
    names: Sequence[x509.GeneralName] = (),
) -> _Certificate:
    """Make a certificate by `issuer`, or one of a CA by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer = key if issuer is None else issuer[1]
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
        .add_extension(_key_usage(authority=issuer is None), True)
    )
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return builder.sign(signer, hashes.SHA256()), key


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(made: _Certificate) -> bytes:
    return made[0].public_bytes(serialization.Encoding.PEM)


def _key(made: _Certificate) -> bytes:
    return made[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes) -> None:
    """Write a new file; keys never exist with a mode that others could read."""
    mode = 0o600 if path.suffix == ".key" else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _advice(out: Path, client: str) -> str:
    ca, cert, key, own_cert, own_key = (shlex.quote(str(out / name)) for name in FILES)
    serve = f"tensorwire serve models/ --no-tcp --tls-port 7413 --tls-cert {cert} --tls-key {key}"
    call = "tensorwire models --url tws://localhost:7413"
    name = shlex.quote(f"{client}={client}")
    return f"""\
{out}: a CA, a server certificate and a client certificate, for {DAYS} days. For trying only.

TLS, for everybody who reaches the port (with keys: --keys FILE in the place of --insecure, see tensorwire keys new):
  {serve} --insecure
  TENSORWIRE_TLS_CA={ca} {call}

TLS with client certificates (mTLS), where the client is the principal {client!r}:
  {serve} \\
    --tls-client-ca {ca} --tls-principals {name}
  TENSORWIRE_TLS_CA={ca} TENSORWIRE_TLS_CLIENT_CERT={own_cert} \\
    TENSORWIRE_TLS_CLIENT_KEY={own_key} {call}"""
