"""`tensorwire certs dev`: what it makes, and what it leaves alone."""

from __future__ import annotations

import ipaddress
import shlex
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tensorwire.server.cert_commands import FILES, certs
from tensorwire.server.cli import serve
from tensorwire.server.settings import load_settings
from tensorwire.server.start_checks import check_access


def make(folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(certs, ["dev", "--out", str(folder), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_keys_are_for_their_owner_alone_and_the_cas_is_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "certs"
    make(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for path in folder.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in (folder / "ca.pem").read_bytes()


def test_the_servers_certificate_has_the_local_names_and_those_asked_for(tmp_path: Path) -> None:
    make(tmp_path, "--host", "gpu1.example.com", "--host", "10.0.0.7", "--host", "localhost")
    names = load(tmp_path / "server.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "gpu1.example.com"]
    assert set(names.get_values_for_type(x509.IPAddress)) == {
        ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", "10.0.0.7")
    }


@pytest.mark.parametrize(
    ("name", "usage"),
    [("server.pem", ExtendedKeyUsageOID.SERVER_AUTH), ("client.pem", ExtendedKeyUsageOID.CLIENT_AUTH)],
)
def test_each_certificate_is_for_its_own_side_and_from_the_ca(
    tmp_path: Path, name: str, usage: x509.ObjectIdentifier
) -> None:
    make(tmp_path)
    certificate, authority = load(tmp_path / name), load(tmp_path / "ca.pem")
    certificate.verify_directly_issued_by(authority)
    extensions = certificate.extensions
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 30


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    result = CliRunner().invoke(certs, ["dev", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert name in result.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("arguments", [["--host", ""], ["--client", ""], ["--host", "b\u00fccher.example"]])
def test_a_name_that_no_certificate_can_have_is_refused_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(certs, ["dev", "--out", str(tmp_path / "certs"), *arguments])
    assert result.exit_code == 1
    assert "Error: no certificate can have this name" in result.output
    assert not (tmp_path / "certs").exists()


def test_the_lines_it_prints_are_what_the_server_takes(tmp_path: Path) -> None:
    output = make(tmp_path / "some folder").replace("\\\n", " ")
    lines = [shlex.split(line) for line in output.splitlines() if line.strip().startswith("tensorwire serve")]
    assert len(lines) == 2
    for line in lines:
        context = serve.make_context("serve", line[2:])
        flags = {name: value for name, value in context.params.items() if value is not None}
        del flags["models_dir"]
        flags.pop("config", None)
        settings = load_settings(None, flags)
        assert settings.tls_port == 7413
        assert settings.tls_cert is not None
        assert settings.tls_cert.is_file()
        check_access(settings)
    assert settings.tls_principals == {"client": "client"}
