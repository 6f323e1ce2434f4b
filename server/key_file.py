"""The key file: who may call which models, and from when until when (SPEC 11.8).

What lives here: what a key is, reading the file and checking it. What must not: the store that connections ask
(keys.py), how the file is written (key_edits.py). A secret is in no repr, no error and no log line: errors name a key
by its id, or by its place where the id is wrong.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from pathlib import Path
from typing import Any, Final

from ..protocol.safe_text import masked

SECRET_BYTES: Final = 32
FILE_BYTES: Final = 4 << 20
"""Most bytes of a key file: twenty thousand keys. It is read whole, on the loop: 0.15 s for each thousand of them."""

MAX_PATTERNS: Final = 256
PATTERN_CHARS: Final = 128
"""Bounds of one key's `models`: all of them are announced in READY, which holds 64 KiB."""

ACTIVE: Final = 2
"""Keys of one principal that may be valid at the same time: the one in use and the one that replaces it."""

ANONYMOUS: Final = "anonymous"
"""The principal of callers without a key."""

LONGEST_FIELD: Final = 24
"""Characters of an unknown field's name that is shown: a longer one may be a secret."""

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PRINCIPAL: Final = re.compile(r"[A-Za-z0-9._@:/+-]{1,64}")
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_FIELDS: Final = ("id", "secret", "principal", "models", "not_before", "not_after", "rate")


class KeyFileError(Exception):
    """The key file cannot be used: what is wrong, and what to do. A key given for its path is not shown."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `models` are patterns of names (`*` is any run of characters); times are seconds since 1970, `not_after`
    is no longer valid; `rate` is calls per second, None for no limit.
    """

    id: str
    secret: bytes = field(repr=False)  # guard: secret-in-repr
    principal: str
    models: tuple[str, ...] = ("*",)
    not_before: float = -inf
    not_after: float = inf
    rate: float | None = None

    def valid(self, now: float) -> bool:
        """Tell whether the key may be used at `now`, seconds since 1970."""
        return self.not_before <= now < self.not_after  # guard: key-valid


# ---- secrets as text ----


def secret_text(secret: bytes) -> str:
    """Return a secret as it is written: base64url without padding, 43 characters."""
    return urlsafe_b64encode(secret).rstrip(b"=").decode()


def _secret_bytes(text: str) -> bytes | None:
    if not _SECRET.fullmatch(text):
        return None
    secret = urlsafe_b64decode(text + "=")
    return secret if secret_text(secret) == text else None  # the last character has two bits to spare: they are zero


# ---- the file ----


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read the keys of a file that its owner alone may read. Raises KeyFileError."""
    return parse_keys(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Read the text of a key file. Raises KeyFileError, also if somebody else could have read or written it."""
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise KeyFileError(
            f"key file {str(path)!r} does not exist; make one with: tensorwire keys new --principal NAME {path}"
        ) from None
    except OSError as error:
        raise KeyFileError(f"key file {str(path)!r} cannot be opened: {error.strerror}") from None
    with file:
        _check_guarded(path, os.fstat(file.fileno()))
        raw = file.read(FILE_BYTES + 1)
    if len(raw) > FILE_BYTES:
        raise KeyFileError(f"key file {str(path)!r} is longer than {FILE_BYTES} bytes; is it the right file?")
    try:
        return raw.decode("utf-8-sig")  # some editors put a byte order mark before it
    except UnicodeDecodeError:
        raise KeyFileError(f"key file {str(path)!r} is no UTF-8 text; is it the right file?") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe that nobody writes to would keep the loop for ever


def _check_guarded(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{str(path)!r} is not a file; give the path of a key file")
    if status.st_uid != os.geteuid():  # guard: key-file-owner
        raise KeyFileError(
            f"key file {str(path)!r} belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}: "
            f"chown {os.geteuid()} {path}"
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):  # guard: key-file-mode
        raise KeyFileError(
            f"key file {str(path)!r} has mode {stat.S_IMODE(status.st_mode):04o}, so that others may read it or write "
            f"to it: chmod 600 {path} (and replace the keys if others could read them)"
        )


def parse_keys(text: str, source: str) -> tuple[Key, ...]:
    """Return the keys of the TOML `text`; `source` names it in errors. Raises KeyFileError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise KeyFileError(f"{source}: no valid TOML: {error}") from None
    entries = document.pop("keys", [])
    if document or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise KeyFileError(f"{source}: expected [[keys]] tables and nothing else, each with {', '.join(_FIELDS)}")
    keys: list[Key] = []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(_key(entry))
        except ValueError as error:
            key_id = entry.get("id")
            known = isinstance(key_id, str) and _ID.fullmatch(key_id) is not None
            if known and _SECRET.fullmatch(key_id):  # perhaps id and secret were taken for one another
                known = False
            name = f"key {key_id!r}" if known else f"key number {number}"
            raise KeyFileError(f"{source}: {name}: {error}") from None
    try:
        _check_together(keys)
    except ValueError as error:
        raise KeyFileError(f"{source}: {error}") from None
    return tuple(keys)


def _key(entry: Mapping[str, Any]) -> Key:
    """Read one [[keys]] table. Raises ValueError with a text that holds nothing of the secret."""
    unknown = sorted(name for name in entry if name not in _FIELDS)
    if unknown:
        which = f"unknown field {unknown[0]!r}" if len(unknown[0]) <= LONGEST_FIELD else "an unknown field"
        raise ValueError(f"{which}; a key has {', '.join(_FIELDS)}")
    key_id, secret, principal = (entry.get(name) for name in ("id", "secret", "principal"))
    if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
        raise ValueError("id must be 1 to 64 characters of A-Z a-z 0-9 . _ -")
    raw = _secret_bytes(secret) if isinstance(secret, str) else None
    if raw is None:
        raise ValueError(
            f"secret must be {SECRET_BYTES} random bytes as base64url without padding, 43 characters; "
            "`tensorwire keys new` makes one"
        )
    check_principal(principal)
    models = entry.get("models", ["*"])
    check_models(models)
    rate = entry.get("rate")
    if rate is not None:
        check_rate(rate)
    not_before, not_after = _moment(entry, "not_before", -inf), _moment(entry, "not_after", inf)
    if not_before >= not_after:
        raise ValueError("not_before is not before not_after: the key would never be valid")
    return Key(key_id, raw, str(principal), tuple(models), not_before, not_after, None if rate is None else float(rate))


def check_principal(principal: Any) -> None:
    """Raise ValueError unless a key may stand for this principal."""
    if not isinstance(principal, str) or not _PRINCIPAL.fullmatch(principal):
        raise ValueError("principal must be 1 to 64 characters of A-Z a-z 0-9 . _ @ : / + -")
    if principal == ANONYMOUS:  # guard: principal-anybody
        raise ValueError(f"principal {ANONYMOUS!r} is the name of callers without a key; give another")


def check_models(models: Any) -> None:
    """Raise ValueError unless these are patterns of model names."""
    if (
        not isinstance(models, Sequence)
        or isinstance(models, str)
        or not 1 <= len(models) <= MAX_PATTERNS
        or not all(isinstance(pattern, str) and 1 <= len(pattern) <= PATTERN_CHARS for pattern in models)
        or not all(pattern.isprintable() for pattern in models)
    ):
        raise ValueError(
            f'models must be 1 to {MAX_PATTERNS} patterns of at most {PATTERN_CHARS} characters each, such as ["*"] '
            'or ["ranker", "audio-*"]'
        )


def check_rate(rate: Any) -> None:
    """Raise ValueError unless this is a number of calls per second."""
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e12:
        raise ValueError("rate must be a number of calls per second above 0; leave it out for no limit")


def _moment(entry: Mapping[str, Any], name: str, default: float) -> float:
    value = entry.get(name)
    if value is None:
        return default
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError(f"{name} must be a date and time with its offset from UTC, such as 2027-01-31T00:00:00Z")
    return value.timestamp()


def _check_together(keys: Sequence[Key]) -> None:
    """Check what no key can get wrong alone. Raises ValueError."""
    by_id: dict[str, Key] = {}
    by_secret: dict[bytes, Key] = {}
    by_principal: dict[str, list[Key]] = {}
    for key in keys:
        if key.id in by_id:
            raise ValueError(f"key {key.id!r} is there twice; ids are unique")
        if key.secret in by_secret:  # guard: same-secret-twice
            raise ValueError(f"keys {by_secret[key.secret].id!r} and {key.id!r} have the same secret; make a new one")
        by_id[key.id] = by_secret[key.secret] = key
        by_principal.setdefault(key.principal, []).append(key)
    for principal, own in by_principal.items():
        for key in own:
            if (key.models, key.rate) != (own[0].models, own[0].rate):
                raise ValueError(
                    f"keys {own[0].id!r} and {key.id!r} of principal {principal!r} differ in models or rate; all keys "
                    "of a principal say the same"
                )
            together = [other.id for other in own if other.valid(key.not_before)]
            if len(together) > ACTIVE:  # guard: active-keys
                raise ValueError(
                    f"principal {principal!r} has {len(together)} keys that are valid at the same time "
                    f"({', '.join(together)}), at most {ACTIVE} may be; revoke one, or let it end with not_after"
                )
