"""The C core and the Python core on the same headers: drawn fields in every state of a stream end in the same code."""

from __future__ import annotations

import random
from pathlib import Path

from tests.c.test_c_vectors import Play, commands_of
from tests.vectors.case import CONFIG, PRELUDE, Step, do, opened, receive
from tests.vectors.cases_chunks import chunk
from tests.vectors.player import Json, Player, whole
from tests.vectors.wire import (
    CANCEL,
    CLOSE,
    CREDIT,
    DATA,
    END,
    GOAWAY,
    KEY_UPDATE,
    MORE,
    OPEN,
    PING,
    PONG,
    READY,
    RESUME,
    body_length,
    frame,
)

SIZE = 100_000
FIRST = receive(frame(DATA, stream=1, flags=MORE, ext=body_length(SIZE)))
STATES: dict[str, tuple[Step, ...]] = {
    "nothing opened": (),
    "half-closed": opened(),
    "open": opened(flags=0),
    "a reply has come": (*opened(), receive(frame(DATA, stream=1, body=b"x"))),
    "a message is under way": (*opened(), FIRST),
    "a chunk of it has come": (*opened(), FIRST, receive(chunk(bytes(16384)))),
    "cancelled": (*opened(), do("cancel", stream=1)),
    "closed": (*opened(), receive(frame(END, stream=1, aux=5))),
}
KINDS = (*[DATA] * 6, END, END, PING, PONG, GOAWAY, CLOSE, READY, OPEN, CANCEL, CREDIT, RESUME, KEY_UPDATE, 17)
BODIES = (0, 1, 8, 8, 12, 16383, 16384, 16385, 65535, 65536, 65537, SIZE - 16384, SIZE, 262_144, -1, -9)


def drawn(chance: random.Random) -> bytes:
    """A header whose fields are at and over their bounds."""
    ext_len, meta_len = chance.choice((0, 0, 0, 0, 10, 1024, 1025)), chance.choice((0, 0, 0, 0, 8, 65536, 65537, 2**31))
    length = (ext_len + meta_len + chance.choice(BODIES)) % 2**32
    return frame(
        chance.choice(KINDS),
        stream=chance.choice((0, 1, 1, 1, 1, 1, 1, 2)),
        flags=chance.choice((0, 0, 1, 1, 2, 2, 3, 4, 8, 16, 32, 33, 0x8000)),
        seq=chance.choice((0, 0, 0, 0, 1, 1, 2, 7)),
        aux=chance.choice((0, 0, 0, 0, 1, 4, 16, 17)),
        priority=chance.choice((0, 0, 0, 9)),
        reserved=chance.choice((0, 0, 0, 0, 0, 0, 0, 1)),
        length=chance.choice((length, length, length, length, length, length, 0, 65536, 2**32 - 1)),
        meta_len=meta_len,
        ext_len=ext_len,
    )


def test_both_cores_refuse_the_same_headers_with_the_same_code(programs: Path) -> None:
    chance = random.Random(11)
    cases: list[tuple[str, bytes, Json]] = []
    for _ in range(3000):
        state = chance.choice(list(STATES))
        raw = drawn(chance)
        vector: Json = {"name": state, "role": "client", "start": "open", "steps": [*STATES[state], receive(raw)]}
        cases.append((state, raw, vector))
    file = {"config": CONFIG, "prelude": PRELUDE}
    commands = [[command for command, _ in commands_of(file, vector, 0)] for _, _, vector in cases]
    answers = Play(programs / "play").run([command for some in commands for command in some])
    codes = []
    for (state, raw, vector), mine in zip(cases, commands, strict=True):
        some, answers = answers[: len(mine)], answers[len(mine) :]
        theirs = [int(fields["code"]) for answer in some for name, fields in answer if name == "closed"]
        player = Player(file, vector, whole)
        player.play(PRELUDE["client"])
        player.play(vector["steps"])
        ours = [event["code"] for event in player.events if event["event"] == "closed"]
        assert ours == theirs, (state, raw.hex())
        codes += ours
    assert len(set(codes)) >= 5
    assert len(codes) < len(cases)
