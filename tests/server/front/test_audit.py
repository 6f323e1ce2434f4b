"""What the audit log says, that it says it once per end of a call or connection, and what it never says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import FREE, HealthRequest, TensorSpec, dtype_by_name, encode_metadata
from tensorwire.protocol import ErrorCode, Status, pack_extension
from tensorwire.protocol.header import END_STREAM
from tensorwire.server.engine.api import BatchResult, Failure
from tensorwire.server.front.audit import INTERVAL, MANY, STRANGERS, Audit
from tensorwire.server.front.audit_file import AuditFile
from tensorwire.server.front.mask import MASK_DIGITS, MAX_NAME, Mask, read_salt
from tests.server.front.harness import ROW, Client, Harness

PEER = ("192.0.2.7", 40000)
EVIL = '\x1b[2J\x9b31m\r\n{"event":"call"}\x85\u2028\u202e\x00\x7f\\"'
WIDE = np.zeros((4096, 8), np.float32)  # 128 KiB: its body comes in chunks


class Audited(Harness):
    """A front with an audit log."""

    def __init__(self, path: Path, *flags: tuple[str, str], mask: Mask | None = None) -> None:
        self.file = AuditFile(path)
        self.path = path
        self.mask = mask or Mask()
        super().__init__(*flags)

    def open_audit(self) -> Audit:
        loop: Any = self.loop
        return Audit(self.file, self.timers, loop.call_soon, self.mask)

    def come(self) -> Client:
        return Client(self, PEER).connect()

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """Everything that was written, after the end of the server."""
        assert self.audit is not None
        self.audit.close()
        read = [json.loads(line) for line in self.path.read_text(encoding="ascii").splitlines()]
        return [line for line in read if event in ("", line["event"])]


@pytest.fixture
def audited(tmp_path: Path) -> Audited:
    return Audited(tmp_path / "audit.jsonl")


def test_a_call_is_one_line_that_says_who_what_when_and_how_much(audited: Audited) -> None:
    client = audited.come()
    before = datetime.now(UTC)
    stream = client.open("m", np.zeros((2, 4), np.float32))
    audited.loop.advance(0.25)
    audited.finish(*audited.engine.taken)
    (line,) = audited.lines("call")
    connection = client.core.connection_id.hex()
    seconds, moment = line.pop("seconds"), line.pop("time")
    assert line == {
        "event": "call",
        "request_id": f"{connection}-{stream}",
        "connection": connection,
        "principal": "anonymous",
        "key_id": None,
        "peer": PEER[0],
        "port": PEER[1],
        "model": "m",
        "version": "1",
        "status": "OK",
        "started": True,
        "bytes_in": 32,
        "bytes_out": 32,
    }
    assert 0 <= seconds < 5
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", moment)
    assert abs((datetime.fromisoformat(moment) - before).total_seconds()) < 5


def test_the_request_id_is_the_one_in_the_error_of_the_client(audited: Audited) -> None:
    client = audited.come()
    stream = client.open("unknown")
    detail = client.ended(stream).detail
    (line,) = audited.lines("call")
    assert f"[request {line['request_id']}]" in detail
    assert (line["model"], line["version"], line["status"], line["started"]) == ("unknown", None, "NOT_FOUND", False)


def expires(harness: Audited, client: Client) -> None:
    client.open("m", deadline=0.5)
    harness.loop.advance(1.0)


def cancelled(_: Audited, client: Client) -> None:
    client.core.cancel(client.open("m"))
    client.write()


def lost(_: Audited, client: Client) -> None:
    client.open("m")
    client.protocol.connection_lost(None)


def lost_half_way(_: Audited, client: Client) -> None:
    _stream, data = client.begin("m", WIDE)
    client.feed(data[:70000])
    client.protocol.connection_lost(None)


def failed(harness: Audited, client: Client) -> None:
    client.open("m")
    harness.fail(Failure([*harness.engine.taken], Status.INTERNAL, "the model raised", started=True))


def full(harness: Audited, client: Client) -> None:
    harness.engine.refuse = Failure([], Status.RESOURCE_EXHAUSTED, "the queue is full", started=False)
    client.open("m")


def full_for_a_large_one(harness: Audited, client: Client) -> None:
    harness.engine.refuse = Failure([], Status.RESOURCE_EXHAUSTED, "the queue is full", started=False)
    client.open("m", WIDE)


def wrong_shape(_: Audited, client: Client) -> None:
    client.open("m", np.zeros((1, 3), np.float32))


def wrong_length(_: Audited, client: Client) -> None:
    meta = encode_metadata("m", "", [TensorSpec("x", dtype_by_name("float32"), (FREE, FREE))])
    ext = pack_extension(dims=np.array([1, 4], "<u8").tobytes())
    client.core.open(meta, ext, [memoryview(bytes(12))], 12, END_STREAM)
    client.write()


def no_memory(harness: Audited, client: Client) -> None:
    harness.front.context.body_pool.receiving = harness.pool.nbytes
    client.open("m", WIDE)


ENDS: dict[str, tuple[Callable[[Audited, Client], None], str, bool, int]] = {
    "expired": (expires, "DEADLINE_EXCEEDED", False, 16),
    "cancelled": (cancelled, "CANCELLED", False, 16),
    "lost": (lost, "CANCELLED", False, 16),
    "lost half-way": (lost_half_way, "CANCELLED", False, 0),
    "failed": (failed, "INTERNAL", True, 16),
    "full": (full, "RESOURCE_EXHAUSTED", False, 0),
    "full, large": (full_for_a_large_one, "RESOURCE_EXHAUSTED", False, WIDE.nbytes),
    "wrong shape": (wrong_shape, "INVALID_ARGUMENT", False, 0),
    "wrong length": (wrong_length, "INVALID_ARGUMENT", False, 0),
    "no memory": (no_memory, "RESOURCE_EXHAUSTED", False, 0),
}


@pytest.mark.parametrize("how", ENDS)
def test_every_end_of_a_call_is_one_line(audited: Audited, how: str) -> None:
    act, status, started, nbytes = ENDS[how]
    act(audited, audited.come())
    (line,) = audited.lines("call")
    assert (line["model"], line["version"], line["status"]) == ("m", "1", status)
    assert (line["started"], line["bytes_in"], line["bytes_out"]) == (started, nbytes, 0)
    counted = audited.model.stats.by_status
    assert counted[Status[status]] == 1
    assert sum(counted) == 1


def test_a_call_that_the_core_refuses_by_itself_is_a_line_without_a_model(tmp_path: Path) -> None:
    audited = Audited(tmp_path / "audit", ("max_streams", "1"))
    client = audited.come()
    first, data = client.begin("m")
    client.feed(data)
    second = bytearray(data)
    second[8] = 2  # stream 2, which a good client would not open yet
    client.feed(bytes(second))
    (line,) = audited.lines("call")
    assert line["request_id"].endswith("-2")
    assert (line["model"], line["status"], line["started"]) == (None, "RESOURCE_EXHAUSTED", False)
    assert first == 1


def test_service_calls_and_watches_are_calls(audited: Audited) -> None:
    client = audited.come()
    client.service("$health", HealthRequest("m").pack())
    client.service("$none", b"\x80")
    cancelled_watch = client.service("$health", HealthRequest("m", watch=True).pack())
    lost_watch = client.service("$health", HealthRequest("m", watch=True).pack())
    client.core.cancel(cancelled_watch)
    client.write()
    client.protocol.connection_lost(None)
    lines = audited.lines("call")
    assert [(line["request_id"].rpartition("-")[2], line["model"], line["status"]) for line in lines] == [
        ("1", "$health", "OK"),
        ("2", "$none", "NOT_FOUND"),
        (str(cancelled_watch), "$health", "CANCELLED"),
        (str(lost_watch), "$health", "CANCELLED"),
    ]
    assert lines[0]["bytes_out"] > 0


def test_a_reply_without_batch_axis_is_counted_too(audited: Audited) -> None:
    client = audited.come()
    client.open("m")
    (call,) = audited.engine.taken
    encoded = client._encoder.encode("m", "1", {"y": np.zeros(6, np.float32)})
    now = audited.loop.now
    audited.model.engine.sink([BatchResult([call], (), [], 1, now, now, now, now, encoded)])
    assert audited.lines("call")[0]["bytes_out"] == 24


def test_connections_have_a_line_when_they_are_taken_and_one_when_they_end(audited: Audited) -> None:
    client = audited.come()
    client.open("m")
    client.open("m")
    client.protocol.connection_lost(None)
    lines = audited.lines()
    assert [line["event"] for line in lines] == ["authentication", "call", "call", "connection"]
    assert (lines[0]["outcome"], lines[0]["principal"]) == ("accepted", "anonymous")
    assert (lines[3]["reason"], lines[3]["calls"]) == ("peer_closed", 2)
    assert {line["connection"] for line in lines} == {client.core.connection_id.hex()}


def test_the_end_names_who_ended_it(audited: Audited) -> None:
    client = audited.come()
    client.feed(b"\xff" * 64)
    client.protocol.connection_lost(None)
    assert audited.lines("connection")[0]["reason"] == "frame"


def test_who_is_not_accepted_has_one_line_with_the_reason(audited: Audited) -> None:
    stranger = Client(audited, PEER)
    stranger.feed(b"GET / HTTP/1.1\r\n\r\n")
    stranger.protocol.connection_lost(None)
    Client(audited, PEER).protocol.connection_lost(None)
    Client(audited, PEER)
    audited.loop.advance(3.0)
    lines = audited.lines()
    assert [(line["event"], line["outcome"], line["reason"]) for line in lines] == [
        ("authentication", "refused", "not_tensorwire"),
        ("authentication", "refused", "peer_closed"),
        ("authentication", "refused", "timeout"),
    ]
    assert all(line["principal"] is None and line["peer"] == PEER[0] for line in lines)


def test_a_flood_of_strangers_is_a_number_and_pushes_no_call_out(audited: Audited) -> None:
    client = audited.come()
    for _ in range(STRANGERS + 50):
        Client(audited, PEER).protocol.connection_lost(None)
    assert client.works()
    lines = audited.lines()
    assert sum(line.get("outcome") == "refused" for line in lines) in (STRANGERS, 2 * STRANGERS)  # a second may pass
    assert sum(line["event"] == "call" for line in lines) == 1
    lost = 50 + STRANGERS - sum(line.get("outcome") == "refused" for line in lines)
    assert audited.file.lost == 0
    assert f"tensorwire_audit_lines_lost_total {lost}.0" in audited.front.metrics.text().decode()
    assert lost == sum(line["lines"] for line in lines if line["event"] == "lost")


def test_nothing_raw_of_a_peer_is_in_a_line(audited: Audited) -> None:
    client = audited.come()
    client.open(EVIL + "n" * 100)
    client.open("x" * 256)
    (evil, long) = audited.lines("call")
    raw = audited.path.read_bytes()
    assert set(raw) <= {10, *range(32, 127)}
    assert raw.count(b"\n") == 3
    assert evil["event"] == "call"
    assert evil["model"].isprintable()  # also where it is printed by what reads the log
    assert "2J" in evil["model"]
    assert long["model"] == "x" * MAX_NAME + "...(256 characters)"


def test_no_tensor_and_no_text_of_an_error_is_in_it(audited: Audited) -> None:
    client = audited.come()
    client.open("m", np.frombuffer(b"tensor contents!", np.float32).reshape(1, 4))
    audited.fail(Failure([*audited.engine.taken], Status.INTERNAL, "words of the model", started=True))
    audited.lines()
    raw = audited.path.read_bytes()
    assert b"tensor contents" not in raw
    assert b"words of the model" not in raw


# -- masks -----------------------------------------------------------------------------------------------------------


def test_masked_fields_are_hashes_that_join_lines(tmp_path: Path) -> None:
    audited = Audited(tmp_path / "audit", mask=Mask(frozenset(("principal", "peer", "model"))))
    first, second = audited.come(), Client(audited, ("192.0.2.8", 1)).connect()
    for client in (first, first, second):
        client.open("m")
    audited.finish(*audited.engine.taken)
    one, two, three = audited.lines("call")
    raw = audited.path.read_text()
    assert "anonymous" not in raw
    assert "192.0.2" not in raw
    for field in ("principal", "peer", "model"):
        assert re.fullmatch(f"[0-9a-f]{{{MASK_DIGITS}}}", one[field])
        assert one[field] == two[field]
    assert one["peer"] != three["peer"]
    assert one["principal"] == three["principal"]
    assert one["version"] == "1"  # not asked for
    assert one["key_id"] is None  # nothing is nothing, masked or not


def test_the_hash_depends_on_the_salt_and_the_field(tmp_path: Path) -> None:
    fields = frozenset(("principal", "key_id"))
    assert Mask(fields).json("principal", "ads") != Mask(fields).json("principal", "ads")
    salted = Mask(fields, b"s" * 32)
    assert salted.json("principal", "ads") == Mask(fields, b"s" * 32).json("principal", "ads")
    assert salted.json("principal", "ads") != salted.json("key_id", "ads")
    short = tmp_path / "salt"
    short.write_bytes(b"guess me")
    with pytest.raises(ValueError, match="8 bytes, expected at least 16"):
        read_salt(short)


# -- when lines are made -----------------------------------------------------------------------------------------------


def test_a_line_is_on_its_way_within_the_interval_and_many_do_not_wait(audited: Audited) -> None:
    audit = audited.audit
    assert audit is not None
    client = audited.come()
    assert audit._records
    audited.loop.advance(INTERVAL + 5.0)
    assert not audit._records
    for _ in range(MANY):
        client.open("unknown")
    assert len(audit._records) == MANY
    assert len(audited.loop.soon) == 1  # once for all of them
    audited.loop.soon.pop()()
    assert not audit._records
    assert len(audited.lines("call")) == MANY


def test_connections_that_are_gone_are_forgotten(audited: Audited) -> None:
    audit = audited.audit
    assert audit is not None
    for _ in range(5):
        client = audited.come()
        client.open("m", ROW)
        client.protocol.connection_lost(None)
    audit.flush()
    assert not audit._who
    assert not audit._gone
    assert len(audited.lines("connection")) == 5


def test_without_a_file_there_is_no_audit(tmp_path: Path) -> None:
    harness = Harness()
    assert harness.audit is None
    assert harness.client().works()
    assert "audit" not in harness.front.metrics.text().decode()
    assert not list(tmp_path.iterdir())


def test_connections_that_are_sent_away_were_drained(audited: Audited) -> None:
    old, late = audited.come(), audited.come()
    session: Any = old.protocol._session
    session.lifetime._max_age_reached(0.0)
    assert session.info.draining
    old.protocol.connection_lost(None)
    audited.front.connections.draining = True
    late.protocol.connection_lost(None)
    assert [line["reason"] for line in audited.lines("connection")] == ["drained", "drained"]


def test_a_closing_word_of_ours_is_the_reason(audited: Audited) -> None:
    client = audited.come()
    session: Any = client.protocol._session
    audited.front.connections.dropped(session.info, "timeout", "")
    session.lifetime.close(ErrorCode.TIMEOUT, "late")
    client.protocol.connection_lost(None)
    assert audited.lines("connection")[0]["reason"] == "timeout"


def test_the_page_names_every_field_and_event(audited: Audited) -> None:
    client = audited.come()
    client.open("m")
    audited.finish(*audited.engine.taken)
    client.protocol.connection_lost(None)
    Client(audited, PEER).protocol.connection_lost(None)
    page = (Path(__file__).resolve().parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")
    for line in audited.lines():
        assert f"`{line['event']}`" in page
        assert not [name for name in line if f"`{name}`" not in page and name != "event"]
