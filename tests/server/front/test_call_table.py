"""Each open call gets exactly one end; session.py's tests show them on the wire."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tensorwire.protocol import Status, parse_extension
from tensorwire.server.front.call import Call
from tensorwire.server.front.call_table import MAX_DETAIL_BYTES, CallTable
from tensorwire.server.front.timers import Timers
from tensorwire.server.model_stats import ModelStats
from tests.server.front.harness import FakeEngine, FakeLoop


class Harness:
    def __init__(self) -> None:
        loop = FakeLoop()
        self.ends: list[tuple[int, Status, str, bool, bytes]] = []
        connection: Any = SimpleNamespace(connection_id=bytes(8), end=lambda *end: self.ends.append(end))
        self.timers = Timers(loop.call_later, lambda: loop.now)
        self.engine = FakeEngine()
        self.stats = ModelStats("m", "1")
        self.calls = CallTable(self.timers, connection, None)

    def call(self, stream_id: int, *, timing: bool = False) -> Call:
        model = SimpleNamespace(placement="inline", stats=self.stats)
        route: Any = SimpleNamespace(engine=self.engine, model=model)
        made = self.calls.calls[stream_id] = Call(stream_id, SimpleNamespace(), 5.0, route, 0, 0, timing)  # type: ignore[arg-type]
        return made


def test_a_reply_is_an_end_and_nothing_is_said() -> None:
    harness = Harness()
    call = harness.call(1)
    harness.calls.replied([call])
    assert (call.done, harness.calls.calls, harness.ends) == (True, {}, [])


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
