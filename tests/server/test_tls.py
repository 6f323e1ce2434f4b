"""Certificates of the TLS port: what is refused at the start, and what a change of the files does later."""

from __future__ import annotations

import hashlib
import os
import ssl
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tensorwire.server.tls import CertificateError, Certificates
from tests.support.certificates import Certificates as Files
from tests.support.certificates import bundle, make_certificates


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_certificates(tmp_path / "certificates")


def leaf(pem: Path) -> bytes:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem.read_text())).digest()


def test_the_binding_is_the_hash_of_the_leaf_certificate(files: Files, tmp_path: Path) -> None:
    cert, key = files.server
    certificates = Certificates(cert, key)
    assert certificates.binding() == leaf(cert)
    assert certificates.served.context.verify_mode is ssl.CERT_NONE
    chain = tmp_path / "chain.pem"  # with its issuer behind it, as public CAs hand it out
    chain.write_bytes(cert.read_bytes() + files.ca.read_bytes())
    assert Certificates(chain, key).binding() == leaf(cert)


def test_the_binding_is_learned_where_clients_need_certificates_too(files: Files) -> None:
    certificates = Certificates(*files.server, files.ca)
    assert certificates.binding() == leaf(files.server[0])
    assert certificates.served.context.verify_mode is ssl.CERT_REQUIRED


def test_nothing_older_than_tls_1_3_and_nothing_resumed(files: Files) -> None:
    context = Certificates(*files.server).served.context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.num_tickets == 0


def test_files_that_cannot_be_used_are_named(files: Files, tmp_path: Path) -> None:
    cert, key = files.server
    other = make_certificates(tmp_path / "other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    locked = tmp_path / "locked.key"
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"words"),
        )
    )
    for arguments, words in (
        ((tmp_path / "none.pem", key), "tls_cert .*none.pem.*No such file"),
        ((cert, tmp_path / "none.key"), "tls_key .*none.key.*No such file"),
        ((cert, key, tmp_path / "none.pem"), "tls_client_ca .*none.pem.*No such file"),
        ((text, key), "text.pem.*expected PEM"),
        ((cert, text), "text.pem.*expected PEM"),
        ((cert, other.server[1]), "key values mismatch"),
        ((cert, locked), "the key is encrypted"),
        ((cert, key, text), "tls_client_ca .*text.pem.*expected the PEM"),
    ):
        with pytest.raises(CertificateError, match=words):
            Certificates(*arguments)


def put(new: Path, old: Path) -> None:
    """Replace a file so that its time differs, whatever the clock's resolution."""
    old.write_bytes(new.read_bytes())
    os.utime(old, ns=(time.time_ns(), time.time_ns() + 1_000_000))


def test_changed_files_are_loaded_and_unchanged_ones_are_not(files: Files, tmp_path: Path) -> None:
    certificates = Certificates(*files.server)
    first = certificates.served
    certificates.reload_if_changed()
    assert certificates.served is first
    other = make_certificates(tmp_path / "other")
    for new, old in zip(other.server, files.server, strict=True):
        put(new, old)
    certificates.reload_if_changed()
    assert certificates.served is not first  # a context of its own: connections keep theirs
    assert certificates.binding() == leaf(other.server[0])
    assert first.binding != certificates.binding()


def test_half_of_a_change_keeps_what_there_was_until_the_other_half_comes(files: Files, tmp_path: Path) -> None:
    certificates = Certificates(*files.server)
    before = certificates.served
    other = make_certificates(tmp_path / "other")
    put(other.server[0], files.server[0])
    certificates.reload_if_changed()
    assert certificates.served is before
    files.server[1].unlink()
    certificates.reload_if_changed()
    assert certificates.served is before
    put(other.server[1], files.server[1])
    certificates.reload_if_changed()
    assert certificates.binding() == leaf(other.server[0])


def test_a_changed_client_ca_is_loaded_too(files: Files, tmp_path: Path) -> None:
    ca = tmp_path / "cas.pem"
    other = make_certificates(tmp_path / "other")
    bundle(ca, files)
    certificates = Certificates(*files.server, ca)
    assert certificates.served.context.cert_store_stats()["x509_ca"] == 1
    bundle(ca, files, other)
    os.utime(ca, ns=(time.time_ns(), time.time_ns() + 1_000_000))
    certificates.reload_if_changed()
    assert certificates.served.context.cert_store_stats()["x509_ca"] == 2


def test_a_reload_that_was_asked_for_does_not_look_whether_anything_changed(files: Files) -> None:
    certificates = Certificates(*files.server)
    before = certificates.served
    certificates.reload()
    assert certificates.served is not before
    assert certificates.binding() == before.binding
