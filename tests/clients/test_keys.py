"""A client's key: its text, its sources, what is offered with it, and that its secret is told to nobody."""

from __future__ import annotations

import base64
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from tensorwire.clients import keys
from tensorwire.clients.errors import ConnectFailed, InvalidInput, InvalidKey, LocalError
from tensorwire.clients.keys import Credentials, Key, parse_keys
from tensorwire.clients.url import parse_url
from tensorwire.protocol import Status

SECRET = bytes(range(100, 132))
TEXT = base64.urlsafe_b64encode(SECRET).rstrip(b"=").decode()
KEY = f"robot:{TEXT}"
LOCAL = parse_url("tw://127.0.0.1")
REMOTE = parse_url("tw://10.0.0.1")
MACS = ("aes-256-gmac", "hmac-sha256")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (keys.KEY_VARIABLE, keys.FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def key_file(folder: Path, text: str = KEY, mode: int = 0o600) -> Path:
    path = folder / "robot.key"
    path.write_text(text)
    path.chmod(mode)
    return path


def identity(credentials: Credentials) -> tuple[bytes, bytes]:
    config = credentials.config()
    return config.key_id, config.secret


# --- the text --------------------------------------------------------------------------------------------------------


def test_a_key_is_an_id_and_a_secret() -> None:
    (key,) = parse_keys(f"# of the robot\n  {KEY}\n\n  # the end\n", "the key")
    assert (key.id, key.secret) == ("robot", SECRET)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f":{TEXT}",
        f"robot:{TEXT[:-1]}",
        f"robot:{TEXT}=",
        f"robot:{TEXT}A",
        f"robot: {TEXT}",
        f"{TEXT}:robot",
        f"a b:{TEXT}",
        f"{'x' * 65}:{TEXT}",
        f"robot:{TEXT[:-1]}+",
        f"robot:{TEXT[:-1]}{chr(ord(TEXT[-1]) + 1)}",  # the same 32 bytes by another name
        f"röbot:{TEXT}",
        "robot:",
        "",
        "\n",
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidKey, match=r"expected ID:SECRET") as caught:
        parse_keys(text, "the key")
    assert TEXT[:20] not in str(caught.value)
    assert isinstance(caught.value, LocalError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.status is Status.UNAUTHENTICATED


# --- where it comes from ---------------------------------------------------------------------------------------------


def test_a_key_may_be_text_a_file_or_a_function(tmp_path: Path) -> None:
    for source in (KEY, key_file(tmp_path), lambda: KEY):
        assert identity(Credentials(REMOTE, source)) == (b"robot", SECRET)


def test_the_environment_has_the_key_unless_one_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(keys.FILE_VARIABLE, str(key_file(tmp_path, f"file:{TEXT}")))
    assert identity(Credentials(LOCAL))[0] == b"file"
    monkeypatch.setenv(keys.KEY_VARIABLE, KEY)
    assert identity(Credentials(LOCAL))[0] == b"robot"
    assert identity(Credentials(LOCAL, f"mine:{TEXT}"))[0] == b"mine"
    assert identity(Credentials(LOCAL, "")) == (b"", b"")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.KEY_VARIABLE, "")
    monkeypatch.setenv(keys.FILE_VARIABLE, "")
    assert identity(Credentials(LOCAL)) == (b"", b"")


def test_an_unreadable_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keys.KEY_VARIABLE, f"robot:{TEXT[:-2]}")
    with pytest.raises(InvalidKey, match=r"^TENSORWIRE_KEY, line 1, cannot be read") as caught:
        Credentials(LOCAL)
    assert TEXT[:-2] not in str(caught.value)


def test_file_and_function_are_asked_at_every_connection(tmp_path: Path) -> None:
    path, texts = key_file(tmp_path), iter((KEY, f"next:{TEXT}"))
    for credentials in (Credentials(LOCAL, path), Credentials(LOCAL, lambda: next(texts))):
        assert identity(credentials)[0] == b"robot"
        key_file(tmp_path, f"next:{TEXT}")
        assert identity(credentials)[0] == b"next"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o601, 0o610])
def test_a_file_that_others_may_touch_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, mode=mode)
    with pytest.raises(InvalidKey, match=rf"mode {mode:04o}.*chmod 600 {path}"):
        Credentials(LOCAL, path).config()


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert identity(Credentials(LOCAL, key_file(tmp_path, mode=mode)))[0] == b"robot"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey, match=r"nothing.key' cannot be read: No such file"):
        Credentials(LOCAL, tmp_path / "nothing.key").config()
    with pytest.raises(InvalidKey, match="is not a file"):
        Credentials(LOCAL, tmp_path).config()
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidKey, match="is not a file"):
        Credentials(LOCAL, tmp_path / "pipe").config()
    with pytest.raises(InvalidKey, match="more than 65536 bytes"):
        Credentials(LOCAL, key_file(tmp_path, f"{KEY}\n" * 2000)).config()
    with pytest.raises(InvalidKey, match=r"robot.key', line 1, cannot be read: expected ID:SECRET"):
        Credentials(LOCAL, key_file(tmp_path, "höhö")).config()


def test_text_that_is_a_path_is_pointed_at_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey, match=r"is the path of a file.*key=pathlib.Path"):
        Credentials(LOCAL, str(key_file(tmp_path)))


def test_a_function_that_raises_fails_the_connection_and_stays_the_cause() -> None:
    def broken() -> str:
        raise OSError(f"the vault says {KEY}")

    with pytest.raises(ConnectFailed, match=r"^the key's function raised OSError$") as caught:
        Credentials(LOCAL, broken).config()
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("returned", [None, KEY.encode(), 7, ""])
def test_a_function_that_returns_no_key_is_refused(returned: Any) -> None:
    with pytest.raises(InvalidKey, match="the key's function returned") as caught:
        Credentials(LOCAL, lambda: returned).config()
    assert TEXT not in str(caught.value)


@pytest.mark.parametrize("key", [KEY.encode(), 7, ("robot", TEXT)])
def test_another_type_is_refused_and_not_repeated(key: Any) -> None:
    with pytest.raises(InvalidKey, match=r"expected a str, a pathlib\.Path or a callable") as caught:
        Credentials(LOCAL, key)
    assert TEXT not in str(caught.value)


def test_the_address_says_which_of_several_keys() -> None:
    both = f"robot:{TEXT}\narm:{TEXT}\n"
    assert identity(Credentials(parse_url("tw://arm@10.0.0.1"), both))[0] == b"arm"
    for url in ("tw://10.0.0.1", "tw://leg@10.0.0.1"):
        with pytest.raises(InvalidKey, match="name one of robot, arm as in tw://KEYID@host"):
            Credentials(parse_url(url), both)
    with pytest.raises(InvalidKey, match="no single key 'arm'"):
        Credentials(parse_url("tw://arm@10.0.0.1"), KEY)


# --- without one -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["tw://10.0.0.1", "tw://gpu1", "tw://[fe80::1]", "tw://0.0.0.0"])
@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_no_other_machine_is_talked_to(url: str, key: str | None) -> None:
    with pytest.raises(InvalidKey, match=r"not on this machine.*TENSORWIRE_KEY_FILE.*tensorwire keys new"):
        Credentials(parse_url(url), key)


@pytest.mark.parametrize("url", ["tw://127.0.0.1", "tw://[::1]", "tw://localhost", "tw+unix:///run/t.sock"])
def test_without_a_key_this_machine_is_offered_no_mac(url: str) -> None:
    config = Credentials(parse_url(url)).config()
    assert (config.mac_algorithms, config.key_id, config.secret) == (("none",), b"", b"")


def test_an_address_that_names_a_key_wants_it() -> None:
    with pytest.raises(InvalidKey, match="names the key 'robot', and no key is given"):
        Credentials(parse_url("tw://robot@127.0.0.1"))


# --- what is offered with it -----------------------------------------------------------------------------------------


def test_with_a_key_the_fastest_mac_is_offered_first_and_none_never(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Credentials(LOCAL, KEY).config().mac_algorithms == MACS
    monkeypatch.setattr(keys, "available_macs", lambda: ("none", "hmac-sha256"))
    assert Credentials(LOCAL, KEY).config().mac_algorithms == ("hmac-sha256",)
    with pytest.raises(InvalidInput, match=r"pip install 'tensorwire\[fast\]'"):
        Credentials(LOCAL, KEY, "aes-256-gmac")


def test_the_caller_may_choose_the_macs() -> None:
    assert Credentials(REMOTE, KEY, "hmac-sha256").config().mac_algorithms == ("hmac-sha256",)
    assert Credentials(REMOTE, KEY, MACS[::-1]).config().mac_algorithms == MACS[::-1]
    assert Credentials(LOCAL, KEY, "none").config().mac_algorithms == ("none",)
    assert Credentials(LOCAL, "", "none").config().mac_algorithms == ("none",)


@pytest.mark.parametrize(
    ("key", "mac", "hint"),
    [
        (KEY, "none", "not on this machine"),
        (KEY, ("hmac-sha256", "none"), "not on this machine"),
        (KEY, "md5", "'md5' is unknown, expected one of aes-256-gmac, hmac-sha256, none"),
        (KEY, (), "mac is empty"),
    ],
)
def test_a_weak_or_unknown_mac_is_refused(key: str, mac: Any, hint: str) -> None:
    with pytest.raises(InvalidInput, match=hint):
        Credentials(REMOTE, key, mac)


def test_a_mac_needs_a_key() -> None:
    with pytest.raises(InvalidInput, match="needs a key"):
        Credentials(LOCAL, "", "hmac-sha256")


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_neither_repr_nor_pickle_tells_the_secret() -> None:
    credentials = Credentials(LOCAL, KEY)
    for thing in (credentials, credentials.config(), Key("robot", SECRET)):
        for shown in (repr(thing), str(thing), f"{thing}"):
            assert TEXT not in shown
            assert repr(SECRET) not in shown
    for secretive in (credentials, Key("robot", SECRET)):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secretive)
    assert "robot" in repr(Key("robot", SECRET))


def test_nothing_is_imported_for_keys_that_are_not_used() -> None:
    import subprocess

    code = (
        "import sys, tensorwire; tensorwire.connect; from tensorwire.clients.keys import Credentials\n"
        "from tensorwire.clients.url import Address\n"
        f"Credentials(Address('127.0.0.1', 1), {KEY!r}).config()\n"
        "print([name for name in ('cryptography', 'ssl', 'pathlib') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
