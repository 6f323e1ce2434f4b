"""Writes the vectors: `python -m tests.vectors.generate` from the repository's root; `--check` only compares.

What lives here: which file holds which cases. The bytes are described by struct in wire.py; nothing of tensorwire is
imported, so that the vectors and the code are two witnesses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from tests.vectors import (
    cases_chunks,
    cases_clock,
    cases_forged,
    cases_frames,
    cases_handshake,
    cases_messages,
    cases_records,
    cases_sessions,
    cases_signed,
    cases_streams,
    cases_tensors,
)
from tests.vectors.case import CONFIG, PRELUDE, Vector
from tests.vectors.record_parts import CHUNK_SIZE
from tests.vectors.signed_case import NOTES, Group, numbered, signed_config

HERE = Path(__file__).resolve().parent
FILES: dict[str, Callable[[], list[Vector]]] = {
    "stable/preface": cases_frames.preface,
    "draft/hello": cases_handshake.hello_entries,
    "draft/header": cases_frames.header,
    "draft/frames": cases_frames.frames,
    "draft/extension": cases_sessions.extensions,
    "draft/handshake": cases_handshake.handshake,
    "draft/streams": cases_streams.streams,
    "draft/chunks": cases_chunks.chunks,
    "draft/sessions": cases_sessions.sessions,
    "draft/metadata": lambda: [*cases_tensors.tensors(), *cases_forged.forged()],
    "draft/messages": cases_messages.messages,
    "draft/clock": cases_clock.clock,
}
SIGNED: dict[str, tuple[Callable[[], list[Group]], dict[str, object]]] = {
    "draft/signed_handshake": (cases_signed.handshakes, signed_config()),
    "draft/records": (cases_records.records, signed_config(chunk=CHUNK_SIZE)),
}
# all others: connection
KINDS = {
    "draft/extension": "extension",
    "draft/metadata": "metadata",
    "draft/messages": "message",
    "draft/clock": "clock",
}


def render(name: str) -> str:
    """The text of one file."""
    if name in SIGNED:
        return _signed(name)
    vectors = FILES[name]()
    head: dict[str, object] = {
        "spec": {"version": 1, "draft": 1},
        "status": name.split("/", maxsplit=1)[0],
        "kind": KINDS.get(name, "connection"),
    }
    if head["kind"] in {"connection", "clock"}:
        head["config"] = cases_clock.CLOCK_CONFIG if name == "draft/clock" else CONFIG
        if any(vector["start"] == "open" for vector in vectors):
            head["prelude"] = PRELUDE
    head["vectors"] = vectors
    return json.dumps(head, indent=1) + "\n"


def _signed(name: str) -> str:
    make, config = SIGNED[name]
    groups, count = numbered(make())
    head = {
        "spec": {"version": 1, "draft": 1},
        "status": "draft",
        "kind": "signed",
        "config": config,
        "notes": NOTES,
        "number_of_tests": count,
        "groups": groups,
    }
    return json.dumps(head, indent=1) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check all files; 1 if a check found a difference."""
    stale = []
    for name in (*FILES, *SIGNED):
        path = HERE / f"{name}.json"
        text = render(name)
        if "--check" in arguments:
            stale += [name] if not path.exists() or path.read_text() != text else []
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    if stale:
        sys.stderr.write(f"not what generate.py writes: {', '.join(stale)}; run python -m tests.vectors.generate\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
