"""Every signed vector for a client without TLS, against the C core with sanitizers; and every single tag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.c.test_c_vectors import Answer, Json, Play, check, do_command, hex_of, runs
from tests.vectors.player import unpack
from tests.vectors.sealed import GMAC, HMAC, READY_PAYLOAD, Session, opened_records
from tests.vectors.signed_case import prelude, signed_config
from tests.vectors.test_resigned import CASES as RESIGNED
from tests.vectors.test_resigned import batches, frames_of

DRAFT = Path(__file__).resolve().parents[1] / "vectors" / "draft"
FILES = {name: json.loads((DRAFT / f"{name}.json").read_text()) for name in ("signed_handshake", "records")}
GROUPS = [(file, group) for file in FILES.values() for group in file["groups"]]
#: (file, group, test) of each whole session that a client without TLS can have
SESSIONS = [
    (file, group, test)
    for file, group in GROUPS
    if group["type"] == "session" and not group["binding"]
    for test in group["tests"]
    if test["role"] == "client"
]
SPLITS = (0, 1, 33, 16400)  # bytes handed over at a time; 0 = as many as there are


@pytest.fixture(scope="module", params=["play", "play-sanitized"])
def play(request: pytest.FixtureRequest, programs: Path) -> Play:
    return Play(programs / request.param)


def commands_of(file: Json, group: Json, test: Json, split: int) -> Iterator[tuple[str, Json]]:
    """Commands, each with the step it stands for."""
    config = file["config"]
    key = f"{bytes.fromhex(group['key_id']).decode()} {group['secret']} {','.join(group['offers'])}"
    yield f"key {key if group['key_id'] else '-'}", {}
    yield f"core {config['client_nonce']} {config['agent']} {config['chunk']} {config['max_message']} {split}", {}
    for step in (group["prelude"]["client"] if test["start"] == "open" else []) + test["steps"]:
        if "receive" in step:
            yield f"receive {runs(step['receive'])}", step
        elif "sends" in step:
            yield "sends", step
        elif "expect" in step:
            yield "clock 0", step
        else:
            yield do_command(step), step


def nbytes(test: Json) -> int:
    """Bytes that the role under test receives and sends."""
    return sum(len(unpack(step[kind])) for step in test["steps"] for kind in ("receive", "sends") if kind in step)


@pytest.mark.parametrize("split", SPLITS)
def test_signed_vector_holds_however_its_bytes_are_split(play: Play, split: int) -> None:
    cases = [(test, list(commands_of(file, group, test, split))) for file, group, test in SESSIONS]
    if split == 1:  # byte by byte what is not megabytes
        cases = [(test, commands) for test, commands in cases if nbytes(test) < 70_000]
    answers = play.run([command for _, commands in cases for command, _ in commands])
    for test, commands in cases:
        mine, answers = answers[: len(commands)], answers[len(commands) :]
        try:
            check([step for _, step in commands], mine, test)
        except AssertionError as error:
            raise AssertionError(f"{test['id']} {test['comment']}: {error}") from error


@pytest.mark.parametrize("together", [False, True], ids=["one", "several"])
@pytest.mark.parametrize("mac", [HMAC, GMAC])
@pytest.mark.parametrize("split", [0, 33])
def test_vectors_of_open_connections_hold_in_records(play: Play, mac: str, together: bool, split: int) -> None:
    session = Session(mac=mac, offers=(mac,))
    group: Json = {
        "key_id": session.key_id.hex(), "secret": session.secret.hex(), "offers": [mac],
        "prelude": prelude(session, READY_PAYLOAD),
    }  # fmt: skip
    file = {"config": signed_config()}
    cases = [(name, signed(vector, session, together)) for name, _, vector in RESIGNED if vector["role"] == "client"]
    assert len(cases) >= 50
    played = [(name, vector, list(commands_of(file, group, vector, split))) for name, vector in cases]
    answers = play.run([command for _, _, commands in played for command, _ in commands])
    shaken = 2 + len(group["prelude"]["client"])
    for name, vector, commands in played:
        mine, answers = answers[: len(commands)], answers[len(commands) :]
        try:
            check([step for _, step in commands], [*mine[:shaken], *opened(mine[shaken:], session)], vector)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def signed(vector: Json, session: Session, together: bool) -> Json:
    """The vector with all that a server says in records; READY was the first."""
    steps, counter = [], 1
    for step in vector["steps"]:
        sealed = b""
        for frames in batches(frames_of(unpack(step.get("receive", []))), together):
            sealed += session.server(counter, frames)
            counter += 1
        steps.append(step | {"receive": [sealed.hex()]} if "receive" in step else step)
    return vector | {"steps": steps}


def opened(answers: list[Answer], session: Session) -> list[Answer]:
    """The answers with the frames of what was sent in place of its records."""
    counter = 0
    found: list[Answer] = []
    for answer in answers:
        found.append([])
        for name, fields in answer:
            frames = b""
            for record in opened_records(
                session.mac, session.key("client record"), counter, hex_of(fields.get("bytes", ""))
            ):
                frames += record
                counter += 1
            found[-1].append((name, fields | {"bytes": frames.hex()} if name == "sent" else fields))
    return found


def test_every_tag_is_that_of_its_key_counter_and_bytes(programs: Path) -> None:
    tags = Play(programs / "tag-sanitized")
    cases = [(group, test) for _, group in GROUPS if group["type"] == "record" for test in group["tests"]]
    answers = tags.run([
        f"{group['mac']} {group['key']} {test['counter']} {unpack(test['record']).hex()}" for group, test in cases
    ])  # fmt: skip
    for (_, test), [(name, fields)] in zip(cases, answers, strict=True):
        assert name == "tag"
        same = hex_of(fields["bytes"]) == bytes.fromhex(test["tag"])
        assert same == (test["result"] == "valid"), f"{test['id']} {test['comment']}"


def test_the_vectors_that_a_client_without_tls_cannot_have_are_counted() -> None:
    """Those of the server, and those under TLS, are left out: this client has no TLS."""
    clients = [
        bool(group["binding"])
        for _, group in GROUPS
        if group["type"] == "session"
        for test in group["tests"]
        if test["role"] == "client"
    ]
    assert clients.count(False) == len(SESSIONS) >= 150
    assert clients.count(True) >= 50
