"""Seeds out of tests/vectors: the bytes that each vector receives, written as the fuzz targets read them.

What lives here: reading the vectors. What must not: playing them; that is tests/vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from .streams import run
from .target import FUZZ

VECTORS = FUZZ.parent / "tests" / "vectors"
Json = dict[str, Any]


@cache
def files() -> tuple[Json, ...]:
    """All vector files."""
    return tuple(json.loads(path.read_text()) for path in sorted(VECTORS.glob("*/*.json")))


def written(parts: list[Any]) -> bytes:
    """The bytes of a list of parts, with runs for what repeats."""
    return b"".join(
        bytes.fromhex(p) if isinstance(p, str) else run(bytes.fromhex(p["byte"]), p["times"]) for p in parts
    )


def received(steps: list[Json]) -> bytes:
    """All that the steps receive."""
    return b"".join(written(step["receive"]) for step in steps if "receive" in step)


def sessions() -> Iterator[tuple[bool, bool, bytes]]:
    """(whether a client receives, whether the handshake is over before, the bytes) of every connection vector."""
    for file in files():
        if file["kind"] != "connection":
            continue
        for vector in file["vectors"]:
            yield vector["role"] == "client", vector.get("start") == "open", received(vector["steps"])


def extensions() -> Iterator[bytes]:
    """The regions of every extension vector."""
    for file in files():
        if file["kind"] == "extension":
            for vector in file["vectors"]:
                yield bytes.fromhex(vector["bytes"])
