"""The table of stream states, and a long random life of a connection against a plain model of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tensorwire.protocol import Cancelled, Ended, Message, MessageAborted, ProtocolError, Refusal, Refused, Status
from tensorwire.protocol.errors import ErrorCode
from tensorwire.protocol.streams import TRANSITIONS, Action, Stream, Streams, StreamState
from tests.protocol.wiring import feed, open_pair

FORBIDDEN = {
    (StreamState.HALF_CLOSED, Action.MESSAGE),
    (StreamState.HALF_CLOSED, Action.LAST_MESSAGE),
    (StreamState.CANCELLED, Action.MESSAGE),
    (StreamState.CANCELLED, Action.LAST_MESSAGE),
    (StreamState.FINISHING, Action.REPLY),
}


@pytest.mark.parametrize("state", [s for s in StreamState if s is not StreamState.CLOSED])
@pytest.mark.parametrize("action", Action)
def test_the_table_is_that_of_the_spec(state: StreamState, action: Action) -> None:
    after = TRANSITIONS.get((state, action))
    if action is Action.TERMINAL:
        assert after is StreamState.CLOSED
    elif action is Action.CANCEL:
        assert after is (StreamState.CLOSED if state is StreamState.FINISHING else StreamState.CANCELLED)
    elif (state, action) in FORBIDDEN:
        assert after is None
    elif action is Action.LAST_MESSAGE and state is StreamState.OPEN:
        assert after is StreamState.HALF_CLOSED
    else:
        assert after is state


def test_what_the_table_does_not_allow_is_a_stream_error_of_the_connection() -> None:
    streams = Streams(client=False)
    stream = streams.open[1] = Stream(StreamState.HALF_CLOSED, 0, 1, 0)
    with pytest.raises(ProtocolError, match="half_closed") as caught:
        streams.peer_acts(1, stream, Action.MESSAGE)
    assert caught.value.code is ErrorCode.STREAM


def test_a_unary_call_becomes_a_stream_when_asked_for() -> None:
    streams = Streams(client=True)
    streams.unary[4] = 9
    stream = streams.get(4)
    assert stream is not None
    assert (stream.state, stream.priority, stream.received, stream.sent) == (StreamState.HALF_CLOSED, 9, 0, 1)
    assert len(streams) == 1
    assert streams.get(5) is None


class Life(RuleBasedStateMachine):
    """Client and server exchange bytes in random pieces while their owners open, send, cancel and end at random.

    Checked: no connection error, one outcome per call, every reservation given back or filled, counters at rest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reserved: Counter[int] = Counter()
        self.client, self.server = open_pair(server_reserve=self.reserve)
        self.wires = {True: b"", False: b""}
        self.outcomes: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.owed: set[int] = set()  # streams whose terminal the server's owner has yet to give

    def reserve(self, stream_id: int, *rest: object) -> memoryview | Refusal:
        if stream_id % 5 == 0:
            return Refusal(Status.RESOURCE_EXHAUSTED, "no")
        self.reserved[stream_id] += 1  # may be 2: the owner sees the first message only when the read is parsed
        return memoryview(bytearray(int(str(rest[-1]))))

    @rule(size=st.sampled_from((0, 10, 70_000, 150_000)), last=st.booleans(), priority=st.integers(0, 2))
    def open(self, size: int, last: bool, priority: int) -> None:
        self.outcomes[self.client.open(b"m", b"", [bytes(size)], size, int(last), priority)] = 0

    @rule(pick=st.randoms(use_true_random=False), size=st.sampled_from((0, 70_000)), last=st.booleans())
    def client_sends(self, pick: st.DataObject, size: int, last: bool) -> None:
        able = [n for n, s in self.client._streams.open.items() if s.state is StreamState.OPEN]
        if able:
            self.client.send(pick.choice(able), b"", b"", [bytes(size)], size, int(last))  # type: ignore[attr-defined]

    @rule(pick=st.randoms(use_true_random=False))
    def cancel(self, pick: st.DataObject) -> None:
        pending = [n for n, count in self.outcomes.items() if not count]
        if pending:
            stream_id = pick.choice(pending)  # type: ignore[attr-defined]
            self.client.cancel(stream_id)
            self.cancelled.add(stream_id)

    @rule(pick=st.randoms(use_true_random=False), size=st.sampled_from((0, 9, 100_000)), last=st.booleans())
    def server_sends(self, pick: st.DataObject, size: int, last: bool) -> None:
        if self.owed:
            stream_id = pick.choice(sorted(self.owed))  # type: ignore[attr-defined]
            self.server.send(stream_id, b"", b"", [bytes(size)], size, int(last))
            if last:
                self.owed.discard(stream_id)

    @rule(pick=st.randoms(use_true_random=False))
    def end(self, pick: st.DataObject) -> None:
        if self.owed:
            stream_id = pick.choice(sorted(self.owed))  # type: ignore[attr-defined]
            self.server.end(stream_id, Status.INTERNAL, not_started=True)
            self.owed.discard(stream_id)

    @rule(
        up=st.booleans(),
        budget=st.sampled_from((1, 1 << 20)),
        part=st.floats(0, 1),
        reads=st.lists(st.integers(1, 999)),
    )
    def move(self, up: bool, budget: int, part: float, reads: list[int]) -> None:
        source, target = (self.client, self.server) if up else (self.server, self.client)
        wire = self.wires[up] + b"".join(source.data_to_send(budget))
        n = int(len(wire) * part) + 1
        self.wires[up] = wire[n:]
        for event in feed(target, wire[:n], reads):
            (self.at_server if up else self.at_client)(event)

    def at_server(self, event: object) -> None:
        if isinstance(event, Message):
            if len(event.body) > 65536:
                self.reserved[event.stream_id] -= 1
            if event.seq == 0:
                self.owed.add(event.stream_id)
        elif isinstance(event, MessageAborted):
            self.reserved[event.stream_id] -= 1
        elif isinstance(event, Refused):
            self.owed.discard(event.stream_id)
        elif isinstance(event, Cancelled):
            self.server.end(event.stream_id, Status.CANCELLED)
            self.owed.discard(event.stream_id)
        else:
            raise AssertionError(event)

    def at_client(self, event: object) -> None:
        assert isinstance(event, (Message, Ended, MessageAborted)), event
        if isinstance(event, Ended) or (isinstance(event, Message) and event.end_stream):
            self.outcomes[event.stream_id] += 1

    @invariant()
    def both_live_and_nothing_is_negative(self) -> None:
        assert not self.client.closed
        assert not self.server.closed
        assert self.client.outbound_bytes >= 0
        assert self.server.outbound_bytes >= 0
        assert max(self.outcomes.values(), default=0) <= 1

    def teardown(self) -> None:
        for _ in range(40):
            for up in (True, False):
                self.move(up, 1 << 30, 1.0, [])
            for stream_id in list(self.outcomes):
                if not self.outcomes[stream_id] and stream_id not in self.owed:
                    self.client.cancel(stream_id)
                    self.cancelled.add(stream_id)
            for stream_id in sorted(self.owed):
                self.server.end(stream_id, Status.INTERNAL)
            self.owed.clear()
        assert self.client.open_streams == self.server.open_streams == 0
        assert self.client.outbound_bytes == self.server.outbound_bytes == 0
        assert not any(self.reserved.values())
        for stream_id, count in self.outcomes.items():
            assert count == 1 or stream_id in self.cancelled


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
