"""Every vector as the bytes of a connection: what its role received and sent, in order.

What lives here: the way from tests/vectors to (from the client, bytes) pairs. What must not: what the vectors expect.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
Session = list[tuple[bool, bytes]]


@cache
def vector_sessions() -> list[tuple[str, Session]]:
    """(file: name, session) of every vector; those that hold a region alone stand in an OPEN behind a handshake."""
    sessions: list[tuple[str, Session]] = []
    handshake: Session = []
    regions: list[tuple[str, str, bytes]] = []
    for path in sorted(VECTORS.glob("*/*.json")):
        file = json.loads(path.read_text())
        for vector in file.get("vectors", ()):  # those of kind signed are groups: not told here
            name = f"{path.stem}: {vector['name']}"
            if "steps" in vector:
                role = vector["role"]
                prelude = file.get("prelude", {}).get(role, []) if vector.get("start") == "open" else []
                sessions.append((name, _session(role, [*prelude, *vector["steps"]])))
                if prelude and role == "server" and not handshake:
                    handshake = _session(role, prelude)
            else:
                regions += [(name, file["kind"], raw) for raw in _regions(vector)]
    for name, kind, raw in regions:
        sessions.append((name, [*handshake, (True, _open(raw, kind))]))
    return sessions


def _session(role: str, steps: list[dict[str, Any]]) -> Session:
    pieces = ((key == "receive") == (role == "server") for step in steps for key in ("receive", "sends") if key in step)
    data = (_unpack(step[key]) for step in steps for key in ("receive", "sends") if key in step)
    return [(from_client, raw) for from_client, raw in zip(pieces, data, strict=True) if raw]


def _unpack(parts: list[Any]) -> bytes:
    return b"".join(bytes.fromhex(p) if isinstance(p, str) else bytes.fromhex(p["byte"]) * p["times"] for p in parts)


def _regions(vector: dict[str, Any]) -> list[bytes]:
    """The bytes of a vector that is no session: its only hexadecimal values."""
    found = []
    for key in ("bytes", "metadata", "meta"):
        value = vector.get(key)
        if isinstance(value, str):
            found.append(bytes.fromhex(value))
        elif isinstance(value, list):
            found.append(_unpack(value))
    return found


def _open(raw: bytes, kind: str) -> bytes:
    """An OPEN of stream 1 with these bytes as extension or metadata, as far as the lengths can say it."""
    ext, meta = (raw, b"") if kind == "extension" else (b"", raw)
    lengths = len(raw).to_bytes(4, "little"), len(meta).to_bytes(4, "little"), len(ext).to_bytes(2, "little")
    return lengths[0] + bytes((5, 0, 1, 0, 1)) + bytes(15) + lengths[1] + lengths[2] + bytes(2) + raw
