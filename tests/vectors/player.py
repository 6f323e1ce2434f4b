"""Plays a vector against tensorwire.protocol: README.md says what each step means.

What lives here: the translation of steps and events. What must not: expectations of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tensorwire.protocol import Config, Connection, ErrorCode, Limits, Refusal, Role, Status, events
from tests.vectors.wire import WANT_TIMING, ready_payload

HERE = Path(__file__).resolve().parent
Json = dict[str, Any]
NOW = 1000.0


def load(kind: str) -> Iterator[tuple[str, Json, Json]]:
    """(id, file, vector) of every vector of a kind."""
    for path in sorted(HERE.glob("*/*.json")):
        file = json.loads(path.read_text())
        if file["kind"] == kind == "signed":
            for group in file["groups"]:
                yield from _of_group(path.stem, file, group)
        elif file["kind"] == kind:
            for vector in file["vectors"]:
                yield f"{path.stem}: {vector['name']}", file, vector


def _of_group(stem: str, file: Json, group: Json) -> Iterator[tuple[str, Json, Json]]:
    """The tests of a group as vectors of a file; what its connections are configured with is the group's too."""
    config = file["config"] | {key: value for key, value in group.items() if key not in {"tests", "prelude"}}
    alone = {"config": config, "prelude": group.get("prelude", {})}
    for test in group["tests"]:
        name = f"{stem} {test['id']}: {group['comment']}: {test['comment']}"
        yield name, alone, test | {"name": test["comment"], "valid": test["result"] == "valid"}


def unpack(parts: list[Any]) -> bytes:
    """The bytes of a list of parts."""
    return b"".join(bytes.fromhex(p) if isinstance(p, str) else bytes.fromhex(p["byte"]) * p["times"] for p in parts)


def whole(parts: list[Any]) -> Iterator[bytes]:
    """All bytes of a step at once."""
    yield unpack(parts)


def edges(parts: list[Any]) -> Iterator[bytes]:
    """Cut at, before and behind each place where something of a record begins or ends."""
    data, at, cuts = unpack(parts), 0, {0}
    while at + 4 <= len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        for place in (at, at + 4, at + 36, end, end + 16):
            cuts |= {place - 1, place, place + 1}
        at = end + 16
    inside = sorted({cut for cut in cuts if 0 < cut < len(data)} | {0, len(data)})
    yield from (data[start:end] for start, end in pairwise(inside))


def single(parts: list[Any]) -> Iterator[bytes]:
    """Byte by byte; of a long run of equal bytes the middle goes at once."""
    for part in parts:
        data = unpack([part])
        edge = len(data) if isinstance(part, str) else 1
        yield from (data[n : n + 1] for n in range(edge))
        if edge < len(data):
            yield data[edge:-1]
            yield data[-1:]


class Player:
    """One connection under test and what has come out of it."""

    def __init__(self, file: Json, vector: Json, split: Any) -> None:
        self.vector = vector
        self.split = split
        self.events: list[Json] = []
        self.sent = b""
        self.all_sent = b""
        self.closed = False
        config = self.config = file["config"]
        server = vector["role"] == "server"
        limits = Limits(
            chunk=config["chunk"],
            max_streams=config["max_streams"],
            max_message=config["max_message"],
            handshake_timeout=config.get("handshake_timeout", 2000) / 1000,
            ping_interval=config.get("ping_interval", 0) / 1000,
            ping_timeout=config.get("ping_timeout", 10_000) / 1000,
            max_abuse=config.get("late_and_refused", 10_000),
        )
        self.now = NOW
        self.connection = Connection(
            Config(
                role=Role.SERVER if server else Role.CLIENT,
                agent=config["agent"],
                limits=limits,
                mac_algorithms=tuple(config.get("allows" if server else "offers", ("none",))),
                key_id=b"" if server else bytes.fromhex(config.get("key_id", "")),
                secret=b"" if server else bytes.fromhex(config.get("secret", "")),
                keyless=config.get("keyless", True),
            ),
            nonce=bytes.fromhex(config["server_nonce" if server else "client_nonce"]),
            now=NOW,
            reserve=self._reserve,
            connection_id=bytes.fromhex(config["connection_id"]) if server else b"",
            boot_id=bytes.fromhex(config["boot_id"]) if server else b"",
            secret_of=self.secret_of if server and "keys" in config else None,
            binding=bytes.fromhex(config.get("binding", "")),
        )

    def secret_of(self, key_id: bytes) -> tuple[bytes, bool]:
        """What the server's owner knows of a key; nothing that can be told from outside if it is not valid."""
        for key in self.config["keys"]:
            if bytes.fromhex(key["id"]) == key_id and key["valid"]:
                return bytes.fromhex(key["secret"]), True
        return bytes.fromhex(self.config["dummy_secret"]), False

    def _reserve(
        self, stream_id: int, flags: int, priority: int, aux: int, ext: bytes, meta: bytes, body_length: int
    ) -> memoryview | Refusal:
        if self.vector.get("reserve") == "refuse":
            return Refusal(Status.RESOURCE_EXHAUSTED, "no memory")
        return memoryview(bytearray(body_length))

    def play(self, steps: list[Json]) -> None:
        """Run the steps; AssertionError names the first that does not hold."""
        for step in steps:
            if "receive" in step:
                for data in self.split(step["receive"]):
                    self.receive(data)
            elif "at" in step:
                self.now = NOW + step["at"] / 1000
                self._record(self.connection.handle_timeout(self.now))
            elif "timer" in step:
                moment = self.connection.next_deadline()
                assert (None if moment is None else (moment - NOW) * 1000) == step["timer"]
            elif "expect" in step:
                self._check_events(step["expect"])
            elif "sends" in step:
                self._collect()
                assert self.sent.hex() == unpack(step["sends"]).hex()
                self.sent = b""
            else:
                self._do(step)

    def receive(self, data: bytes) -> None:
        """Hand bytes to the connection, as many at a time as it has room for."""
        while data and not self.closed:
            buffer = self.connection.next_buffer()
            size = min(len(buffer), len(data))
            assert size, "next_buffer() gave no room"
            buffer[:size] = data[:size]
            data = data[size:]
            self._record(self.connection.received(size, self.now))

    def finish(self) -> None:
        """Nothing is left over."""
        self._collect()
        assert self.events == []

    def _record(self, found: list[events.Event]) -> None:
        for event in found:
            self.events.append(translate(event))
            if isinstance(event, events.Closed):
                self.closed = True
            if isinstance(event, events.Authenticated) and self.vector.get("accept_at_once"):
                self.connection.accept(ready_payload())

    def _collect(self) -> None:
        while buffers := self.connection.data_to_send():
            data = b"".join(buffers)
            self.sent += data
            self.all_sent += data

    def _check_events(self, expected: list[Json]) -> None:
        if self.vector.get("any_close_code"):
            expected = [{k: v for k, v in e.items() if k != "code"} for e in expected]
            self.events = [{k: v for k, v in e.items() if k != "code" or e["event"] != "closed"} for e in self.events]
        assert self.events == [normal(e) for e in expected]
        self.events = []

    def _do(self, step: Json) -> None:
        connection, action = self.connection, step["do"]
        if action == "accept":
            connection.accept(bytes.fromhex(step["ready"]))
        elif action in {"open", "send"}:
            body = unpack(step["body"])
            meta, ext = bytes.fromhex(step["metadata"]), bytes.fromhex(step["extension"])
            if action == "send":
                connection.send(step["stream"], meta, ext, [body], len(body), step["flags"])
            else:
                deadline = step.get("deadline_us", 0)
                connection.open(meta, ext, [body], len(body), step["flags"], deadline_us=deadline)
                self._written()
        elif action == "end":
            ext = bytes.fromhex(step["extension"])
            connection.end(step["stream"], Status(step["status"]), step["detail"], step["not_started"], ext)
        elif action == "cancel":
            self._written()
            connection.cancel(step["stream"])
        elif action == "ping":
            connection.ping(bytes.fromhex(step["payload"]))
        elif action == "goaway":
            connection.goaway(step["last_stream"], ErrorCode(step["code"]), step["detail"])
        elif action == "close":
            connection.close(ErrorCode(step["code"]), step["detail"])
        else:
            self._record(connection.receive_eof(self.now))

    def _written(self) -> None:
        """What the owner asked for before has reached the wire, so that the peer can answer it."""
        self._collect()


def normal(event: Json) -> Json:
    """An expected event with its bytes as bytes."""
    return {k: unpack(v) if isinstance(v, list) else v for k, v in event.items()}


def translate(event: events.Event) -> Json:
    """An event of the core as the vectors write it; the body is copied, for its view ends with the callback."""
    if isinstance(event, events.Message):
        return {
            "event": "message",
            "stream": event.stream_id,
            "seq": event.seq,
            "end_stream": event.end_stream,
            "want_timing": bool(event.flags & WANT_TIMING),
            "priority": event.priority,
            "aux": event.aux,
            "extension": event.ext.hex(),
            "metadata": bytes(event.meta),
            "body": bytes(event.body),
        }
    if isinstance(event, events.Ended):
        return {
            "event": "ended",
            "stream": event.stream_id,
            "status": int(event.status),
            "not_started": event.not_started,
            "detail": event.detail,
            "extension": event.ext.hex(),
        }
    if isinstance(event, events.Refused):
        return {"event": "refused", "stream": event.stream_id, "status": int(event.status)}
    if isinstance(event, events.MessageAborted):
        return {"event": "message_aborted", "stream": event.stream_id}
    if isinstance(event, events.Cancelled):
        return {"event": "cancelled", "stream": event.stream_id}
    if isinstance(event, events.GoAway):
        return {
            "event": "goaway",
            "last_stream": event.last_stream_id,
            "code": int(event.code),
            "detail": event.detail,
        }
    if isinstance(event, events.Closed):
        return {"event": "closed", "code": int(event.code), "remote": event.remote}
    if isinstance(event, (events.Ready, events.Pong)):
        return {"event": type(event).__name__.lower(), "payload": event.payload.hex()}
    assert isinstance(event, events.Authenticated)
    return {"event": "authenticated"}


__all__ = ["Player", "edges", "load", "single", "unpack", "whole"]
