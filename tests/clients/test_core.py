"""The rules of a client, without sockets: bytes and a clock in, outcomes out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tensorwire.clients.calls import CONNECT, FOREVER, PING, Call, ReplyQueue
from tensorwire.clients.core import STALE_TIMERS, ClientCore
from tensorwire.clients.errors import (
    BadReply,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    Internal,
    InvalidInput,
    LocalCancelled,
    LocalDeadlineExceeded,
    NotFound,
    ResourceExhausted,
    TensorwireError,
    Unavailable,
)
from tensorwire.clients.link import Link
from tensorwire.protocol import (
    Authenticated,
    Cancelled,
    Config,
    Connection,
    ErrorCode,
    Event,
    Message,
    Role,
    Status,
    pack_extension,
    parse_extension,
)

X = np.arange(16, dtype=np.float32).reshape(1, 16)


class Server:
    """The server's half of one connection, in memory."""

    def __init__(self, link: Link, config: Config | None = None) -> None:
        self.link = link
        self.events: list[Event] = []
        self.connection = Connection(
            config or Config(role=Role.SERVER),
            nonce=bytes(32),
            now=0.0,
            reserve=lambda *args: memoryview(bytearray(args[6])),
            connection_id=b"\x01" * 8,
            boot_id=bytes(16),
        )

    def exchange(self, now: float = 0.0) -> None:
        """Carry bytes to and fro until both are silent."""
        while True:
            moved = _carry(self.link.data_to_send(now), self.connection.next_buffer, self._take, now)
            moved |= _carry(self.connection.data_to_send(), self.link.next_buffer, self.link.received, now)
            if not moved:
                return

    def _take(self, n: int, now: float) -> None:
        for event in self.connection.received(n, now):
            if isinstance(event, Authenticated):
                self.connection.accept(b"\x80")
            else:
                if isinstance(event, Message) and not event.owned:
                    event.body = memoryview(bytes(event.body))
                self.events.append(event)

    def messages(self) -> list[Message]:
        return [event for event in self.events if isinstance(event, Message)]

    def echo(self, message: Message, flags: int = 1, ext: bytes = b"") -> None:
        body = [message.body] if len(message.body) else []
        ext = pack_extension(dims=parse_extension(message.ext).dims) + ext
        self.connection.send(message.stream_id, message.meta, ext, body, len(message.body), flags)


def _carry(
    buffers: list[bytes | memoryview],
    where: Callable[[], memoryview],
    take: Callable[[int, float], None],
    now: float,
) -> bool:
    data = memoryview(b"".join(buffers))
    moved = len(data) > 0
    while data:
        target = where()
        n = min(len(target), len(data))
        target[:n] = data[:n]
        take(n, now)
        data = data[n:]
    return moved


def make(**options: object) -> ClientCore:
    return ClientCore(lambda call: None, address="tw://test:1", entropy=bytes, **options)  # type: ignore[arg-type]


def connected(core: ClientCore, now: float = 0.0, config: Config | None = None) -> Server:
    server = Server(core.dialled(now), config)
    server.exchange(now)
    return server


def infer(core: ClientCore, now: float = 0.0, deadline: float | None = None, **options: object) -> Call:
    arguments = {"version": "", "timing": False, "priority": 0} | options
    call = core.infer("model", {"x": X}, deadline=deadline, now=now, **arguments)  # type: ignore[arg-type]
    core.watch(call)
    return call


def is_open(call: Call) -> bool:
    return not call.finished


def error_of(call: Call) -> TensorwireError:
    assert call.finished
    assert call.error is not None
    return call.error


def test_a_call_gets_its_reply_as_read_only_arrays() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    server.echo(server.messages()[0])
    server.exchange()
    assert call.outcome is not None
    assert list(call.outcome) == ["x"]
    np.testing.assert_array_equal(call.outcome["x"], X)
    assert not call.outcome["x"].flags.writeable
    assert call.outcome.model == "model"
    assert call.outcome.request_id == "0101010101010101-1"
    assert call.encoded is None


def test_replies_find_their_calls_in_any_order() -> None:
    core = make()
    server = connected(core)
    calls = [core.infer("m", {"x": X + n}, "", None, False, 0, 0.0) for n in range(5)]
    server.exchange()
    for message in reversed(server.messages()):
        server.echo(message)
    server.exchange()
    for n, call in enumerate(calls):
        assert call.outcome is not None
        np.testing.assert_array_equal(call.outcome["x"], X + n)


def test_a_reply_larger_than_a_frame_arrives_in_memory_of_its_own_page_aligned() -> None:
    core = make()
    server = connected(core)
    big = np.arange(300_000, dtype=np.float64)
    call = core.infer("m", {"x": big}, "", None, False, 0, 0.0)
    server.exchange()
    server.echo(server.messages()[0])
    server.exchange()
    assert call.outcome is not None
    result = call.outcome["x"]
    np.testing.assert_array_equal(result, big)
    assert not result.flags.writeable
    assert result.ctypes.data % 4096 == 0


def test_a_call_without_a_connection_waits_for_one() -> None:
    core = make()
    call = infer(core)
    assert core.next_dial() == 0.0
    server = connected(core)
    assert core.next_dial() == FOREVER
    assert len(server.messages()) == 1
    server.echo(server.messages()[0])
    server.exchange()
    assert call.outcome is not None


def test_timing_is_what_the_server_measured_and_the_round_trip_from_here() -> None:
    core = make()
    server = connected(core)
    call = infer(core, now=1.0, timing=True)
    server.exchange(1.0)
    message = server.messages()[0]
    for n in range(2):
        server.echo(message, flags=0 if n else 1, ext=pack_extension(timing=(1, 2, 3, 4, 5, 6, 7)))
        break
    server.exchange(1.002)
    assert call.outcome is not None
    timing = call.outcome.timing
    assert timing is not None
    assert (timing.receive, timing.queue, timing.batch_wait, timing.copy_in) == (1, 2, 3, 4)
    assert (timing.compute, timing.copy_out, timing.server_total, timing.round_trip) == (5, 6, 7, 2000)


def test_the_time_left_is_sent_as_it_is_when_the_call_leaves() -> None:
    core = make()
    infer(core, now=1.0, deadline=0.5)
    server = connected(core, now=1.25)
    assert server.messages()[0].aux == 250_000


@pytest.mark.parametrize("deadline", [5000.0, None])
def test_a_deadline_beyond_what_the_frame_can_say_is_kept_here_alone(deadline: float | None) -> None:
    core = make()
    server = connected(core)
    infer(core, deadline=deadline)
    server.exchange()
    assert server.messages()[0].aux == 0
    assert core.next_timer() == (FOREVER if deadline is None else deadline)


def test_a_passed_deadline_fails_the_call_and_cancels_it_at_the_server() -> None:
    core = make()
    server = connected(core)
    call = infer(core, now=1.0, deadline=0.5)
    server.exchange(1.0)
    core.run_timers(1.49)
    assert is_open(call)
    core.run_timers(1.5)
    error = error_of(call)
    assert type(error) is LocalDeadlineExceeded
    assert not error.not_started
    assert "0.5 s" in str(error)
    server.exchange(1.5)
    assert any(isinstance(event, Cancelled) for event in server.events)
    server.connection.end(1, Status.CANCELLED)
    server.exchange(1.5)
    assert error_of(call) is error


def test_a_deadline_also_covers_waiting_for_a_connection() -> None:
    core = make(wait_for_ready=True)
    call = infer(core, deadline=0.5)
    core.dial_failed("refused", 0.1)
    core.run_timers(0.6)
    error = error_of(call)
    assert type(error) is LocalDeadlineExceeded
    assert error.not_started
    assert "refused" in str(error)
    assert core.next_dial() == FOREVER


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    core = make()
    server = connected(core)
    with pytest.raises(LocalDeadlineExceeded):
        infer(core, deadline=0.0)
    with pytest.raises(InvalidInput, match="nan"):
        infer(core, deadline=float("nan"))
    with pytest.raises(InvalidInput, match="priority"):
        infer(core, priority=300)
    server.exchange()
    assert server.messages() == []


def test_finished_calls_do_not_pile_up_in_the_heap_of_deadlines() -> None:
    core = make()
    server = connected(core)
    for _ in range(20 * STALE_TIMERS):
        infer(core, deadline=1000.0)
        server.exchange()
        server.echo(server.messages()[-1])
        server.exchange()
        server.events.clear()
    assert len(core._timers) <= 2 * STALE_TIMERS


def test_cancelling_tells_the_server_once() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    core.cancel(call, 0.0)
    core.cancel(call, 0.0)
    server.exchange()
    assert type(error_of(call)) is LocalCancelled
    assert sum(isinstance(event, Cancelled) for event in server.events) == 1


def test_a_status_becomes_its_error() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    server.connection.end(1, Status.NOT_FOUND, "no model 'x'")
    server.exchange()
    error = error_of(call)
    assert type(error) is NotFound
    assert str(error) == "NOT_FOUND: no model 'x' [request 0101010101010101-1]"


def test_retry_after_is_in_seconds() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    ext = pack_extension(retry_after=250_000)
    server.connection.end(1, Status.RESOURCE_EXHAUSTED, "full", not_started=True, ext=ext)
    server.exchange()
    error = error_of(call)
    assert type(error) is ResourceExhausted
    assert error.retry_after == 0.25
    assert error.not_started


def test_unavailable_and_not_started_is_tried_again_after_a_while() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    server.connection.end(1, Status.UNAVAILABLE, "loading", not_started=True)
    server.exchange()
    assert is_open(call)
    due = core.next_timer()
    assert 0.005 <= due <= 0.01
    core.run_timers(due)
    server.exchange(due)
    assert [message.stream_id for message in server.messages()] == [1, 2]
    server.echo(server.messages()[1])
    server.exchange(due)
    assert call.outcome is not None


def test_a_retry_waits_as_long_as_the_server_asks() -> None:
    core = make()
    server = connected(core)
    infer(core)
    server.exchange()
    ext = pack_extension(retry_after=700_000)
    server.connection.end(1, Status.UNAVAILABLE, "", not_started=True, ext=ext)
    server.exchange()
    assert core.next_timer() == 0.7


@pytest.mark.parametrize(("status", "not_started"), [(Status.UNAVAILABLE, False), (Status.INTERNAL, True)])
def test_a_call_that_may_have_started_or_failed_otherwise_is_not_tried_again(status: Status, not_started: bool) -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    server.connection.end(1, status, "", not_started)
    server.exchange()
    assert type(error_of(call)) in {Unavailable, Internal}


def test_no_retry_goes_beyond_the_deadline() -> None:
    core = make()
    server = connected(core)
    call = infer(core, deadline=0.5)
    server.exchange()
    ext = pack_extension(retry_after=700_000)
    server.connection.end(1, Status.UNAVAILABLE, "", not_started=True, ext=ext)
    server.exchange()
    assert type(error_of(call)) is Unavailable


def test_retries_end_after_a_few_attempts() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    now = 0.0
    for attempt in range(1, 10):
        server.exchange(now)
        server.connection.end(attempt, Status.UNAVAILABLE, "", not_started=True)
        server.exchange(now)
        if call.finished:
            break
        now = core.next_timer()
        core.run_timers(now)
    assert type(error_of(call)) is Unavailable
    assert attempt == 5


def test_a_throttle_stops_retries_where_everything_is_refused() -> None:
    core = make()
    server = connected(core)
    calls = [infer(core) for _ in range(20)]
    server.exchange()
    for stream_id in range(1, 21):
        server.connection.end(stream_id, Status.UNAVAILABLE, "", not_started=True)
    server.exchange()
    assert sum(call.finished for call in calls) > 10


def test_goaway_sends_what_did_not_start_elsewhere_and_lets_the_rest_finish() -> None:
    core = make()
    first = connected(core)
    calls = [infer(core) for _ in range(3)]
    first.exchange()
    first.connection.goaway(1, ErrorCode.SHUTDOWN, "restart")
    first.exchange()
    assert all(is_open(call) for call in calls)
    assert core.next_dial() == 0.0
    second = connected(core)
    assert len(second.messages()) == 2
    for message in second.messages():
        second.echo(message)
    second.exchange()
    first.echo(first.messages()[0])
    first.exchange()
    assert all(call.outcome is not None for call in calls)
    assert first.link.finished
    assert not second.link.finished


@pytest.mark.parametrize("how", ["goaway", "close"])
def test_calls_that_wait_go_elsewhere_when_the_server_leaves_as_it_says_ready(how: str) -> None:
    """READY and GOAWAY, or CLOSE, come in one read: nothing can be opened here, and nothing is lost."""
    core = make()
    call = infer(core)
    first = Server(core.dialled(0.0))
    _carry(first.link.data_to_send(0.0), first.connection.next_buffer, first._take, 0.0)
    _carry(first.connection.data_to_send(), first.link.next_buffer, first.link.received, 0.0)
    _carry(first.link.data_to_send(0.0), first.connection.next_buffer, first._take, 0.0)
    if how == "goaway":
        first.connection.goaway(0, ErrorCode.SHUTDOWN, "restart")
    else:
        first.connection.close(ErrorCode.SHUTDOWN, "restart")
    first.exchange()
    assert is_open(call)
    second = connected(core)
    second.echo(second.messages()[0])
    second.exchange()
    assert call.outcome is not None


def test_a_draining_notice_only_turns_new_calls_away() -> None:
    core = make()
    first = connected(core)
    old = infer(core)
    first.exchange()
    first.connection.goaway(2**64 - 1, ErrorCode.SHUTDOWN, "")
    first.exchange()
    new = infer(core)
    second = connected(core)
    assert len(second.messages()) == 1
    first.echo(first.messages()[0])
    first.exchange()
    assert old.outcome is not None
    assert is_open(new)


def test_a_lost_connection_leaves_calls_unknown_and_the_next_one_dials() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    server.link.lost("reset", 1.0)
    error = error_of(call)
    assert type(error) is ConnectionLost
    assert not error.not_started
    assert "unknown" in str(error)
    assert error.request_id == "0101010101010101-1"
    assert core.next_dial() == FOREVER
    infer(core, now=1.0)
    assert core.next_dial() <= 1.0


def test_the_end_of_the_stream_of_bytes_is_a_lost_connection() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    server.link.eof(1.0)
    assert type(error_of(call)) is ConnectionLost


def test_each_lost_call_has_an_error_of_its_own() -> None:
    core = make()
    server = connected(core)
    first, second = infer(core), infer(core)
    server.exchange()
    server.link.lost("reset", 1.0)
    assert error_of(first) is not error_of(second)


def test_a_refused_connection_fails_calls_at_once() -> None:
    core = make()
    call = infer(core)
    core.dial_failed("connection refused", 0.0)
    error = error_of(call)
    assert type(error) is ConnectFailed
    assert error.not_started
    assert "tw://test:1" in str(error)
    with pytest.raises(ConnectFailed, match="refused"):
        infer(core, now=0.001)
    infer(core, now=1.0)
    assert core.next_dial() <= 1.0


def test_with_wait_for_ready_calls_outlive_refused_connections() -> None:
    core = make(wait_for_ready=True)
    call = infer(core)
    dials = [core.next_dial()]
    for _ in range(3):
        core.dial_failed("refused", dials[-1])
        dials.append(core.next_dial())
    assert is_open(call)
    assert dials == sorted(dials)
    server = connected(core, dials[-1])
    assert len(server.messages()) == 1


def test_a_server_that_speaks_another_version_is_a_lasting_failure() -> None:
    core = make(wait_for_ready=True)
    call = infer(core)
    connected(core, config=Config(role=Role.SERVER, version_min=7, version_max=9))
    error = error_of(call)
    assert type(error) is ConnectFailed
    assert "VERSION" in str(error)
    assert "7" in str(error)


def test_garbage_in_the_handshake_fails_the_connection() -> None:
    core = make()
    call = infer(core)
    link = core.dialled(0.0)
    link.data_to_send(0.0)
    data = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    link.next_buffer()[: len(data)] = data
    link.received(len(data), 0.0)
    assert type(error_of(call)) is ConnectFailed
    assert link.finished


def test_garbage_after_the_handshake_is_the_servers_fault() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    data = b"\xff" * 64
    server.link.next_buffer()[: len(data)] = data
    server.link.received(len(data), 0.0)
    assert type(error_of(call)) is BadReply
    assert server.link.finished


def test_a_reply_that_cannot_be_read_fails_its_call_only() -> None:
    core = make()
    server = connected(core)
    bad, good = infer(core), infer(core)
    server.exchange()
    message = server.messages()[0]
    server.connection.send(1, b"\x00" * 16, message.ext, [message.body], len(message.body), 1)
    server.echo(server.messages()[1])
    server.exchange()
    assert type(error_of(bad)) is BadReply
    assert good.outcome is not None
    assert not server.link.finished


def test_a_stream_where_one_reply_is_expected_is_refused() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    server.echo(server.messages()[0], flags=0)
    server.exchange()
    assert type(error_of(call)) is BadReply
    assert any(isinstance(event, Cancelled) for event in server.events)


def test_a_reply_above_max_reply_is_refused_before_it_is_awaited() -> None:
    core = make(max_reply=100_000)
    server = connected(core)
    call = infer(core)
    server.exchange()
    message = server.messages()[0]
    body = bytes(200_000)
    server.connection.send(
        1, message.meta, pack_extension(dims=(50_000).to_bytes(8, "little") * 2), [body], len(body), 1
    )
    server.exchange()
    error = error_of(call)
    assert type(error) is BadReply
    assert "max_reply" in str(error)
    again = infer(core)
    server.exchange()
    server.echo(server.messages()[1])
    server.exchange()
    assert again.outcome is not None


def test_a_stream_gives_every_reply_and_then_its_end() -> None:
    core = make()
    server = connected(core)
    replies = ReplyQueue()
    call = infer(core, replies=replies)
    server.exchange()
    message = server.messages()[0]
    server.echo(message, flags=0)
    server.echo(message, flags=0)
    server.exchange()
    assert len(replies.waiting) == 2
    assert is_open(call)
    server.echo(message, flags=1)
    server.exchange()
    assert len(replies.waiting) == 3
    assert call.finished
    assert call.error is None


def test_ping_is_answered_with_the_round_trip() -> None:
    core = make()
    server = connected(core)
    call = core.control(PING, None, 1.0)
    server.exchange(1.5)
    assert call.finished
    assert call.finished_at - call.opened_at == 0.5


def test_connect_is_done_when_the_handshake_is() -> None:
    core = make()
    call = core.control(CONNECT, 1.0, 0.0)
    assert is_open(call)
    connected(core)
    assert call.finished
    assert call.error is None


def test_calls_above_the_servers_limit_wait_their_turn() -> None:
    from tensorwire.protocol import Limits

    core = make()
    server = connected(core, config=Config(role=Role.SERVER, limits=Limits(max_streams=2)))
    calls = [infer(core) for _ in range(5)]
    answered = 0
    while answered < 5:
        server.exchange()
        waiting = server.messages()[answered:]
        assert 0 < len(waiting) <= 2
        for message in waiting:
            server.echo(message)
        answered += len(waiting)
    server.exchange()
    assert all(call.outcome is not None for call in calls)


def test_close_fails_what_is_open_and_refuses_what_comes() -> None:
    core = make()
    server = connected(core)
    call = infer(core)
    server.exchange()
    core.close(0.0)
    assert type(error_of(call)) is ClientClosed
    assert server.link.finished
    with pytest.raises(ClientClosed):
        infer(core)


def test_a_handshake_that_takes_too_long_fails() -> None:
    core = make()
    call = infer(core)
    link = core.dialled(0.0)
    link.data_to_send(0.0)
    due = core.next_timer()
    assert due < 60.0
    core.run_timers(due)
    assert type(error_of(call)) is ConnectFailed


def test_what_cannot_be_encoded_is_an_invalid_input() -> None:
    core = make()
    connected(core)
    with pytest.raises(InvalidInput, match="x"):
        core.infer("m", {"x": object()}, "", None, False, 0, 0.0)
