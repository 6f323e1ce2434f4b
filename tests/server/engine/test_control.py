"""Control messages arrive whole whatever the pieces; what is no message is refused; the end is noticed."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tensorwire.server.engine.control import MAX_MESSAGE, Channel, ChannelError


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    raw, other = socket.socketpair()
    channel = Channel(other)
    yield raw, channel
    raw.close()
    channel.close()


def test_messages_arrive_as_sent(ends: tuple[socket.socket, Channel]) -> None:
    raw, channel = ends
    sender = Channel(raw)
    sender.send("load", folder="/models/a/1", slots=[1, 2])
    sender.send("stop")
    assert channel.receive() == [{"kind": "load", "folder": "/models/a/1", "slots": [1, 2]}, {"kind": "stop"}]
    assert channel.receive() == []
    assert not channel.ended


def test_a_message_in_pieces_waits_for_the_rest(ends: tuple[socket.socket, Channel]) -> None:
    raw, channel = ends
    pair = socket.socketpair()
    with pair[0], pair[1]:
        Channel(pair[0]).send("ready", figure=3)
        whole = pair[1].recv(4096)
    for byte in whole[:-1]:
        raw.sendall(bytes([byte]))
        assert channel.receive() == []
    raw.sendall(whole[-1:])
    assert channel.receive() == [{"kind": "ready", "figure": 3}]


def test_the_end_of_the_other_side_is_noticed_after_its_last_message(ends: tuple[socket.socket, Channel]) -> None:
    raw, channel = ends
    Channel(raw).send("failed", message="no weights")
    raw.close()
    assert channel.receive() == [{"kind": "failed", "message": "no weights"}]
    assert channel.ended


def test_sending_to_nobody_is_no_error(ends: tuple[socket.socket, Channel]) -> None:
    raw, channel = ends
    raw.close()
    channel.send("stop")
    assert channel.ended


def test_a_length_over_the_limit_is_refused_at_once(ends: tuple[socket.socket, Channel]) -> None:
    raw, channel = ends
    raw.sendall((MAX_MESSAGE + 1).to_bytes(4, "little"))
    with pytest.raises(ChannelError, match="at most"):
        channel.receive()


def test_a_message_over_the_limit_is_not_sent(ends: tuple[socket.socket, Channel]) -> None:
    _, channel = ends
    with pytest.raises(ChannelError, match="at most"):
        channel.send("failure", message="x" * MAX_MESSAGE)


@pytest.mark.parametrize("payload", [b"\xc1", b"\x01", b"\x80", b"\x81\xa4kind\x01", b"\x80\x80"])
def test_what_is_no_message_is_refused(ends: tuple[socket.socket, Channel], payload: bytes) -> None:
    raw, channel = ends
    raw.sendall(len(payload).to_bytes(4, "little") + payload)
    with pytest.raises(ChannelError):
        channel.receive()
