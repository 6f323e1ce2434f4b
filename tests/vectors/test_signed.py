"""Vectors of kind `signed`, sessions: whole, byte by byte, cut at the edges of records, and with bytes behind them."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tensorwire.protocol.signing import available_macs
from tests.support.together import by_section, each
from tests.vectors import sealed, wire
from tests.vectors.mac import hkdf_extract
from tests.vectors.player import Player, edges, load, single, unpack, whole

HERE = Path(__file__).resolve().parent
FILES = {path.stem: json.loads(path.read_text()) for path in (HERE / "draft").glob("*.json")}
SIGNED = {name: file for name, file in FILES.items() if file["kind"] == "signed"}
GROUPS = [group for file in SIGNED.values() for group in file["groups"]]
Json = dict[str, Any]


def usable(config: Json) -> bool:
    return {config["mac"], *config.get("offers", ()), *config.get("allows", ())} <= set(available_macs())


SESSIONS = [case for case in load("signed") if case[1]["config"]["type"] == "session"]
CASES = each("file vector", [case for case in SESSIONS if usable(case[1]["config"])], by_section)


def play(file: Json, vector: Json, split: Any) -> Player:
    player = Player(file, vector, split)
    if vector["start"] == "open":
        player.play(file["prelude"][vector["role"]])
    player.play(vector["steps"])
    return player


def steps_of(file: Json, vector: Json) -> list[Json]:
    prelude: list[Json] = file["prelude"][vector["role"]] if vector["start"] == "open" else []
    steps: list[Json] = vector["steps"]
    return prelude + steps


@pytest.mark.parametrize("split", [whole, single, edges])
@CASES
def test_session_holds_however_its_bytes_are_split(file: Json, vector: Json, split: Any) -> None:
    player = play(file, vector, split)
    player.finish()
    if vector["valid"]:
        return
    assert player.closed
    last = next(event for step in reversed(vector["steps"]) for event in reversed(step.get("expect", [])))
    assert last["event"] == "closed"
    if not last["remote"]:
        check_last_frame(file, vector, player, last["code"])


@CASES
def test_bytes_behind_a_session_give_no_event(file: Json, vector: Json) -> None:
    steps = vector["steps"]
    if not vector["valid"] and "receive" in steps[-2]:
        *before, last, expected = steps
        steps = [*before, {"receive": [*last["receive"], "00" * 40, "ff" * 400]}, expected]
    player = play(file, vector | {"steps": steps}, whole)
    if not player.closed:
        player.receive(b"\x28\0\0")  # of a record's length or a frame's
    player.finish()


# ---- the last words, read with the keys that the handshake gives ----


def check_last_frame(file: Json, vector: Json, player: Player, code: int) -> None:
    """CLOSE with the code is the last thing sent; in a record, once the role's records have begun."""
    frames = list(frames_sent(file, vector, player))
    kind, aux = frames[-1][4], int.from_bytes(frames[-1][20:24], "little")
    assert kind == wire.CLOSE
    assert aux == code or "any_close_code" in vector
    assert [frame[4] for frame in frames].count(wire.CLOSE) == 1


def frames_sent(file: Json, vector: Json, player: Player) -> Iterator[bytes]:
    """All frames that the role sent; those in records only after their tags were found right."""
    server = vector["role"] == "server"
    data = player.all_sent.removeprefix(b"" if server else wire.PREFACE)
    received = b"".join(unpack(step["receive"]) for step in steps_of(file, vector) if "receive" in step)
    hello = first_frame(received.removeprefix(wire.PREFACE) if server else data)
    while data:
        frame = first_frame(data)
        yield frame
        data = data[len(frame) :]
        if frame[4] == (wire.WELCOME if server else wire.AUTH):
            welcome = frame if server else first_frame(received)
            yield from signed_frames(file["config"], server, hello, welcome, data)
            return


def signed_frames(config: Json, server: bool, hello: bytes, welcome: bytes, data: bytes) -> Iterator[bytes]:
    """The frames in the records of a role, under the keys of this handshake."""
    said, answer = entries(hello), entries(welcome)
    mac = {number: name for name, number in sealed.NUMBERS.items()}[answer[6][0]]
    if not server:
        secret = bytes.fromhex(config["secret"])
    else:
        known = {key["id"]: key["secret"] for key in config["keys"] if key["valid"]}
        key_id = said.get(7, b"").hex()
        secret = bytes.fromhex(known[key_id] if key_id in known else config["dummy_secret"])
    zeroed = welcome.replace(answer[13], bytes(32)) if 13 in answer else welcome
    th = sealed.transcript_hash(wire.PREFACE, hello, zeroed, bytes.fromhex(config["binding"]))
    label = "server record" if server else "client record"
    key = sealed.key_of(hkdf_extract(said[3] + answer[3], secret), label, th)
    for frames in sealed.opened_records(mac, key, 0, data):
        while frames:
            frame = first_frame(frames)
            yield frame
            frames = frames[len(frame) :]


def first_frame(data: bytes) -> bytes:
    return data[: 32 + int.from_bytes(data[:4], "little")]


def entries(frame: bytes) -> dict[int, bytes]:
    found, at = {}, 32
    while at < len(frame):
        kind, size = struct.unpack_from("<HH", frame, at)
        found[kind] = frame[at + 4 : at + 4 + size]
        at += 4 + size
    return found


def test_every_refusal_after_auth_has_the_same_words() -> None:
    """Unknown key, expired key, wrong secret, wrong proof of any kind: one text (9.7)."""
    texts = set()
    for name, file, vector in SESSIONS:
        at_server = vector["role"] == "server" and vector["start"] == "connected"
        if name.startswith("signed_handshake") and at_server and usable(file["config"]):
            steps = vector["steps"]
            closes = {event["code"] for event in steps[-1].get("expect", ()) if event["event"] == "closed"}
            if closes == {wire.AUTHENTICATION} and len(steps) == 4 and "sends" in steps[1] and not vector["valid"]:
                player = play(file, vector, whole)
                player.finish()
                texts.add(list(frames_sent(file, vector, player))[-1][32:])
    assert len(texts) == 1


# ---- the files themselves ----


def test_at_least_half_of_each_suite_are_invalid() -> None:
    for name, file in SIGNED.items():
        results: Counter[tuple[str, str]] = Counter()
        for group in file["groups"]:
            results.update((group["mac"], test["result"]) for test in group["tests"])
        for mac in {mac for mac, _ in results}:
            assert results[mac, "invalid"] >= results[mac, "valid"] > 0, (name, mac)


def test_ids_count_up_comments_are_unique_and_flags_are_explained() -> None:
    for file in SIGNED.values():
        tests = [test for group in file["groups"] for test in group["tests"]]
        assert [test["id"] for test in tests] == list(range(1, file["number_of_tests"] + 1))
        assert {flag for test in tests for flag in test["flags"]} <= set(file["notes"])
        for group in file["groups"]:
            comments = Counter(test["comment"] for test in group["tests"])
            assert comments.most_common(1)[0][1] == 1, comments.most_common(1)


def test_every_role_is_shown_in_every_suite() -> None:
    shown = {(file["config"]["mac"], vector["role"]) for _, file, vector in SESSIONS}
    assert shown == {(mac, role) for mac in ("none", "hmac-sha256", "aes-256-gmac") for role in ("server", "client")}


def test_no_file_is_larger_than_two_megabytes() -> None:
    assert max(path.stat().st_size for path in (HERE / "draft").iterdir()) < 2_000_000
