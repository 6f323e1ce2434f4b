"""The key file and the store: who may call, from when until when, and what a change of the file does."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from tensorwire.server.key_file import (
    FILE_BYTES,
    MAX_PATTERNS,
    Key,
    KeyFileError,
    parse_keys,
    read_keys,
    secret_text,
)
from tensorwire.server.keys import EVERYTHING, SETTLED, KeyStore, Scope

ONE, TWO, THREE = (bytes([number]) * 31 + b"\x01" for number in (1, 2, 3))
NOON = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def entry(key_id: str = "a", secret: bytes = ONE, principal: str = "bidder", **fields: str) -> str:
    """One [[keys]] table; `fields` are TOML."""
    lines = [f'id = "{key_id}"', f'secret = "{secret_text(secret)}"', f'principal = "{principal}"']
    return "\n".join(["[[keys]]", *lines, *(f"{name} = {value}" for name, value in fields.items()), ""])


def written(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Store:
    """A store whose clock is told and whose file is written."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = written(path / "keys.toml", text)
        self.clock = Clock()
        self.keys = KeyStore(self.path, self.clock)
        self._written = 0

    def write(self, text: str) -> None:
        """Replace the file, as an editor does."""
        self._written += 1
        other = written(self.path.with_suffix(f".{self._written}"), text)
        other.replace(self.path)


# ---- the file ----


def test_a_key_has_all_its_fields() -> None:
    text = entry(
        models='["ranker", "audio-*"]',
        not_before="2027-01-01T00:00:00Z",
        not_after="2027-02-01T01:00:00+01:00",
        rate="5",
    )
    assert parse_keys(text, "keys.toml") == (
        Key("a", ONE, "bidder", ("ranker", "audio-*"), 1_798_761_600.0, 1_801_440_000.0, 5.0),
    )


def test_a_key_without_the_optional_fields_sees_everything_for_ever() -> None:
    (key,) = parse_keys(entry(), "keys.toml")
    assert (key.models, key.rate, key.valid(-1e18), key.valid(1e18)) == (("*",), None, True, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (entry(colour='"red"'), ["key 'a'", "colour", "not_after"]),
        (entry(key_id="a b"), ["key number 1", "id must be"]),
        (entry() + entry(key_id=f"a:{secret_text(TWO)}", secret=TWO), ["key number 2", "id must be"]),
        (entry(principal=""), ["key 'a'", "principal must be"]),
        (entry(principal="anonymous"), ["key 'a'", "without a key"]),
        (entry(models='"ranker"'), ["key 'a'", "models must be", '["*"]']),
        (entry(models="[]"), ["models must be"]),
        (entry(models='[""]'), ["models must be"]),
        (entry(models=str(["m"] * (MAX_PATTERNS + 1))), ["models must be"]),
        (entry(models='["a\\u001b"]'), ["models must be"]),
        (entry(rate="0"), ["rate must be"]),
        (entry(rate="true"), ["rate must be"]),
        (entry(rate="nan"), ["rate must be"]),
        (entry(not_after="2027-01-01"), ["not_after must be", "2027-01-31T00:00:00Z"]),
        (entry(not_before="2027-01-01T00:00:00"), ["not_before must be", "offset"]),
        (entry(not_before="2027-01-02T00:00:00Z", not_after="2027-01-02T00:00:00Z"), ["never be valid"]),
        (entry() + entry(secret=TWO), ["'a' is there twice"]),
        (entry() + entry("b"), ["'a' and 'b' have the same secret"]),
        (entry() + entry("b", TWO, models='["m"]'), ["'a' and 'b'", "differ in models"]),
        (entry() + entry("b", TWO) + entry("c", THREE), ["3 keys", "a, b, c", "at most 2", "revoke"]),
        ("keys = 1", [r"[[keys]]"]),
        ("keys = [1]", [r"[[keys]]"]),
        ("[keys]\na = 1", [r"[[keys]]"]),
        ("port = 1\n" + entry(), [r"[[keys]]"]),
        ("[[keys]\n", ["no valid TOML", "line 1"]),
    ],
)
def test_what_is_wrong_in_the_file_is_told_without_a_secret(text: str, words: list[str]) -> None:
    with pytest.raises(KeyFileError) as caught:
        parse_keys(text, "keys.toml")
    for word in ("keys.toml", *words):
        assert word in str(caught.value)
    told = "".join(traceback.format_exception(caught.value))
    assert not any(secret_text(secret) in told for secret in (ONE, TWO, THREE))


@pytest.mark.parametrize(
    "secret",
    ["", "a", secret_text(ONE)[:-1], secret_text(ONE) + "=", secret_text(ONE)[:-1] + "F", "+" + secret_text(ONE)[1:]],
)
def test_a_bad_secret_is_refused_and_not_shown(secret: str) -> None:
    text = f'[[keys]]\nid = "a"\nsecret = "{secret}"\nprincipal = "p"\n'
    with pytest.raises(KeyFileError, match=r"key 'a': secret must be 32 random bytes.*tensorwire keys new") as caught:
        parse_keys(text, "keys.toml")
    assert len(secret) < 2 or secret not in str(caught.value)


def test_a_secret_given_as_the_name_of_a_field_is_not_shown() -> None:
    with pytest.raises(KeyFileError) as caught:
        parse_keys(f"[[keys]]\n{secret_text(ONE)} = 1\n", "keys.toml")
    assert secret_text(ONE) not in str(caught.value)


def test_keys_of_a_principal_may_follow_each_other() -> None:
    text = entry(not_after="2027-01-01T00:00:00Z") + entry(
        "b", TWO, not_before="2026-12-24T00:00:00Z", not_after="2027-06-01T00:00:00Z"
    )
    assert len(parse_keys(text + entry("c", THREE, not_before="2027-05-24T00:00:00Z"), "keys.toml")) == 3


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602, 0o610])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "keys.toml", entry())
    path.chmod(mode)
    with pytest.raises(KeyFileError, match=rf"mode {mode:04o}.*chmod 600 {path}"):
        read_keys(path)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = written(tmp_path / "keys.toml", "\ufeff" + entry())
    assert read_keys(path) == parse_keys(entry(), "keys.toml")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "keys.toml", entry())
    os.chown(path, 12345, -1)
    with pytest.raises(KeyFileError, match=f"belongs to user 12345.*chown 0 {path}"):
        read_keys(path)


def test_what_is_no_key_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"does not exist.*tensorwire keys new"):
        read_keys(tmp_path / "none.toml")
    os.mkfifo(tmp_path / "pipe", 0o600)  # which is not waited for
    with pytest.raises(KeyFileError, match="is not a file"):
        read_keys(tmp_path / "pipe")
    with pytest.raises(KeyFileError, match="Is a directory"):
        read_keys(tmp_path)
    latin = written(tmp_path / "latin.toml", "")
    latin.write_bytes(b"\xff")
    with pytest.raises(KeyFileError, match="UTF-8"):
        read_keys(latin)
    big = written(tmp_path / "big.toml", "#" * (FILE_BYTES + 1))
    with pytest.raises(KeyFileError, match="longer"):
        read_keys(big)


def test_no_repr_shows_a_secret() -> None:
    (key,) = parse_keys(entry(), "keys.toml")
    assert "bidder" in repr(key)
    for shown in (repr(key), str(key), f"{key}", repr([key]), repr({key.id: key})):
        assert secret_text(ONE) not in shown
        assert repr(ONE) not in shown


# ---- what a principal sees ----


@pytest.mark.parametrize(
    ("pattern", "sees", "not_sees"),
    [
        ("*", ["m", "", "a/b"], []),
        ("m", ["m"], ["", "mm", "M", "m*"]),
        ("audio-*", ["audio-", "audio-1"], ["audio", "my-audio-1"]),
        ("*-v2", ["m-v2", "-v2"], ["m-v2b"]),
        ("a*b*c", ["abc", "a1b2c", "abbc", "abcbc"], ["ac", "acb", "ab", "abcd", "bac"]),
        ("ab*ba", ["abba", "ab1ba"], ["aba", "ab"]),
        ("a**b", ["ab", "a1b"], ["a"]),
        ("[ab]?", ["[ab]?"], ["a1"]),
    ],
)
def test_a_star_is_any_run_of_characters_and_nothing_else_is_special(
    pattern: str, sees: list[str], not_sees: list[str]
) -> None:
    scope = Scope((pattern,))
    assert [name for name in sees if not scope.sees(name)] == []
    assert [name for name in not_sees if scope.sees(name)] == []


def test_one_pattern_of_several_is_enough() -> None:
    scope = Scope(("ranker", "audio-*"))
    assert [name for name in ("ranker", "audio-1", "vision") if scope.sees(name)] == ["ranker", "audio-1"]
    assert EVERYTHING.sees("anything")


# ---- the store ----


def test_a_known_key_gives_its_secret_and_its_principal(tmp_path: Path) -> None:
    keys = Store(tmp_path, entry()).keys
    assert keys.secret_of(b"a") == (ONE, True)
    assert keys.principal_of(b"a") == "bidder"


def test_unknown_and_ended_keys_give_the_same_secret_that_nobody_knows(tmp_path: Path) -> None:
    store = Store(
        tmp_path, entry(not_after="2027-01-15T08:00:00Z") + entry("b", TWO, not_before="2027-01-15T08:00:01Z")
    )
    answers = {store.keys.secret_of(key_id) for key_id in (b"a", b"b", b"c", b"", b"-", b"\xff" * 64)}
    assert len(answers) == 1
    ((secret, valid),) = answers
    assert not valid
    assert len(secret) == 32
    assert secret not in {ONE, TWO}
    assert KeyStore(store.path, store.clock).secret_of(b"c")[0] != secret
    assert store.keys.principal_of(b"a") == store.keys.principal_of(b"c") == ""


def test_a_key_is_valid_from_its_first_second_until_before_its_last(tmp_path: Path) -> None:
    store = Store(tmp_path, entry(not_before="2027-01-15T08:00:00Z", not_after="2027-01-15T09:00:00Z"))
    valid = []
    for store.clock.now in (NOON - 0.001, NOON, NOON + 3599.999, NOON + 3600):
        valid.append(store.keys.secret_of(b"a") == (ONE, True))
    assert valid == [False, True, True, False]


def test_nothing_is_read_while_the_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, entry())
    monkeypatch.setattr("tensorwire.server.keys.read_keys", lambda path: pytest.fail("read"))
    assert not store.keys.refresh()


def test_a_changed_file_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path, entry())
    key, _ = store.keys.find(b"a")
    store.write(entry("b", TWO))
    assert store.keys.refresh()
    assert store.keys.secret_of(b"b") == (TWO, True)
    assert not store.keys.secret_of(b"a")[1]
    assert not store.keys.holds(key)
    assert not store.keys.refresh()


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (entry(), True),
        (entry(models='["m"]', rate="1"), True),  # another scope, the same caller
        (entry(not_after="2027-01-16T00:00:00Z"), True),
        (entry(not_after="2027-01-15T00:00:00Z"), False),
        (entry(secret=TWO), False),
        (entry(principal="other"), False),
        ("", False),
    ],
)
def test_a_session_is_held_by_the_same_secret_for_the_same_principal(tmp_path: Path, text: str, held: bool) -> None:
    store = Store(tmp_path, entry())
    key, _ = store.keys.find(b"a")
    store.write(text)
    store.keys.refresh()
    assert store.keys.holds(key) is held


def test_a_file_that_cannot_be_read_keeps_the_old_keys_and_is_told_once(tmp_path: Path) -> None:
    store = Store(tmp_path, entry())
    store.write("[[keys]]\n")
    with pytest.raises(KeyFileError, match="id must be"):
        store.keys.refresh()
    assert not store.keys.refresh()
    assert store.keys.secret_of(b"a") == (ONE, True)
    store.path.unlink()
    with pytest.raises(KeyFileError, match="does not exist"):
        store.keys.refresh()
    assert store.keys.secret_of(b"a") == (ONE, True)
    store.write(entry(secret=TWO))
    assert store.keys.refresh()
    assert store.keys.secret_of(b"a") == (TWO, True)


def test_a_file_that_becomes_readable_for_others_is_not_taken(tmp_path: Path) -> None:
    store = Store(tmp_path, entry())
    store.path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 600"):
        store.keys.refresh()


def test_when_told_to_look_the_file_is_read_whatever_it_seems(tmp_path: Path) -> None:
    store = Store(tmp_path, entry())
    stamp = store.path.stat()
    with store.path.open("r+") as file:  # in place, of the same length and age
        file.write(entry(secret=TWO))
    os.utime(store.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert store.keys.refresh(look=True)
    assert store.keys.secret_of(b"a") == (TWO, True)


def test_a_file_that_is_being_written_is_left_alone_for_a_moment(tmp_path: Path) -> None:
    store = Store(tmp_path, entry())
    store.path.write_text("")  # an editor that writes in place: the keys follow at once
    store.clock.now = store.path.stat().st_mtime + SETTLED / 2
    assert not store.keys.refresh()
    assert store.keys.secret_of(b"a")[1]
    store.clock.now += SETTLED
    assert store.keys.refresh()
    assert not store.keys.secret_of(b"a")[1]


def test_a_key_that_ends_or_begins_is_a_change(tmp_path: Path) -> None:
    store = Store(
        tmp_path, entry(not_after="2027-01-15T08:01:00Z") + entry("b", TWO, "robot", not_before="2027-01-15T08:02:00Z")
    )
    assert not store.keys.refresh()
    scopes = []
    for seconds in (59, 60, 61, 120, 121):
        store.clock.now = NOON + seconds
        changed = store.keys.refresh()
        scopes.append((changed, *(store.keys.scope_of(name) is not None for name in ("bidder", "robot"))))
    assert scopes == [
        (False, True, False),
        (True, False, False),
        (False, False, False),
        (True, False, True),
        (False, False, True),
    ]


def test_a_principal_has_the_scope_of_its_keys(tmp_path: Path) -> None:
    store = Store(tmp_path, entry(models='["m"]', rate="2.5"))
    assert store.keys.scope_of("bidder") == Scope(("m",), 2.5)
    assert store.keys.scope_of("nobody") is None
