"""How values stand in the audit log: as JSON, safe and capped, or masked by a keyed hash."""

from __future__ import annotations

import hmac
import json
import os
from pathlib import Path

from ...protocol.safe_text import masked
from ..defaults import MIN_SALT
from ..logs import printable

MASK_DIGITS = 12
"""Hex digits of a masked value: 48 bits, enough to tell the values of one field apart."""

MAX_NAME = 128
"""Characters of a name in a line."""


class Mask:
    """Writes values as JSON: safe, capped, and those of masked fields as a keyed hash.

    salt: key of the hash; the same salt gives the same hashes, also in another process.
    """

    __slots__ = ("_fields", "_salt")

    def __init__(self, fields: frozenset[str] = frozenset(), salt: bytes = b"") -> None:
        self._fields = fields
        self._salt = salt or os.urandom(32)

    def json(self, field: str, value: str) -> str:
        """Write `value` of `field` as a JSON string; nothing stays nothing (null)."""
        if not value:
            return "null"
        if field in self._fields:  # guard: audit-masked
            text = f"{field}\0{value}".encode("utf-8", "surrogatepass")
            return f'"{hmac.digest(self._salt, text, "sha256").hex()[:MASK_DIGITS]}"'
        return json.dumps(printable(masked(value), MAX_NAME))  # guard: audit-escaped


def read_salt(path: Path) -> bytes:
    """Read the salt of the mask. Raises ValueError if it can be guessed, OSError if it cannot be read."""
    salt = path.read_bytes()
    if len(salt) < MIN_SALT:
        raise ValueError(
            f"audit_salt: {len(salt)} bytes, expected at least {MIN_SALT} random ones; make it with "
            "`head -c 32 /dev/urandom > FILE`"
        )
    return salt
