"""The keys of a server as its connections ask for them, and what a principal may see.

What lives here: looking up, validity by the clock, noticing that the key file has changed. What must not: the form of
the file (key_file.py), what becomes of a connection whose key is gone (front/).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final

from .key_file import SECRET_BYTES, Key, read_keys

SETTLED: Final = 0.1
"""Seconds that a file must have been left alone before it is read: who writes in place is not read half-way."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a principal may do: all its keys say the same."""

    models: tuple[str, ...] = ("*",)
    rate: float | None = None

    def sees(self, model: str) -> bool:
        """Tell whether a model of this name exists for the principal."""
        return any(_matches(pattern, model) for pattern in self.models)


EVERYTHING: Final = Scope()


def _matches(pattern: str, name: str) -> bool:
    """Tell whether `name` is like `pattern`, in time that grows with their lengths and no faster."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    last = rest.pop()
    # guard: pattern-around
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    at, end = len(first), len(name) - len(last)
    for part in rest:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


class KeyStore:
    """The keys of one file. Raises KeyFileError if it cannot be used at the start.

    clock: seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        # Whoever names no valid key proves against this one, in vain: it does not tell which keys there are.
        self._nobody = Key("-", os.urandom(SECRET_BYTES), "", not_after=-inf)
        self._stamp = _stamp(path)
        self._keys: dict[bytes, Key] = {}
        self._scopes: dict[str, Scope] = {}
        self._take(read_keys(path))

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key_id: bytes) -> tuple[Key, bool]:
        """Return the key of this id, and True; for one that is unknown or not valid now a dummy, and False."""
        key = self._keys.get(key_id, self._nobody)
        valid = key.valid(self._clock())
        return (key if valid else self._nobody), valid  # guard: ended-secret

    def secret_of(self, key_id: bytes) -> tuple[bytes, bool]:
        """Return the secret to prove with, and whether the key is valid now (protocol.SecretOf)."""
        key, valid = self.find(key_id)
        return key.secret, valid

    def principal_of(self, key_id: bytes) -> str:
        """Return whom the key stands for; "" if it is unknown or not valid now."""
        return self.find(key_id)[0].principal

    def holds(self, key: Key) -> bool:
        """Tell whether this very key is still there and valid: the same secret for the same principal."""
        found, valid = self.find(key.id.encode())
        return valid and (found.secret, found.principal) == (key.secret, key.principal)

    def end_of(self, key: Key) -> tuple[float, float]:
        """Return the seconds until this key ends, as the file has it now, and when that is."""
        ends = self.find(key.id.encode())[0].not_after
        return ends - self._clock(), ends

    def scope_of(self, principal: str) -> Scope | None:
        """Return what this principal may do; None if it has no key that is valid now."""
        return self._scopes.get(principal)

    def refresh(self, *, look: bool = False) -> bool:
        """Read the file again if it has changed, or if told to `look`; True if keys may have come, gone or ended.

        Raises KeyFileError if the file cannot be used, once per change of it: the old keys go on.
        """
        now = self._clock()
        stamp = _stamp(self.path)
        if look or (stamp != self._stamp and not 0 <= now - stamp[0] * 1e-9 < SETTLED):
            self._stamp = stamp
            self._take(read_keys(self.path))  # guard: keys-kept
            return True
        if now < self._next:
            return False
        self._note_scopes(now)
        return True

    def _take(self, keys: Sequence[Key]) -> None:
        self._keys = {key.id.encode(): key for key in keys}
        self._note_scopes(self._clock())

    def _note_scopes(self, now: float) -> None:
        keys = self._keys.values()
        self._scopes = {key.principal: Scope(key.models, key.rate) for key in keys if key.valid(now)}
        self._next = min((t for key in keys for t in (key.not_before, key.not_after) if t > now), default=inf)


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when the file does."""
    try:
        status = os.stat(path)  # noqa: PTH116 - pathlib's form costs twice as much, twice a second
    except OSError:
        return (0,)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_mode, status.st_uid
