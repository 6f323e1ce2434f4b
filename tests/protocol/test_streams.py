"""The table of stream states; random lives of whole connections are test_machine.py's."""

from __future__ import annotations

import pytest

from tensorwire.protocol import ProtocolError
from tensorwire.protocol.errors import ErrorCode
from tensorwire.protocol.streams import TRANSITIONS, Action, Stream, Streams, StreamState

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
