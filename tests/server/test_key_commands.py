"""tensorwire keys: what becomes of the file, what is printed, and what never is."""

from __future__ import annotations

import re
import stat
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tensorwire.server import key_edits
from tensorwire.server.key_commands import keys
from tensorwire.server.key_file import Key, KeyFileError, read_keys, secret_text
from tensorwire.server.keys import KeyStore

DAY = 86_400.0
NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, a clock that stands still, no key file in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TENSORWIRE_KEYS", raising=False)
    monkeypatch.setattr("tensorwire.server.key_commands.time.time", lambda: NOW + 0.7)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(keys, arguments, terminal_width=100)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def made(*arguments: str) -> tuple[str, bytes]:
    """The id and the secret that a command printed."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+):([A-Za-z0-9_-]{43})\n", run(*arguments).stdout)
    assert match
    (key,) = [key for key in read_keys(Path("keys.toml")) if key.id == match[1]]
    assert secret_text(key.secret) == match[2]
    return key.id, key.secret


# ---- new ----


def test_new_makes_the_file_for_its_owner_alone(here: Path) -> None:
    key_id, secret = made("new", "--principal", "bidder")
    assert stat.S_IMODE((here / "keys.toml").stat().st_mode) == 0o600
    assert read_keys(here / "keys.toml") == (Key(key_id, secret, "bidder", not_before=NOW),)
    assert key_id.startswith("bidder-")
    assert [path.name for path in here.iterdir()] == ["keys.toml"]


def test_new_takes_what_a_key_may_say() -> None:
    run("new", "--principal", "a/b", "--models", "m", "--models", "audio-*", "--days", "1.5", "--rate", "9", "k.toml")
    (key,) = read_keys(Path("k.toml"))
    assert key.id.startswith("a-b-")
    assert (key.models, key.not_before, key.not_after, key.rate) == (("m", "audio-*"), NOW, NOW + 1.5 * DAY, 9.0)


def test_new_says_what_to_do_next_beside_the_key() -> None:
    result = run("new", "--principal", "bidder")
    assert result.stdout.count("\n") == 1
    for words in ("shown only now", "TENSORWIRE_KEY", "tensorwire serve models/ --keys keys.toml"):
        assert words in result.stderr


def test_a_second_key_of_a_principal_is_like_the_first() -> None:
    run("new", "--principal", "p", "--models", "m", "--rate", "3")
    run("new", "--principal", "p")
    first, second = read_keys(Path("keys.toml"))
    assert (second.models, second.rate) == (first.models, first.rate) == (("m",), 3.0)
    assert first.id != second.id
    assert first.secret != second.secret


def test_new_writes_the_key_to_a_file_of_its_owner_and_prints_none() -> None:
    result = run("new", "--principal", "p", "--out", "p.key")
    (key,) = read_keys(Path("keys.toml"))
    assert Path("p.key").read_text() == f"{key.id}:{secret_text(key.secret)}\n"
    assert stat.S_IMODE(Path("p.key").stat().st_mode) == 0o600
    assert secret_text(key.secret) not in result.output


def test_out_replaces_no_file_and_stays_away_when_the_key_is_not_made() -> None:
    Path("p.key").write_text("precious")
    assert "exists already" in run("new", "--principal", "p", "--out", "p.key", code=1).output
    assert Path("p.key").read_text() == "precious"
    assert not Path("keys.toml").exists()
    run("new", "--principal", "p")
    run("new", "--principal", "p")
    assert "at most 2" in run("new", "--principal", "p", "--out", "q.key", code=1).output
    assert not Path("q.key").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--principal", "anonymous"], ["anonymous", "give another"]),
        (["--principal", "a b"], ["principal must be"]),
        (["--principal", "p", "--models", ""], ["models must be"]),
        (["--principal", "p", "--rate", "0"], ["rate must be"]),
        (["--principal", "p", "--days", "0"], ["--days 0"]),
        (["--principal", "p", "--days", "1e9"], ["--days 1e+09", "36500"]),
        (["--principal", "p", "none/keys.toml"], ["none", "make it first"]),
    ],
)
def test_what_new_cannot_do_is_one_line(here: Path, arguments: list[str], words: list[str]) -> None:
    output = run("new", *arguments, code=1).output
    assert output.count("\n") == 1
    for word in words:
        assert word in output
    assert list(here.iterdir()) == []


def test_the_file_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORWIRE_KEYS", "other.toml")
    run("new", "--principal", "p")
    assert len(read_keys(Path("other.toml"))) == 1


# ---- list ----


def test_list_tells_all_but_the_secrets() -> None:
    Path("e.toml").touch(0o600)
    assert "has no key" in run("list", "e.toml").output
    _, secret = made("new", "--principal", "robot", "--models", "grasp", "--days", "2", "--rate", "200")
    output = run("list").output
    for words in ("robot-", "grasp", "200", "2027-01-15 08:00", "2027-01-17 08:00", "valid"):
        assert words in output
    assert secret_text(secret) not in output


def test_list_tells_which_keys_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    run("new", "--principal", "p", "--days", "1")
    states = []
    for now in (NOW - 10, NOW, NOW + DAY):
        monkeypatch.setattr("tensorwire.server.key_commands.time.time", lambda now=now: now)
        states += re.findall(r"not yet|valid(?! \()|ended", run("list").output)
    assert states == ["not yet", "valid", "ended"]


def test_a_file_that_others_may_read_is_not_listed() -> None:
    run("new", "--principal", "p")
    Path("keys.toml").chmod(0o644)
    assert "chmod 600 keys.toml" in run("list", code=1).output


# ---- rotate ----


def test_rotate_adds_a_key_and_gives_the_old_one_an_end() -> None:
    old, _ = made("new", "--principal", "p", "--models", "m", "--rate", "4")
    new, _ = made("rotate", "p")
    first, second = read_keys(Path("keys.toml"))
    assert (first.id, first.not_after) == (old, NOW + 7 * DAY)
    assert (second.id, second.not_before, second.not_after) == (new, NOW, float("inf"))
    assert (second.principal, second.models, second.rate) == ("p", ("m",), 4.0)


@pytest.mark.parametrize(
    ("grace", "seconds"), [("90s", 90), ("30m", 1800), ("12h", 43_200), ("2d", 2 * DAY), ("0.5", 43_200)]
)
def test_the_grace_has_units(grace: str, seconds: float) -> None:
    run("new", "--principal", "p")
    run("rotate", "p", "--grace", grace)
    assert read_keys(Path("keys.toml"))[0].not_after == NOW + seconds


def test_rotate_lets_no_key_live_longer_and_gives_the_new_one_as_long_as_the_old_had() -> None:
    run("new", "--principal", "p", "--days", "3")
    run("rotate", "p")
    first, second = read_keys(Path("keys.toml"))
    assert (first.not_after, second.not_after) == (NOW + 3 * DAY, NOW + 3 * DAY)


def test_rotate_needs_one_valid_key() -> None:
    assert "does not exist" in run("rotate", "p", code=1).output
    run("new", "--principal", "p")
    assert "'q' has no key that is valid" in run("rotate", "q", code=1).output
    assert "--grace 'soon'" in run("rotate", "p", "--grace", "soon", code=1).output
    run("rotate", "p")
    before = Path("keys.toml").read_text()
    assert "has 2 keys already" in run("rotate", "p", code=1).output
    assert Path("keys.toml").read_text() == before


# ---- revoke ----


def test_revoke_takes_the_key_and_leaves_what_a_person_wrote() -> None:
    one, _ = made("new", "--principal", "one")
    two, _ = made("new", "--principal", "two")
    path = Path("keys.toml")
    path.write_text(path.read_text().replace(f'[[keys]]\nid = "{two}"', f'# of the second\n[[ keys ]]\nid = "{two}"'))
    assert f"Key {one} is gone" in run("revoke", one).output
    (left,) = read_keys(path)
    assert left.id == two
    assert "# of the second" in path.read_text()
    assert "whoever reads it" in path.read_text()
    run("revoke", two)
    assert read_keys(path) == ()


def test_revoke_of_an_unknown_key_says_which_there_are() -> None:
    key_id, _ = made("new", "--principal", "p")
    output = run("revoke", "q", code=1).output
    assert "no key 'q'" in output
    assert key_id in output


def test_no_command_takes_a_secret() -> None:
    for command in keys.commands.values():
        assert not {"secret", "key"} & {parameter.name for parameter in command.params}


# ---- the file ----


def test_a_file_that_cannot_be_edited_safely_is_left_alone() -> None:
    path = Path("keys.toml")
    path.touch(0o600)
    inline = ", ".join(
        f'{{id = "{name}", secret = "{secret_text(name.encode() * 32)}", principal = "{name}"}}' for name in "ab"
    )
    path.write_text(f"keys = [{inline}]\n")
    assert "by hand" in run("revoke", "a", code=1).output
    assert path.read_text() == f"keys = [{inline}]\n"


def test_an_edit_that_fails_leaves_the_file_and_nothing_else(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("new", "--principal", "p")
    before = Path("keys.toml").read_text()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorwire.server.key_edits.os.fsync", full)
    assert "No space left" in run("new", "--principal", "q", code=1).output
    assert Path("keys.toml").read_text() == before
    assert [path.name for path in here.iterdir()] == ["keys.toml"]


def test_a_link_stays_a_link() -> None:
    Path("real").mkdir()
    Path("keys.toml").symlink_to("real/keys.toml")
    run("new", "--principal", "p")
    run("new", "--principal", "q")
    assert Path("keys.toml").is_symlink()
    assert len(read_keys(Path("real/keys.toml"))) == 2


def test_keys_that_are_made_at_the_same_time_are_all_there() -> None:
    path = Path("keys.toml").resolve()
    keys_made = [Key(f"k{n}", bytes([n + 1]) * 32, f"p{n}") for n in range(16)]
    threads = [threading.Thread(target=key_edits.add, args=(path, key)) for key in keys_made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.id for key in read_keys(path)} == {key.id for key in keys_made}


def test_what_is_written_reads_as_it_was() -> None:
    key = Key("k", b"s" * 32, "p", ("a*", "wörter"), 1.0, 2e9, 0.1)
    path = Path("k.toml")
    key_edits.add(path, key)
    assert read_keys(path) == (key,)
    with pytest.raises(KeyFileError, match="same secret"):
        key_edits.add(path, replace(key, id="l"))
    assert KeyStore(path, lambda: 3.0).secret_of(b"k") == (key.secret, True)
