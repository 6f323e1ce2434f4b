"""Every vector that applies to a client, against the C core with sanitizers: whole, in pieces, with bytes behind it."""

from __future__ import annotations

import re
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.vectors import wire
from tests.vectors.player import load, unpack

Json = dict[str, Any]
Answer = list[tuple[str, dict[str, str]]]
CONNECTIONS = list(load("connection"))
CLIENT = [case for case in CONNECTIONS if case[2]["role"] == "client"]
EXTENSIONS = list(load("extension"))
METADATA = list(load("metadata"))
SPLITS = (0, 1, 33)  # bytes handed over at a time; 0 = as many as there are


class Play:
    """The program `play`: commands in, answers out. One process for all vectors, since starting ASan costs 50 ms."""

    def __init__(self, program: Path) -> None:
        self.program = program

    def run(self, commands: list[str]) -> list[Answer]:
        """The answer to each command."""
        done = subprocess.run(
            [str(self.program)],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        answers: list[Answer] = [[]]
        for line in done.stdout.splitlines():
            if line == ".":
                answers.append([])
            else:
                name, *fields = line.split(" ")
                answers[-1].append((name, {key: value for key, _, value in (field.partition("=") for field in fields)}))
        assert len(answers) == len(commands) + 1
        return answers[:-1]


@pytest.fixture(scope="module", params=["play", "play-sanitized", "without-crypto/play-sanitized"])
def play(request: pytest.FixtureRequest, programs: Path) -> Play:
    return Play(programs / request.param)


def runs(parts: Any) -> str:
    """Bytes of a vector as `play` reads them: runs stay runs."""
    parts = [parts] if isinstance(parts, str) else parts
    words = [part if isinstance(part, str) else f"{part['byte']}*{part['times']}" for part in parts]
    return "+".join(word for word in words if word) or "-"


def hex_of(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


def open_command(step: Json) -> str:
    """The vector gives the extension as bytes; the core makes them, from dims and trace."""
    dims, trace, raw = "", "", bytes.fromhex(step["extension"])
    while raw:
        kind, size, value = raw[0], raw[1], raw[2 : 2 + raw[1]].hex()
        assert kind in {1, 5}, "an item that a caller does not give"
        dims, trace = (dims + value, trace) if kind == 1 else (dims, value)
        raw = raw[2 + size :]
    deadline = step.get("deadline_us", 0)
    return (
        f"open {step['flags']} {deadline} 0 {dims or '-'} {trace or '-'} {runs(step['metadata'])} {runs(step['body'])}"
    )


def commands_of(file: Json, vector: Json, split: int) -> Iterator[tuple[str, Json]]:
    """Commands, each with the step it stands for."""
    config = file["config"]
    start = f"core {config['client_nonce']} {config['agent']} {config['chunk']} {config['max_message']} {split}"
    yield start, {}
    if vector.get("reserve") == "refuse":
        yield "reserve refuse", {}
    prelude = file["prelude"]["client"] if vector["start"] == "open" else []
    for step in prelude + vector["steps"]:
        if "receive" in step:
            yield f"receive {runs(step['receive'])}", step
        elif "sends" in step:
            yield "sends", step
        elif "expect" in step:
            yield "clock 0", step
        else:
            yield do_command(step), step


def do_command(step: Json) -> str:
    match step["do"]:
        case "open":
            return open_command(step)
        case "cancel":
            return f"cancel {step['stream']}"
        case "ping":
            return f"ping {step['payload']}"
        case "close":
            assert not step["detail"]
            return f"close {step['code']}"
        case "eof":
            return "eof"
    raise AssertionError(f"play has no step {step['do']!r}: add it")


def found_events(answer: Answer) -> tuple[list[Json], list[Json]]:
    """Events as the vectors write them; and the outcomes that C gives to each open call when the connection ends."""
    events: list[Json] = []
    outcomes: list[Json] = []
    for name, fields in answer:
        numbers = {key: int(value) for key, value in fields.items() if re.fullmatch(r"-?\d{1,20}", value)}
        match name:
            case "message":
                events.append({
                    "event": name, "stream": numbers["stream"], "seq": numbers["seq"], "priority": numbers["priority"],
                    "end_stream": fields["end_stream"] == "1", "extension": hex_of(fields["extension"]),
                    "metadata": hex_of(fields["metadata"]), "body": hex_of(fields["body"]),
                })  # fmt: skip
            case "ended":
                events.append({
                    "event": name, "stream": numbers["stream"], "status": numbers["status"],
                    "not_started": fields["not_started"] == "1", "detail": hex_of(fields["detail"]).decode(),
                    "extension": hex_of(fields["extension"]),
                })  # fmt: skip
            case "goaway":
                detail = hex_of(fields["detail"]).decode()
                events.append(
                    {
                        "event": name,
                        "last_stream": int(fields["last_stream"]),
                        "code": numbers["code"],
                        "detail": detail,
                    }
                )
            case "ready" | "pong":
                events.append({"event": name, "payload": hex_of(fields["payload"])})
            case "message_aborted":
                events.append({"event": name, "stream": numbers["stream"]})
            case "closed":
                events.append({"event": name, "code": numbers["code"], "remote": fields["remote"] == "1"})
            case "outcome":
                outcomes.append({"stream": numbers["stream"], "status": numbers["status"]})
            case _:
                raise AssertionError((name, fields))
    return events, outcomes


def expected_event(event: Json, vector: Json, found: list[Json]) -> Json:
    event = dict(event)
    for key in ("body", "metadata", "extension", "payload"):
        if key in event:
            event[key] = unpack(event[key] if isinstance(event[key], list) else [event[key]])
    if event["event"] == "message":
        assert (event.pop("want_timing"), event.pop("aux")) == (False, 0)  # a server's DATA has neither
    if event["event"] == "closed" and vector.get("any_close_code"):
        event["code"] = found[-1].get("code")
    return event


def check(steps: list[Json], answers: list[Answer], vector: Json) -> None:
    """Compare a vector's answers with its steps."""
    seen: list[Json] = []
    outcomes: list[Json] = []
    compare_sent = True
    for step, answer in zip(steps, answers, strict=True):
        sent = [fields["bytes"] for name, fields in answer if name == "sent"]
        more, ends = found_events([one for one in answer if one[0] not in {"sent", "refused"}])
        seen += more
        outcomes += ends
        if "expect" in step:
            assert seen == [expected_event(event, vector, seen) for event in step["expect"]]
            compare_sent = not any(e["event"] == "closed" and not e["remote"] for e in seen)
            seen = []
        if "sends" in step and compare_sent:
            assert hex_of(sent[0]) == unpack(step["sends"])
    if any(step.get("do") == "close" for step in steps):
        seen = [event for event in seen if event["event"] != "closed"]  # the owner knows
    assert seen == []
    check_outcomes(steps, outcomes)


def check_outcomes(steps: list[Json], outcomes: list[Json]) -> None:
    """When the connection ends, each call without terminal or cancel has one outcome of its own, and no other has."""
    opened = sum(step.get("do") == "open" for step in steps)
    cancelled = {step["stream"] for step in steps if step.get("do") == "cancel"}
    events = [event for step in steps for event in step.get("expect", ())]
    over = {e["stream"] for e in events if e["event"] == "ended" or (e["event"] == "message" and e["end_stream"])}
    ended = any(event["event"] == "closed" for event in events) or any(step.get("do") == "close" for step in steps)
    left = [n for n in range(1, opened + 1) if n not in over | cancelled] if ended else []
    assert [one["stream"] for one in outcomes] == left
    assert all(one["status"] in {-1, 14} for one in outcomes)


@pytest.mark.parametrize("split", SPLITS)
def test_vector_holds_however_its_bytes_are_split(play: Play, split: int) -> None:
    cases = [(name, vector, list(commands_of(file, vector, split))) for name, file, vector in CLIENT]
    answers = play.run([command for _, _, commands in cases for command, _ in [*commands, ("sends", {})]])
    for name, vector, commands in cases:
        steps = [step for _, step in commands]
        mine, answers = answers[: len(steps) + 1], answers[len(steps) + 1 :]
        try:
            check(steps, mine[:-1], vector)
            if not vector["valid"]:
                sent = b"".join(hex_of(fields["bytes"]) for answer in mine for kind, fields in answer if kind == "sent")
                check_last_words(sent, steps[-1]["expect"][-1]["code"])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def check_last_words(sent: bytes, code: int) -> None:
    """The last frame is CLOSE with the code; a foreign server gets nothing but what it had."""
    if code == wire.NOT_TENSORWIRE:
        assert sent == wire.PREFACE + wire.hello()
        return
    at = max(
        m.start() - 4 for m in re.finditer(b"\x0f\x00\x00\x00" + bytes(12) + bytes((code, 0, 0, 0)), sent, re.DOTALL)
    )
    assert int.from_bytes(sent[at : at + 4], "little") == len(sent) - at - 32


def test_bytes_behind_a_vector_give_no_event(play: Play) -> None:
    cases = []
    for name, file, vector in CLIENT:
        commands = list(commands_of(file, vector, 0))
        half_ping = wire.frame(wire.PING, body=bytes(8))[: 36 if vector["start"] == "open" else 31]
        if vector["valid"]:
            commands.append((f"receive {half_ping.hex()}", {}))
        else:
            commands.insert(-1, (f"receive {'00' * 40}+ff*40", {}))  # before the last step, which is `expect`
        cases.append((name, vector, commands))
    answers = play.run([command for _, _, commands in cases for command, _ in commands])
    for name, vector, commands in cases:
        mine, answers = answers[: len(commands)], answers[len(commands) :]
        try:
            check([step for _, step in commands], mine, vector)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_vectors_of_the_other_role_are_counted_and_left_out() -> None:
    """A client has no server to test: those vectors are the server's alone."""
    roles = Counter(vector["role"] for _, _, vector in CONNECTIONS)
    assert set(roles) == {"client", "server"}
    assert len(CLIENT) == roles["client"] >= 110
    assert roles["server"] >= 225


def test_extension_regions(play: Play) -> None:
    answers = play.run([f"extension {runs(vector['bytes'])}" for _, _, vector in EXTENSIONS])
    for (name, _, vector), [(kind, fields)] in zip(EXTENSIONS, answers, strict=True):
        if not vector["valid"]:
            assert kind == "refused", name
            continue
        found: Json = {
            key: int(value) for key, value in fields.items() if key in {"body_length", "retry_after", "queue_estimate"}
        }
        if "dims" in fields:
            raw = hex_of(fields["dims"])
            found["dims"] = list(struct.unpack(f"<{len(raw) // 8}Q", raw))
        if "trace" in fields:
            found["trace"] = fields["trace"]
        if "timing" in fields:
            found["timing"] = [int(value) for value in fields["timing"].split(",")]
        assert found == vector["items"], name


def metadata_command(
    vector: Json, *, metadata: bytes | None = None, dims: bytes | None = None, body: bytes | None = None
) -> str:
    written = runs(vector["metadata"]) if metadata is None else metadata.hex() or "-"
    numbers = vector.get("dims", "") if dims is None else dims.hex()
    tensors = runs(vector["body"]) if "body" in vector else "?"
    return f"metadata {written} {numbers or '-'} {tensors if body is None else body.hex() or '-'}"


def test_metadata_says_what_the_vectors_say(play: Play) -> None:
    answers = play.run([metadata_command(vector) for _, _, vector in METADATA])
    for (name, _, vector), [(kind, fields), *tensors] in zip(METADATA, answers, strict=True):
        if not vector["valid"]:
            assert (kind, fields["stage"]) == ("refused", vector["refused"]), name
            continue
        assert kind == "accepted", (name, fields)
        assert fields["body_length"] == vector["body_length"], name
        assert hex_of(fields["model"]).decode() == vector["model"].partition("\0")[0], name  # C's text ends there
        assert hex_of(fields["version"]).decode() == vector["version"]
        if "body" in vector:
            assert [tensor_of(fields) for _, fields in tensors] == [told(tensor) for tensor in vector["tensors"]], name


def tensor_of(fields: dict[str, str]) -> Json:
    found: Json = {key: fields[key] for key in ("dtype", "kind")}
    found |= {key: [] if fields[key] == "-" else fields[key].split(",") for key in ("declared", "shape")}
    found["name"] = hex_of(fields["name"]).decode()
    found["data"] = hex_of(fields["data"])
    if "offsets" in fields and "0" not in found["shape"][1:]:
        raw = hex_of(fields["offsets"])
        found["rows"] = [end - start for start, end in pairwise(struct.unpack(f"<{len(raw) // 8}q", raw))]
    return found


def told(tensor: Json) -> Json:
    """What `play` shall show of a vector's tensor: its elements as bytes, its rows by their lengths."""
    wanted: Json = {key: tensor[key] for key in ("dtype", "kind", "declared", "shape", "name")}
    if tensor["kind"] == "dense":
        return wanted | {"data": b"".join(element(tensor["dtype"], text) for text in tensor["elements"])}
    if tensor["kind"] == "string":
        strings = [text.encode() for text in tensor["strings"]]
        return wanted | {"data": b"".join(strings), "rows": [len(text) for text in strings]}
    items = 1
    for size in tensor["shape"][1:]:
        items *= int(size)
    data = b"".join(element(tensor["dtype"], text) for row in tensor["rows"] for text in row)
    if items == 0:  # how many there are cannot be seen in them
        return wanted | {"data": data}
    return wanted | {"data": data, "rows": [len(row) // items for row in tensor["rows"]]}


def element(dtype: str, text: str) -> bytes:
    if "float" in dtype or "complex" in dtype:
        return b"".join(bytes.fromhex(half)[::-1] for half in text.split(" "))
    bits = int(re.sub(r"\D", "", dtype) or 8)
    return int(text).to_bytes(bits // 8, "little", signed=dtype.startswith("int"))


def test_metadata_dims_and_bodies_cut_or_lengthened_are_refused(play: Play) -> None:
    commands, wanted = [], []
    for name, _, vector in METADATA:
        if not vector["valid"]:
            continue
        raw, dims = unpack(vector["metadata"]), bytes.fromhex(vector["dims"])
        unreached = 9 if vector["name"] == "bytes that nothing points to" else 0
        for size in range(len(raw) - unreached):
            commands.append(metadata_command(vector, metadata=raw[:size]))
            wanted.append((name, "metadata"))
        for other in (*(dims[:size] for size in range(len(dims))), dims + b"\0", dims + bytes(8)):
            commands.append(metadata_command(vector, dims=other))
            wanted.append((name, "dims"))
        body = unpack(vector["body"]) if "body" in vector else None
        for other in (
            () if body is None else (*(body[:size] for size in range(len(body))), body + b"\0", body + bytes(64))
        ):
            commands.append(metadata_command(vector, body=other))
            wanted.append((name, "body"))
    for (name, stage), [(kind, fields)], command in zip(wanted, play.run(commands), commands, strict=True):
        assert (kind, fields.get("stage")) == ("refused", stage), (name, command)
