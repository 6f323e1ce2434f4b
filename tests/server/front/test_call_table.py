"""Each open call gets exactly one end; session.py's tests show them on the wire."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tensorwire.protocol import Status, parse_extension
from tensorwire.server.front.call import Call
from tensorwire.server.front.call_table import LARGE, MAX_DETAIL_BYTES, CallTable
from tensorwire.server.front.ports import ConnectionInfo, Outlet
from tensorwire.server.front.timers import Timers
from tensorwire.server.model_stats import ModelStats
from tests.server.front.harness import FakeEngine, FakeLoop


class FakeOutlet(Outlet):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed = self.counted = 0

    def flush(self) -> None:
        self.flushed += 1

    def count_unread(self) -> None:
        self.counted += 1

    def over_reply_budget(self) -> bool:
        return False

    def stalled_since(self, since: float) -> bool:
        return False

    def reading_paused(self) -> bool:
        return False

    def descriptor(self) -> int:
        return -1

    def close(self) -> None:
        return

    def abort(self, reason: str) -> None:
        return


class Harness:
    def __init__(self) -> None:
        loop = FakeLoop()
        self.sent: list[int] = []
        self.ends: list[tuple[int, Status, str, bool, bytes]] = []
        connection: Any = SimpleNamespace(end=lambda *end: self.ends.append(end), send=self._send)
        self.timers = Timers(loop.call_later, lambda: loop.now)
        self.engine = FakeEngine()
        self.stats = ModelStats("m", "1")
        self.outlet = FakeOutlet()
        self.calls = CallTable(self.timers, None)
        self.connection = connection
        self.calls.attach(connection, self.outlet, ConnectionInfo(bytes(8), 0.0))

    def _send(self, stream_id: int, *_reply: Any) -> None:
        self.sent.append(stream_id)

    def call(self, stream_id: int, *, timing: bool = False) -> Call:
        model = SimpleNamespace(placement="inline", stats=self.stats)
        route: Any = SimpleNamespace(engine=self.engine, model=model)
        made = self.calls.calls[stream_id] = Call(stream_id, self.calls, 5.0, route, 0, 0, timing)
        return made


def test_a_reply_is_an_end_and_nothing_is_said() -> None:
    harness = Harness()
    call = harness.call(1)
    harness.calls.reply(call, b"", b"", [], 0)
    assert (call.done, harness.calls.calls, harness.ends, harness.sent) == (True, {}, [], [1])


def test_a_failure_is_counted_and_says_whether_it_started() -> None:
    harness = Harness()
    harness.calls.fail(harness.call(1), Status.INTERNAL, "no", started=True)
    (stream_id, status, detail, not_started, ext) = harness.ends[0]
    assert (stream_id, status, not_started, ext) == (1, Status.INTERNAL, False, b"")
    assert detail == "no [request 0000000000000000-1]"
    assert harness.stats.by_status[Status.INTERNAL] == 1


def test_who_asked_for_timing_gets_it_with_an_error_too() -> None:
    harness = Harness()
    harness.calls.fail(harness.call(1, timing=True), Status.INTERNAL, "no", started=True)
    assert parse_extension(harness.ends[0][4]).timing is not None


def test_giving_up_tells_the_engines_and_nobody_else() -> None:
    harness = Harness()
    calls = [harness.call(1), harness.call(2)]
    harness.calls.give_up()
    assert harness.engine.cancelled == calls
    assert (harness.ends, harness.calls.calls) == ([], {})
    assert harness.stats.by_status[Status.CANCELLED] == 2


def test_a_long_text_is_cut_between_characters_and_keeps_the_request() -> None:
    detail = Harness().calls.detail(7, "\N{SNOWMAN}" * 2000)
    assert MAX_DETAIL_BYTES - 3 < len(detail.encode()) <= MAX_DETAIL_BYTES
    assert detail.endswith("[request 0000000000000000-7]")


def test_after_a_large_reply_those_that_wait_are_counted() -> None:
    harness = Harness()
    harness.calls.reply(harness.call(1), b"", b"", [], LARGE)
    assert harness.outlet.counted == 0
    harness.calls.reply(harness.call(2), b"", b"", [], LARGE + 1)
    assert harness.outlet.counted == 1


def test_who_waits_for_the_last_call_is_told_once_it_is_written() -> None:
    harness = Harness()
    told: list[int] = []
    call = harness.call(1)
    harness.calls.when_empty = lambda: told.append(harness.outlet.flushed)
    harness.calls.flush()
    assert told == []
    harness.calls.fail(call, Status.INTERNAL, "no", started=True)
    assert told == []
    harness.calls.flush()
    assert told == [2]


def test_calls_that_were_taken_from_a_lost_connection_end_on_the_next() -> None:
    lost, after = Harness(), Harness()
    call = lost.call(1)
    lost.calls.detach()
    lost.calls.flush()
    assert lost.outlet.flushed == 0, "there is nothing to write to"
    lost.calls.attach(after.connection, after.outlet, ConnectionInfo(b"\1" * 8, 9.0))
    call.target.reply(call, b"", b"", [], 0)
    call.target.flush()
    assert (lost.sent, after.sent, after.outlet.flushed) == ([], [1], 1)
    assert call.target.info.name == "01" * 8
