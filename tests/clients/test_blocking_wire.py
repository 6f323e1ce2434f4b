"""How long the blocking client asks for a reply before it sleeps."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import numpy as np

import tensorwire
from tensorwire.clients.blocking_wire import LOST_TURN, SPIN, ask
from tensorwire.clients.calls import FOREVER
from tensorwire.protocol import Message
from tensorwire.protocol.adaptive_spin import AdaptiveSpin
from tests.support.peer import Peer, PeerConnection

X = np.ones((1, 4), np.float32)


def usual() -> AdaptiveSpin:
    """What a client has whose caller said nothing."""
    return AdaptiveSpin(None, SPIN, LOST_TURN)


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
    spin = usual()
    spin.seconds = 10.0
    with Silent(iter([0.03, 0.03, 0.0])) as sock:
        assert ask(sock, memoryview(bytearray(8)), FOREVER, spin) == -1
        assert sock.asked == 2
    assert not spin.should_spin()


def test_a_caller_who_said_how_long_keeps_asking_when_a_turn_is_lost() -> None:
    with Silent(iter([0.001] * 1000)) as sock:
        assert ask(sock, memoryview(bytearray(8)), FOREVER, AdaptiveSpin(0.02, SPIN, LOST_TURN)) == -1
        assert sock.asked > 3


def test_a_client_of_a_slow_model_sleeps() -> None:
    """50 replies of 2 ms each: asking was given up after a few, so the thread used next to no processor time."""

    def late(connection: PeerConnection, message: Message) -> None:
        threading.Timer(0.002, connection.reply, (message,)).start()

    with Peer(late) as peer, tensorwire.connect(peer.url) as client:
        client.infer("m", {"x": X})
        spin = client._driver._adaptive_spin
        for _ in range(50):
            client.infer("m", {"x": X})
        assert spin._pause >= 7
