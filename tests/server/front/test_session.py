"""One connection by bytes in and events out: where calls go, and that each gets exactly one end."""

from __future__ import annotations

import time
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import HealthRequest
from tensorwire.protocol import Closed, Ended, ErrorCode, GoAway, Message, Status
from tensorwire.server.engine.api import Failure, HealthState
from tensorwire.server.front.health_watch import WATCH_INTERVAL
from tests.server.front.harness import ROW, Client, Harness
from tests.support.timers import Unruly

BIG = np.zeros((1, 1 << 18), np.float32)
TALL = np.zeros((1 << 14, 4), np.float32)  # 256 KiB, of which each row is one of the engine's


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def client(harness: Harness) -> Client:
    return harness.client()


def test_a_call_reaches_the_engine_and_its_reply_the_caller(harness: Harness, client: Client) -> None:
    stream = client.open("m")
    assert harness.engine.bodies == [ROW.tobytes()]
    harness.finish(*harness.engine.taken)
    (reply,) = client.replies(stream)
    assert reply.end_stream
    assert bytes(reply.body) == ROW.tobytes()
    assert harness.model.stats.by_status[Status.OK] == 1


def test_a_big_body_lies_in_the_pool_when_the_engine_gets_it(harness: Harness, client: Client) -> None:
    client.open("m", BIG)
    assert [slab.nbytes for slab in harness.engine.slabs] == [BIG.nbytes]
    assert harness.engine.taken[0].receiving is None, "it is the engine's now"


def test_a_model_that_is_not_there_was_not_started_and_the_error_names_the_request(client: Client) -> None:
    stream = client.open("n")
    ended = client.ended(stream)
    assert (ended.status, ended.not_started) == (Status.NOT_FOUND, True)
    assert f"[request {client.core.connection_id.hex()}-{stream}]" in ended.detail


def test_what_the_model_does_not_take_is_refused(client: Client) -> None:
    ended = client.ended(client.open("m", np.zeros((1, 3), np.float32)))
    assert (ended.status, ended.not_started) == (Status.INVALID_ARGUMENT, True)
    assert "float32[-1, 4]" in ended.detail


def test_a_call_of_several_messages_is_refused(harness: Harness, client: Client) -> None:
    assert client.ended(client.open("m", flags=0)).status == Status.UNIMPLEMENTED
    assert harness.engine.taken == []


@pytest.mark.parametrize("x", [ROW, BIG])
def test_what_the_engine_refuses_ends_with_its_words(harness: Harness, client: Client, x: Any) -> None:
    harness.engine.refuse = Failure([], Status.RESOURCE_EXHAUSTED, "too much", started=False)
    ended = client.ended(client.open("m", x))
    assert (ended.status, ended.not_started) == (Status.RESOURCE_EXHAUSTED, True)
    assert ended.detail.startswith("too much")
    assert client.protocol._session.calls.calls == {}


def test_a_failed_batch_ends_each_of_its_calls(harness: Harness, client: Client) -> None:
    streams = [client.open("m"), client.open("m")]
    harness.fail(Failure([*harness.engine.taken], Status.INTERNAL, "model raised", started=True))
    ends = [event for event in client.read() if isinstance(event, Ended)]
    assert [(end.stream_id, end.not_started) for end in ends] == [(stream, False) for stream in streams]


def test_a_call_past_its_deadline_ends_at_once_and_its_late_result_is_dropped(harness: Harness, client: Client) -> None:
    stream = client.open("m", deadline=0.5)
    harness.loop.advance(5.0)
    ended = client.ended(stream)
    assert (ended.status, ended.not_started) == (Status.DEADLINE_EXCEEDED, True)
    assert harness.engine.cancelled == harness.engine.taken
    harness.finish(*harness.engine.taken)
    assert client.read() == []


def test_a_call_given_up_is_taken_from_its_engine(harness: Harness, client: Client) -> None:
    client.open("m")
    stream = client.open("m")
    client.core.cancel(stream)
    client.write()
    assert [call.stream_id for call in harness.engine.cancelled] == [stream]
    harness.finish(*harness.engine.taken)
    assert harness.model.stats.by_status[Status.CANCELLED] == 1
    assert harness.model.stats.by_status[Status.OK] == 1


def test_a_lost_connection_takes_its_calls_from_their_engines(harness: Harness, client: Client) -> None:
    client.open("m")
    client.open("m", deadline=5.0)
    client.protocol.connection_lost(None)
    assert harness.engine.cancelled == harness.engine.taken
    assert harness.front.connections.sessions == {}
    harness.finish(*harness.engine.taken)
    assert client.wire.written == b""


def test_a_model_that_is_loaded_anew_gets_the_next_call_of_a_known_signature(harness: Harness, client: Client) -> None:
    before = harness.engine
    client.open("m")
    client.open("m")
    after = harness.serve()
    client.open("m")
    assert (len(before.taken), len(after.taken)) == (2, 1)


def test_calls_that_are_open_when_their_model_is_replaced_end_there_and_new_ones_in_its_place(
    harness: Harness, client: Client
) -> None:
    before, replaced = harness.engine, harness.model
    stream = client.open("m")
    late, data = client.begin("m", TALL)
    client.feed(data[:-1])
    after = harness.serve()
    client.feed(data[-1:])
    new = client.open("m")
    taken = [[call.stream_id for call in engine.taken] for engine in (before, after)]
    assert taken == [[stream, late], [new]]
    harness.finish(*after.taken, engine=after)
    harness.finish(*before.taken, engine=before)
    assert sorted(event.stream_id for event in client.read() if isinstance(event, Message)) == [stream, late, new]
    assert {call.route.model for call in before.taken} == {replaced}
    assert harness.model.stats is replaced.stats, "the counts of a version go on"
    assert harness.model.stats.by_status[Status.OK] == 3


def test_models_are_replaced_under_load_and_every_call_ends_once_where_it_began(harness: Harness) -> None:
    random = Random(7)
    clients = [harness.client() for _ in range(4)]
    engines = [harness.engine]
    expected: list[list[tuple[bytes, int]]] = [[]]
    for _ in range(300):
        client = random.choice(clients)
        expected[-1].append((client.core.connection_id, client.open("m")))
        if random.random() < 0.1:
            engines.append(harness.serve())
            expected.append([])
    assert len(engines) > 20
    assert [[(call.target.info.id, call.stream_id) for call in engine.taken] for engine in engines] == expected
    for engine in random.sample(engines, len(engines)):
        harness.finish(*engine.taken, engine=engine)
    for client in clients:
        mine = [stream for calls in expected for connection, stream in calls if connection == client.core.connection_id]
        assert Counter(event.stream_id for event in client.read() if isinstance(event, Message)) == Counter(mine)


def test_a_big_body_on_its_way_while_its_engine_goes_is_refused_there(harness: Harness, client: Client) -> None:
    stream, data = client.begin("m", BIG)
    client.feed(data[:-1])
    harness.engine.refuse = Failure([], Status.UNAVAILABLE, "the model is being unloaded", started=False)
    after = harness.serve()
    client.feed(data[-1:])
    assert client.ended(stream).not_started
    assert after.taken == []


def test_a_big_body_that_breaks_off_gives_its_memory_back(harness: Harness, client: Client) -> None:
    _, data = client.begin("m", BIG)
    client.feed(data[:-1])
    assert harness.pool.in_use >= BIG.nbytes
    client.protocol.connection_lost(None)
    assert harness.pool.in_use == 0


# -- drain


def test_an_idle_client_that_does_not_read_holds_a_drain_up_for_a_moment_only(harness: Harness, client: Client) -> None:
    harness.loop.now = time.monotonic()  # the session looks at the real clock: a busy machine must not come between
    client.protocol._session.lifetime.drain()
    assert not client.wire.eof
    harness.loop.advance(0.06)
    assert client.wire.eof
    first, last, closed = client.read()
    assert isinstance(first, GoAway)
    assert isinstance(last, GoAway)
    assert (first.last_stream_id, last.last_stream_id) == ((1 << 64) - 1, 0)
    assert isinstance(closed, Closed)
    assert closed.code == 0


def test_the_answer_to_the_ping_ends_the_wait(harness: Harness, client: Client) -> None:
    client.protocol._session.lifetime.drain()
    client.read()
    client.write()
    assert client.wire.eof


def test_a_call_in_flight_is_answered_before_a_draining_connection_closes(harness: Harness, client: Client) -> None:
    stream = client.open("m")
    client.protocol._session.lifetime.drain()
    harness.loop.advance(1.0)
    assert not client.wire.eof
    harness.finish(*harness.engine.taken)
    assert client.wire.eof
    assert [event.stream_id for event in client.read() if hasattr(event, "stream_id")] == [stream]


def test_a_call_sent_before_the_peer_knew_is_served(harness: Harness, client: Client) -> None:
    client.protocol._session.lifetime.drain()
    stream = client.open("m")
    harness.loop.advance(0.06)
    harness.finish(*harness.engine.taken)
    assert len(client.replies(stream)) == 1


def test_a_call_sent_after_the_last_one_is_refused_as_not_started(harness: Harness, client: Client) -> None:
    client.open("m")
    client.protocol._session.lifetime.drain()
    harness.loop.advance(1.0)
    stream = client.open("m")
    ended = client.ended(stream)
    assert (ended.status, ended.not_started) == (Status.UNAVAILABLE, True)


def test_a_stream_that_is_refused_in_the_read_that_opened_it_harms_nobody(client: Client) -> None:
    stream = client.core.open(b"m", b"", [], 0, flags=0)
    client.core.send(stream, b"", b"", [bytes(1 << 17)], 1 << 17)
    client.write()
    ended = client.ended(stream)
    assert ended.status == Status.INVALID_ARGUMENT
    assert not client.wire.is_closing()
    client.answer(client.service("$models", b"\x80"))


def test_a_small_frame_that_does_not_become_whole_ends_the_connection_after_body_timeout(
    harness: Harness, client: Client
) -> None:
    _, data = client.begin("m")
    client.feed(data[:-1])
    harness.loop.now = time.monotonic()
    harness.loop.advance(31.0)
    (closed,) = client.read()
    assert isinstance(closed, Closed)
    assert "not complete after 30.0 s" in closed.detail


def test_the_rest_of_a_frame_is_not_late_while_its_peer_is_not_read(harness: Harness, client: Client) -> None:
    _, data = client.begin("m")
    client.feed(data[:-1])
    client.protocol.pause(2)
    harness.loop.now = time.monotonic()
    harness.loop.advance(31.0)
    assert not client.wire.eof
    client.protocol.resume(2)
    harness.loop.advance(31.0)
    assert client.wire.eof


@pytest.mark.parametrize("seed", range(12))
def test_under_unruly_timers_every_moment_in_the_life_of_connections_comes_once(seed: int) -> None:
    """Timers, watches, a frame that does not become whole, a handshake that does not end, a drain."""
    random = Random(seed)
    loop = Unruly(random, time.monotonic())
    harness = Harness(("handshake_timeout", "2"), ("body_timeout", "3"), ("drain_timeout", "5"), loop=loop)
    client, waiting, stranger = harness.client(), harness.client(), Client(harness)
    watch = client.service("$health", HealthRequest("m", watch=True).pack())
    assert len(client.replies(watch)) == 1
    deadlines = [random.uniform(0.01, 0.3) for _ in range(12)]
    streams = [client.open("m", deadline=deadline) for deadline in deadlines]
    answered = streams[::3]
    for call in list(harness.engine.taken):
        if call.stream_id in answered:
            harness.finish(call)
    harness.engine.state = HealthState.STALLED
    loop.now = max(loop.now, time.monotonic())  # connections take the time by the real clock
    loop.run(1.0)
    ends = Counter(event.stream_id for event in client.read() if isinstance(event, (Ended, Message)))
    assert ends == Counter([*streams, watch])
    waiting.feed(waiting.begin("m")[1][:-1])
    waiting.protocol._session.lifetime._frame_began = loop.now
    loop.run(6.0)
    assert [event.code for event in waiting.read() if isinstance(event, Closed)] == [ErrorCode.TIMEOUT]
    assert stranger.wire.eof
    assert loop.fires <= 8 * (len(streams) + 7.0 / WATCH_INTERVAL + 20)
    client.protocol._session.lifetime.drain()
    loop.now = max(loop.now, time.monotonic())
    loop.run(1.0)
    farewell = Counter(type(event) for event in client.read())
    assert (farewell[GoAway], farewell[Ended], farewell[Closed]) == (2, 1, 1)
    for each in (client, waiting, stranger):
        each.protocol.connection_lost(None)
    loop.run(5.0)
    assert loop.armed == 0
    assert len(harness.timers) == 0
