"""How long the blocking client asks for a reply before it sleeps."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import tensorwire
from tensorwire.clients.blocking_wire import LONGEST_PAUSE, Patience, ask
from tensorwire.clients.calls import FOREVER
from tensorwire.protocol import Message
from tests.support.peer import Peer, PeerConnection

X = np.ones((1, 4), np.float32)


def asked(patience: Patience, replies: int, *, paid: bool) -> int:
    """How many of the next ``replies`` are asked for, where asking pays or does not."""
    count = 0
    for _ in range(replies):
        if patience.asks():
            count += 1
            patience.learn(paid)
    return count


def test_asking_goes_on_while_it_pays() -> None:
    assert asked(Patience(None), 10_000, paid=True) == 10_000


def test_asking_that_does_not_pay_is_tried_ever_more_rarely() -> None:
    patience = Patience(None)
    # tried at reply 0, 2, 6, 14 ... after pauses of 1, 3, 7 ... replies
    assert [asked(patience, 2**n, paid=False) for n in range(1, 10)] == [1] * 9
    assert asked(patience, 100 * (LONGEST_PAUSE + 1), paid=False) <= 101


def test_asking_that_pays_again_is_soon_done_always() -> None:
    patience = Patience(None)
    asked(patience, 100_000, paid=False)
    asked(patience, LONGEST_PAUSE + 1, paid=True)
    assert asked(patience, 1000, paid=True) == 1000


def test_one_reply_that_took_long_costs_one_sleep() -> None:
    patience = Patience(None)
    assert patience.asks()
    patience.learn(False)
    assert not patience.asks()
    assert asked(patience, 1000, paid=True) == 1000


@pytest.mark.parametrize(("seconds", "asks"), [(0.0, 0), (0.5, 1000)])
def test_what_the_caller_said_is_done_whether_it_pays_or_not(seconds: float, asks: int) -> None:
    assert asked(Patience(seconds), 1000, paid=False) == asks


class Silent(socket.socket):
    """A socket with nothing to read; asking takes ``turns`` seconds, one after the other."""

    def __init__(self, turns: Iterator[float]) -> None:
        super().__init__()
        self.turns = turns
        self.asked = 0

    def recv_into(self, buffer: object, nbytes: int = 0, flags: int = 0) -> int:
        assert flags & socket.MSG_DONTWAIT
        self.asked += 1
        until = time.monotonic() + next(self.turns)
        while time.monotonic() < until:
            pass
        raise BlockingIOError


def test_another_thread_that_takes_the_interpreter_ends_the_asking() -> None:
    """The second turn is lost (30 ms for 0.01 ms): no third. The first is not judged."""
    patience = Patience(None)
    patience.seconds = 10.0
    with Silent(iter([0.03, 0.03, 0.0])) as sock:
        assert ask(sock, memoryview(bytearray(8)), FOREVER, patience) == -1
        assert sock.asked == 2
    assert not patience.asks()


def test_a_caller_who_said_how_long_keeps_asking_when_a_turn_is_lost() -> None:
    with Silent(iter([0.001] * 1000)) as sock:
        assert ask(sock, memoryview(bytearray(8)), FOREVER, Patience(0.02)) == -1
        assert sock.asked > 3


def test_a_client_of_a_slow_model_sleeps() -> None:
    """50 replies of 2 ms each: asking was given up after a few, so the thread used next to no processor time."""

    def late(connection: PeerConnection, message: Message) -> None:
        threading.Timer(0.002, connection.reply, (message,)).start()

    with Peer(late) as peer, tensorwire.connect(peer.url) as client:
        client.infer("m", {"x": X})
        patience = client._driver._patience
        for _ in range(50):
            client.infer("m", {"x": X})
        assert patience._pause >= 7
