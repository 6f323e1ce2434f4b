"""Whom a connection stands for, where more than one check would have to fail for it to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorwire.server.front.credentials import Credentials
from tensorwire.server.front.ports import ConnectionInfo
from tensorwire.server.key_edits import add, remove
from tensorwire.server.key_file import Key
from tensorwire.server.keys import KeyStore
from tests.attacks.signed import SECRET, client

ONE, TWO = Key("one", bytes(range(32)), "alice"), Key("two", bytes(range(32, 64)), "alice")
INFO = ConnectionInfo(bytes(8), 0.0)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    path = tmp_path / "keys.toml"
    for key in (ONE, TWO):
        add(path, key)
    return KeyStore(path)


def test_a_key_that_was_revoked_is_nobodys_though_its_principal_has_another(store: KeyStore) -> None:
    """In the handshake, after its secret was asked for, and in a session that came in with it."""
    first, second = Credentials(INFO, store, insecure=True), Credentials(INFO, store, insecure=True)
    assert first.secret_of(b"one") == (ONE.secret, True)
    assert second.secret_of(b"two") == (TWO.secret, True)
    for credentials in (first, second):
        named = credentials.principal()
        assert named is not None
        assert named[0] == "alice"
    remove(store.path, "one")
    store.refresh(look=True)
    assert first.principal() is None
    assert second.principal() is not None


def test_who_has_neither_key_nor_certificate_is_nobody_unless_the_operator_says_so(store: KeyStore) -> None:
    for keys in (store, None):
        assert Credentials(INFO, keys, insecure=False).principal() is None
        named = Credentials(INFO, keys, insecure=True).principal()
        assert named is not None
        assert named[0] == "anonymous"


def test_no_repr_of_a_connection_or_its_configuration_shows_the_secret() -> None:
    connection = client("hmac-sha256").connection
    for text in (repr(connection.config), str(connection.config), repr(connection)):
        assert SECRET.hex() not in text
        assert repr(SECRET)[2:-1] not in text
        assert "secret" not in text
