"""The tables of states, of connections and streams; random lives of whole connections are test_machine.py's."""

from __future__ import annotations

import pytest

from tensorwire.protocol import LocalError, ProtocolError, Role
from tensorwire.protocol.errors import ErrorCode
from tensorwire.protocol.header import END_STREAM
from tensorwire.protocol.states import MOVES, OWN_MOVES, PEER_MOVES, RECEIVES, SENDS, Action, State, StreamState
from tensorwire.protocol.streams import Stream, Streams

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
    after = PEER_MOVES.get((state, action))
    if action is Action.TERMINAL and state is StreamState.FINISHING:
        assert after is None  # a server's state, and a client does not send terminals
    elif action is Action.TERMINAL:
        assert after is StreamState.CLOSED
    elif action is Action.CANCEL:
        assert after is (StreamState.CLOSED if state is StreamState.FINISHING else StreamState.CANCELLED)
    elif (state, action) in FORBIDDEN:
        assert after is None
    elif action is Action.LAST_MESSAGE and state is StreamState.OPEN:
        assert after is StreamState.HALF_CLOSED
    else:
        assert after is state


CLIENTS = {Action.MESSAGE, Action.LAST_MESSAGE, Action.CANCEL}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("state", [s for s in StreamState if s is not StreamState.CLOSED])
@pytest.mark.parametrize("action", Action)
def test_what_a_side_does_leads_where_the_other_side_sees_it_go(role: Role, state: StreamState, action: Action) -> None:
    own, peer = OWN_MOVES[role].get((state, action)), PEER_MOVES.get((state, action))
    if (action in CLIENTS) is not (role is Role.CLIENT) or state is StreamState.FINISHING:
        assert own is None
    elif state is StreamState.CANCELLED and action is Action.CANCEL:
        assert own is None  # once is enough
    elif action is Action.TERMINAL:
        assert own is StreamState.FINISHING  # until it is written
    else:
        assert own is peer


def test_what_a_side_may_not_do_is_its_owners_error_and_changes_nothing() -> None:
    streams = Streams(client=True)
    stream = streams.begin(1, END_STREAM, 0)
    for asked, action in ((stream, Action.MESSAGE), (stream, Action.TERMINAL), (None, Action.CANCEL)):
        with pytest.raises(LocalError, match="cannot be sent"):
            streams.own_move(1, asked, action)
    assert stream.state is StreamState.HALF_CLOSED


@pytest.mark.parametrize("role", Role)
def test_each_frame_that_a_side_sends_may_arrive_at_the_other(role: Role) -> None:
    sent = frozenset().union(*(kinds for (sender, _), kinds in SENDS.items() if sender is role))
    arrive = frozenset().union(*(kinds for (receiver, _), kinds in RECEIVES.items() if receiver is not role))
    assert sent == arrive


def test_every_state_is_reached_by_a_frame_that_may_be_sent_or_arrive_there() -> None:
    reached = {State.PREFACE, State.HELLO, State.WELCOME, State.CLOSED}  # by the first bytes, and by the end
    for (state, kind), after in MOVES.items():
        assert any(kind in table.get((role, state), ()) for role in Role for table in (SENDS, RECEIVES))
        reached.add(after)
    assert reached == set(State)


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
