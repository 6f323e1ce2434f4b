"""The two reasons to stop reading, and what is written when: a transport without a loop, and a clock that is told."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tensorwire.protocol import Config, Role
from tensorwire.server.front import socket_outlet
from tensorwire.server.front import transport as module
from tensorwire.server.front.listener_policy import ListenerPolicy, unbound
from tensorwire.server.front.ports import ConnectionInfo
from tensorwire.server.front.reply_budget import ReplyBudget
from tensorwire.server.front.socket_outlet import LINGER_BYTES
from tensorwire.server.front.timers import Timers
from tensorwire.server.front.transport import (
    ALONE_BUDGET,
    READ_BUDGET,
    READ_FIRST,
    READ_LEAST,
    TURN_SECONDS,
    ConnectionTransport,
)


class FakeSocketTransport:
    """asyncio's side: counts, and calls back as uvloop would."""

    def __init__(self, high: int = 1000) -> None:
        self.reading = True
        self.written: list[bytes] = []
        self.waiting = 0
        self.high = high
        self.protocol: Any = None
        self.aborted = False
        self.eof = False

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes) -> None:
        self.writelines([data])

    def writelines(self, buffers: list[bytes]) -> None:
        before = self.waiting
        self.written += [bytes(buffer) for buffer in buffers]
        self.waiting += sum(map(len, buffers))
        if before <= self.high < self.waiting:
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        self.eof = True

    def abort(self) -> None:
        self.aborted = True

    def drained(self) -> None:
        self.waiting = 0
        self.protocol.resume_writing()


class FakeSession:
    """A session whose core has `queued` buffers to send."""

    def __init__(self, context: Any, outlet: Any, observer: Any, policy: ListenerPolicy) -> None:
        self.connection = self
        self.queued: list[bytes] = []
        self.got = 0
        self.is_lost = False
        self.info = ConnectionInfo(bytes(8), 0.0)
        self.info.authenticated = True
        self.budget = 0
        self.buffer = memoryview(bytearray(64))

    @property
    def outbound_bytes(self) -> int:
        return sum(map(len, self.queued))

    def next_buffer(self) -> memoryview:
        return self.buffer

    def data_to_send(self, budget: int) -> list[bytes]:
        self.budget = budget
        return [self.queued.pop(0)] if self.queued else []

    def received(self, nbytes: int, now: float) -> None:
        self.got += nbytes

    def lost(self) -> None:
        self.is_lost = True


class Harness:
    """One connection without a loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, poison: bool = False) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "Session", FakeSession)
        monkeypatch.setattr(module, "monotonic", self._clock)
        monkeypatch.setattr(socket_outlet, "monotonic", self._clock)
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.timers: list[Callable[[], None]] = []
        self.dropped: list[str] = []
        self.buffer = memoryview(bytearray(b"secret"))
        settings = SimpleNamespace(poison=poison, write_high_water=1000, write_timeout=30.0)
        self.budget = ReplyBudget(8000)
        context: Any = SimpleNamespace(
            reply_budget=self.budget,
            settings=settings,
            metrics=SimpleNamespace(bytes_out=0),
            write_budget=1 << 18,
            timers=Timers(self._call_later, self._clock),
            loop=SimpleNamespace(call_soon=lambda callback, *arguments: self.soon.append((callback, arguments))),
            receive_buffer=self.buffer,
        )
        connections: Any = SimpleNamespace(
            draining=False,
            admit=lambda session: True,
            dropped=lambda info, reason: self.dropped.append(reason),
        )
        dispatcher: Any = SimpleNamespace(
            reading=False, woken=[], reader=None, reader_since=0.0, busy_poll=SimpleNamespace(stir=lambda: None)
        )
        policy = ListenerPolicy(Config(role=Role.SERVER), unbound, "tcp")
        self.context, self.connections, self.dispatcher = context, connections, dispatcher
        self.protocol = ConnectionTransport(context, connections, dispatcher, policy)
        self.session: Any = self.protocol._session
        self.socket: Any = FakeSocketTransport()
        self.socket.protocol = self.protocol
        transport: Any = self.socket
        self.protocol.connection_made(transport)

    def _clock(self) -> float:
        return self.now

    def _call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        self.timers.append(callback)
        return SimpleNamespace(cancel=lambda: self.timers.remove(callback) if callback in self.timers else None)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback, arguments in soon:
            callback(*arguments)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    return Harness(monkeypatch)


def test_after_its_budget_a_connection_waits_for_the_next_turn(harness: Harness) -> None:
    harness.protocol.buffer_updated(READ_BUDGET - 1)
    assert harness.socket.reading
    harness.protocol.buffer_updated(1)
    assert not harness.socket.reading
    harness.turn()
    assert harness.socket.reading


def test_a_connection_alone_has_a_larger_budget_until_another_is_heard_of(harness: Harness) -> None:
    harness.protocol.buffer_updated(1)
    harness.now += 1.0
    harness.protocol.buffer_updated(READ_BUDGET)
    harness.turn()
    harness.protocol.buffer_updated(ALONE_BUDGET - 1)
    assert harness.socket.reading
    harness.dispatcher.reader = None  # as another connection leaves it
    harness.protocol.buffer_updated(1)
    assert not harness.socket.reading
    harness.turn()
    harness.protocol.buffer_updated(READ_BUDGET)
    assert not harness.socket.reading


def test_as_much_is_asked_of_the_core_at_a_time_as_the_kernel_may_keep_unsent(harness: Harness) -> None:
    harness.context.write_budget = 12345
    harness.session.queued = [b"x"]
    harness.protocol.flush()
    assert harness.session.budget == 12345


def test_reading_resumes_only_when_neither_reason_holds(harness: Harness) -> None:
    harness.session.queued = [b"x" * 2000, b"y" * 2000]
    harness.protocol.flush()
    assert not harness.socket.reading
    harness.protocol.buffer_updated(READ_BUDGET)
    harness.turn()
    assert not harness.socket.reading
    harness.socket.drained()
    assert harness.socket.reading


def test_what_the_kernel_does_not_take_waits_in_the_core(harness: Harness) -> None:
    harness.session.queued = [b"a" * 600, b"b" * 600, b"c" * 600]
    harness.protocol.flush()
    assert len(harness.session.queued) == 2
    harness.protocol.flush()
    assert len(harness.session.queued) == 2
    harness.socket.drained()
    assert len(harness.session.queued) == 1
    harness.socket.drained()
    assert harness.session.queued == []
    assert b"".join(harness.socket.written) == b"a" * 600 + b"b" * 600 + b"c" * 600


def test_nothing_is_read_while_more_than_high_water_waits_in_the_core(harness: Harness) -> None:
    harness.session.queued = [b"a" * 600, b"b" * 600]
    harness.protocol.flush()
    assert harness.socket.reading
    harness.session.queued.append(b"c" * 600)
    harness.protocol.flush()
    assert not harness.socket.reading
    harness.socket.drained()
    assert harness.socket.reading


def test_what_waits_above_high_water_is_counted_until_it_is_sent(harness: Harness) -> None:
    harness.session.queued = [b"a" * 2000, b"b" * 1000]
    harness.protocol.flush()
    assert harness.budget.waiting == 0  # at high water, not above it
    harness.session.queued.append(b"c" * 500)
    harness.protocol.flush()
    assert (harness.budget.waiting, harness.protocol.reply_limit_reached) == (1500, False)
    harness.socket.drained()
    assert harness.budget.waiting == 0


@pytest.mark.parametrize(("others", "mine", "reached"), [(0, 4000, False), (0, 4001, True), (7000, 1001, True)])
def test_half_of_the_room_for_replies_is_one_connections_and_all_of_it_is_enough(
    harness: Harness, others: int, mine: int, reached: bool
) -> None:
    harness.budget.waiting = others
    harness.session.queued = [b"a" * 2000, b"b" * mine]
    harness.protocol.flush()
    assert harness.protocol.reply_limit_reached is reached
    harness.socket.drained()
    assert (harness.budget.waiting, harness.protocol.reply_limit_reached) == (others, False)


def test_who_reads_keeps_its_replies_however_full_the_room_is(harness: Harness) -> None:
    harness.budget.waiting = 100_000
    harness.session.queued = [b"a" * 2000, b"b" * 1000]
    harness.protocol.flush()
    assert not harness.protocol.reply_limit_reached


def test_a_lost_connection_is_not_counted_any_more(harness: Harness) -> None:
    harness.session.queued = [b"a" * 2000, b"b" * 5000]
    harness.protocol.flush()
    harness.protocol.connection_lost(None)
    assert harness.budget.waiting == 0


def test_a_peer_has_stalled_once_its_replies_have_waited(harness: Harness) -> None:
    began = harness.now
    harness.session.queued = [b"a" * 2000, b"b" * 5000]
    harness.protocol.flush()
    assert not harness.protocol.stalled_since(began - 0.1)
    assert harness.protocol.stalled_since(began)
    harness.socket.drained()
    assert not harness.protocol.stalled_since(began)


def test_a_peer_that_does_not_drain_is_dropped_after_the_write_timeout(harness: Harness) -> None:
    harness.session.queued = [b"x" * 2000]
    harness.protocol.flush()
    harness.advance(29.0)
    assert not harness.socket.aborted
    harness.advance(2.0)
    assert harness.socket.aborted
    assert harness.dropped == ["write_timeout"]


def test_a_peer_that_drains_in_time_stays(harness: Harness) -> None:
    harness.session.queued = [b"x" * 2000]
    harness.protocol.flush()
    harness.socket.drained()
    harness.advance(60.0)
    assert not harness.socket.aborted


def test_a_closed_connection_that_goes_on_sending_is_dropped_at_once(harness: Harness) -> None:
    harness.protocol.close()
    harness.protocol.buffer_updated(LINGER_BYTES)
    assert not harness.socket.aborted
    harness.protocol.buffer_updated(1)
    assert harness.socket.aborted


def test_a_closed_connection_lingers_for_a_second_and_drops_what_comes(harness: Harness) -> None:
    harness.session.queued = [b"last words"]
    harness.protocol.close()
    assert b"".join(harness.socket.written) == b"last words"
    assert harness.socket.eof
    harness.socket.drained()
    harness.protocol.buffer_updated(10)
    assert harness.session.got == 0
    assert not harness.socket.aborted
    harness.advance(1.1)
    assert harness.socket.aborted
    assert harness.dropped == []


def test_the_end_of_the_server_is_not_held_up_by_a_peer_that_does_not_close(harness: Harness) -> None:
    harness.connections.draining = True
    harness.protocol.close()
    harness.advance(0.2)
    assert harness.socket.aborted


def test_what_is_unsent_is_not_cut_off_while_the_peer_reads(harness: Harness) -> None:
    harness.session.queued = [b"x" * 2000]
    harness.protocol.close()
    harness.advance(1.1)
    assert not harness.socket.aborted
    harness.socket.drained()
    harness.advance(1.1)
    assert harness.socket.aborted


def test_a_peer_that_never_reads_our_last_words_is_dropped(harness: Harness) -> None:
    harness.session.queued = [b"x" * 500]
    harness.protocol.close()
    for _ in range(32):
        harness.advance(1.1)
    assert harness.socket.aborted


def test_a_lost_connection_leaves_no_timer_behind(harness: Harness) -> None:
    harness.session.queued = [b"x" * 2000]
    harness.protocol.flush()
    harness.protocol.connection_lost(None)
    harness.advance(60.0)
    assert harness.session.is_lost
    assert harness.dropped == []


def test_the_receive_buffer_is_poisoned_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = Harness(monkeypatch, poison=True)
    harness.protocol.buffer_updated(3)
    assert bytes(harness.buffer) == b"\xdb" * 6


def slow_session(harness: Harness, seconds: float) -> None:
    """Bytes keep the loop for so long."""

    def received(nbytes: int, now: float) -> None:
        harness.now += seconds

    harness.session.received = received


def test_reads_begin_small_and_grow_while_they_are_quick(harness: Harness) -> None:
    harness.session.buffer = memoryview(bytearray(256 << 10))
    sizes = []
    for _ in range(6):
        sizes.append(len(harness.protocol.get_buffer(-1)))
        harness.protocol.buffer_updated(sizes[-1])
        harness.turn()
    assert sizes == [READ_FIRST, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 256 << 10]


def test_bytes_that_keep_the_loop_make_the_next_read_smaller_and_end_the_turn(harness: Harness) -> None:
    harness.session.buffer = memoryview(bytearray(256 << 10))
    slow_session(harness, 2 * TURN_SECONDS)
    sizes = []
    for _ in range(4):
        sizes.append(len(harness.protocol.get_buffer(-1)))
        harness.protocol.buffer_updated(sizes[-1])
        assert not harness.socket.reading
        harness.turn()
    assert sizes == [READ_FIRST, 8 << 10, READ_LEAST, READ_LEAST]
