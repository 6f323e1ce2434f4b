"""The model's terms with real bytes in the place of names: SPEC 9.3 and 11 once more, from the terms.

What lives here: what each constructor and each value of an entry is on the wire. What must not: formulas (those are the
terms themselves), and anything of protocol/signing.py.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .terms import Term

FRAME_TYPES = {"HELLO": 1, "WELCOME": 2, "AUTH": 3}
MACS = {"none": 0, "hmac-sha256": 1, "aes-256-gmac": 2}


def evaluate(term: Term, atoms: Mapping[Any, bytes]) -> bytes:
    """The bytes of a term. `atoms` holds those that follow from no rule: by name of nonces and secrets, by (name,
    value) of public values.
    """
    if term.head in {"fresh", "secret"}:
        return atoms[term.value]
    if term.head == "public":
        return atoms[term.value] if term.value in atoms else _public(*term.value)
    args = [evaluate(arg, atoms) for arg in term.args]
    joined = b"".join(args)
    match term.head:
        case "cat":
            return joined
        case "sized":
            return struct.pack("<I", len(joined)) + joined
        case "entry":
            return struct.pack("<HH", term.value, len(joined)) + joined
        case "frame":
            header = struct.pack("<IBBHQIIIHH", len(joined), FRAME_TYPES[term.value], 0, 0, 0, 0, 0, len(joined), 0, 0)
            return header + joined
        case "hash":
            return hashlib.sha256(joined).digest()
        case "hmac":
            return hmac.digest(args[0], b"".join(args[1:]), "sha256")
        case "first16":
            return joined[:16]
        case "extract":
            secret, salt = (args[0], args[1]) if len(args) == 2 else (b"", args[0])
            return hmac.digest(salt, secret, "sha256")
        case "expand":
            return hmac.digest(args[0], b"".join(args[1:]) + b"\x01", "sha256")
        case "gmac":
            key, nonce, text = args
            return AESGCM(key).encrypt(nonce.ljust(12, b"\0"), text, None)[-16:]
    raise ValueError(f"no constructor {term.head}")


def _public(name: str, value: Any) -> bytes:
    """A public value by its entry or use."""
    match name:
        case "versions":
            return struct.pack("<HH", *(value if isinstance(value, tuple) else (value, value)))
        case "draft":
            return struct.pack("<I", value)
        case "features" | "features_required":
            return struct.pack(f"<{len(value)}H", *value)
        case "mac":
            return bytes(MACS[mac] for mac in ((value,) if isinstance(value, str) else value))
        case "key_id" | "agent" | "prefix" | "label":
            return bytes(value.encode())
        case "zero":
            return bytes(value)
        case "counter":
            return struct.pack("<Q", value)
        case "proof":
            return bytes(32)
        case "preface":
            return b"\x89TWP\r\n\x1a\n"
    raise ValueError(f"no bytes for {name} {value!r}")
