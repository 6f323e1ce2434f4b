"""What moves the blocking client: interrupts, draining connections, the lead."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorwire
from tensorwire.clients import blocking_dialler, sockets
from tensorwire.clients.blocking import Pending
from tensorwire.clients.errors import ClientClosed, LocalCancelled
from tensorwire.protocol import Message, Status, pack_extension
from tensorwire.protocol.capture import CaptureWriter
from tests.support.peer import Peer, PeerConnection, echo, silent

X = np.arange(16, dtype=np.float32).reshape(1, 16)
BIG = np.ones(16 << 20, np.float32)


@contextmanager
def interrupted_when(condition: Callable[[], bool]) -> Iterator[None]:
    """A Ctrl-C for the main thread as soon as ``condition`` holds, and the KeyboardInterrupt that must come of it.

    SIGUSR1 stands for SIGINT, which the test runner wants for itself.
    """

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    def watch() -> None:
        while not condition():
            threading.Event().wait(0.001)
        threading.Event().wait(0.02)  # until the main thread sits in its system call
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    watcher = threading.Thread(target=watch)
    try:
        watcher.start()
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


def later(connection: PeerConnection, message: Message, held: list[Callable[[], None]]) -> None:
    """Keep a message and how to answer it."""
    message.body = memoryview(bytes(message.body))
    held.append(lambda: connection.reply(message))


def test_an_interrupt_while_waiting_cancels_the_call_and_keeps_the_connection() -> None:
    with Peer(silent) as peer, tensorwire.connect(peer.url) as client:
        with interrupted_when(lambda: bool(peer.connection().messages)):
            client.infer("m", {"x": X})
        client.ping(deadline=5.0)
        assert peer.connection().cancelled == [1]
        assert len(peer.connections) == 1


@pytest.mark.parametrize("verb", ["infer", "submit"])
def test_an_interrupt_while_writing_cancels_the_call_and_the_frame_is_finished(verb: str) -> None:
    release = threading.Event()

    def stop_reading(connection: PeerConnection, message: Message) -> None:
        if message.stream_id == 1:
            release.wait(10)
        echo(connection, message)

    with Peer(stop_reading) as peer, tensorwire.connect(peer.url) as client:
        first = client.submit("m", {"x": X})
        with interrupted_when(lambda: bool(peer.connection().messages)):
            getattr(client, verb)("m", {"x": BIG})
        release.set()
        np.testing.assert_array_equal(first.result(timeout=10.0)["x"], X)
        np.testing.assert_array_equal(client.infer("m", {"x": X + 1}, deadline=10.0)["x"], X + 1)
        assert peer.connection().cancelled == [2]
        assert len(peer.connections) == 1


def test_an_interrupt_while_dialling_leaves_no_call_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer() as peer, tensorwire.connect(peer.url) as client:
        peer.connection(0).hang_up()
        peer.connection(0).closed.wait(5)
        threading.Event().wait(0.02)

        def interrupted(*_args: object) -> socket.socket:
            raise KeyboardInterrupt

        monkeypatch.setattr(blocking_dialler, "dial", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.infer("m", {"x": X})
        monkeypatch.setattr(blocking_dialler, "dial", sockets.dial)
        np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)
        assert [message.stream_id for message in peer.connection(1).messages] == [1]


def test_an_interrupt_within_a_large_reply_takes_the_connection_with_it() -> None:
    half = threading.Event()

    def stop_halfway(connection: PeerConnection, message: Message) -> None:
        if connection.number > 1:
            echo(connection, message)
            return
        ext = pack_extension(dims=len(BIG).to_bytes(8, "little"))
        body = [memoryview(bytes(message.body))]
        connection.connection.send(message.stream_id, message.meta, ext, body, len(message.body))
        # A megabyte of whole frames, of the next one only a start: the client waits within a chunk.
        *whole, part = connection.connection.data_to_send(1 << 20)
        for buffer in whole:
            connection.sock.sendall(buffer)
        connection.sock.sendall(memoryview(part)[:1000])
        half.set()
        connection.closed.wait(0.5)

    with Peer(stop_halfway) as peer, tensorwire.connect(peer.url) as client:
        with interrupted_when(half.is_set):
            client.infer("m", {"x": BIG})
        np.testing.assert_array_equal(client.infer("m", {"x": X}, deadline=10.0)["x"], X)
        assert len(peer.connections) == 2


def test_an_interrupt_while_following_cancels_only_the_own_call() -> None:
    held: list[Callable[[], None]] = []
    with Peer(lambda c, m: later(c, m, held)) as peer, tensorwire.connect(peer.url) as client:
        leader = threading.Thread(target=lambda: client.infer("m", {"x": X}))
        leader.start()
        while not held:
            threading.Event().wait(0.001)
        with interrupted_when(lambda: len(held) == 2):
            client.infer("m", {"x": X})
        held[0]()
        leader.join(10)
        assert not leader.is_alive()
        client.ping(deadline=5.0)
        assert peer.connection().cancelled == [2]


@pytest.mark.parametrize("waiting", [True, False], ids=["a thread waits on the first", "nobody waits on the first"])
def test_while_a_connection_drains_new_calls_go_over_a_second_one(waiting: bool) -> None:
    held: list[Callable[[], None]] = []

    def drain(connection: PeerConnection, message: Message) -> None:
        if connection.number == 1:
            later(connection, message, held)
            connection.goaway(1, "restart")
        else:
            echo(connection, message)

    with Peer(drain) as peer, tensorwire.connect(peer.url) as client:
        first = client.submit("m", {"x": X})
        thread = threading.Thread(target=first.result)
        if waiting:
            thread.start()
        while not held:
            threading.Event().wait(0.001)
        for n in range(20):
            np.testing.assert_array_equal(client.infer("m", {"x": X + n}, deadline=10.0)["x"], X + n)
        assert len(peer.connections) == 2
        assert not first.done()
        held[0]()
        np.testing.assert_array_equal(first.result(timeout=10.0)["x"], X)
        if waiting:
            thread.join(10)
        assert peer.connection(0).closed.wait(10)  # drained: the client hangs up
        client.infer("m", {"x": X}, deadline=10.0)
        assert len(peer.connections) == 2


def test_a_follower_goes_where_its_call_goes() -> None:
    held: list[Callable[[], None]] = []

    def drain(connection: PeerConnection, message: Message) -> None:
        if connection.number > 1:
            echo(connection, message)
        elif message.stream_id == 1:
            later(connection, message, held)
        else:
            connection.goaway(1, "restart")

    with Peer(drain) as peer, tensorwire.connect(peer.url) as client:
        leader = threading.Thread(target=lambda: client.infer("m", {"x": X}))
        leader.start()
        while not held:
            threading.Event().wait(0.001)
        threading.Event().wait(0.02)
        np.testing.assert_array_equal(client.infer("m", {"x": X}, deadline=10.0)["x"], X)
        assert len(peer.connections) == 2
        held[0]()
        leader.join(10)
        assert not leader.is_alive()


def test_a_retry_is_not_kept_waiting_by_a_leader_that_sleeps_in_a_read() -> None:
    """The thread that reads from the second connection knows nothing of the retry that came of the first one's end."""
    held: list[Callable[[], None]] = []

    def drain(connection: PeerConnection, message: Message) -> None:
        if connection.number == 1:
            later(connection, message, held)
            connection.goaway(1, "restart")
        elif message.stream_id == 1:
            later(connection, message, held)
        else:
            echo(connection, message)

    with Peer(drain) as peer, tensorwire.connect(peer.url) as client, ThreadPoolExecutor() as threads:
        first = threads.submit(client.infer, "m", {"x": X})
        while len(held) < 1 or client._driver._core.link is not None:  # until it knows that the first one drains
            threading.Event().wait(0.001)
        second = threads.submit(client.infer, "m", {"x": X})
        while len(held) < 2:
            threading.Event().wait(0.001)
        threading.Event().wait(0.02)  # until it sits in its read
        peer.connection(0).end(1, Status.UNAVAILABLE, "restart", not_started=True)
        np.testing.assert_array_equal(first.result(10.0)["x"], X)
        assert not second.done()
        held[1]()
        second.result(10.0)


def test_close_fails_calls_on_every_connection() -> None:
    def drain(connection: PeerConnection, message: Message) -> None:
        if connection.number == 1:
            connection.goaway(1, "restart")

    with Peer(drain) as peer:
        client = tensorwire.connect(peer.url)
        first = client.submit("m", {"x": X})
        threading.Event().wait(0.05)
        second = client.submit("m", {"x": X})
        client.close()
        for call in (first, second):
            with pytest.raises(ClientClosed):
                call.result()
        assert all(connection.closed.wait(5) for connection in peer.connections)


def test_a_cancel_from_another_thread_ends_the_wait() -> None:
    errors: list[BaseException] = []

    def wait(call: Pending) -> None:
        try:
            call.result()
        except (LocalCancelled, ClientClosed) as error:
            errors.append(error)

    with Peer(silent) as peer, tensorwire.connect(peer.url) as client:
        calls = [client.submit("m", {"x": X}) for _ in range(2)]
        threads = [threading.Thread(target=wait, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
            threading.Event().wait(0.02)  # the first leads
        assert calls[1].cancel()
        threads[1].join(10)
        client.close()
        threads[0].join(10)
        assert [type(error) for error in errors] == [LocalCancelled, ClientClosed]


class Counting:
    """A socket that counts the system calls made on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name in {"sendmsg", "recv_into"}:
            self.calls.append(name)
        return getattr(self.sock, name)


def test_a_large_body_takes_few_system_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[Counting] = []

    def counted(*args: Any) -> Any:
        made.append(Counting(sockets.dial(*args)))
        return made[-1]

    monkeypatch.setattr(blocking_dialler, "dial", counted)
    frame, large = np.zeros(602_112, np.uint8), np.zeros(20 << 18, np.uint8)
    with Peer(unix=tmp_path / "s") as peer, tensorwire.connect(peer.url, spin=0) as client:
        client.infer("m", {"x": frame})
        made[0].calls.clear()
        client.infer("m", {"x": frame})
        assert made[0].calls.count("sendmsg") <= 2
        made[0].calls.clear()
        client.infer("m", {"x": large})
        # One read per chunk, whatever the kernel holds at a time, and a few for the first frame.
        assert made[0].calls.count("recv_into") <= 20 + 4


def test_a_wire_that_cannot_be_written_fails_its_calls() -> None:
    with Peer() as peer, tensorwire.connect(peer.url) as client:
        wire = client._driver._wire
        assert wire is not None
        wire.sock.shutdown(socket.SHUT_WR)
        wire.read_at = time.monotonic() + 60  # as right behind a reply: nobody looks first whether the server has left
        with pytest.raises(tensorwire.errors.ConnectionLost, match="Broken pipe"):
            client.infer("m", {"x": X})
        np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)
        assert len(peer.connections) == 2


def test_an_interrupt_while_bytes_are_taken_in_takes_the_connection_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(_writer: object, _name: bytes, *, received: bool, now: float, data: object) -> None:
        if received:
            raise KeyboardInterrupt

    # The recorder stands in for whatever runs while bytes are taken in: it is never compiled.
    with Peer() as peer, tensorwire.connect(peer.url, capture=tmp_path / "capture") as client:
        with monkeypatch.context() as patched:
            patched.setattr(CaptureWriter, "record", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.infer("m", {"x": X})
        np.testing.assert_array_equal(client.infer("m", {"x": X}, deadline=10.0)["x"], X)
        assert len(peer.connections) == 2
