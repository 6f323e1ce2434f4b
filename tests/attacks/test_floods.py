"""Floods of what is allowed one at a time: the flooder is slowed or closed, another client keeps its calls."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

import msgpack
import numpy as np
import pytest

from tensorwire.codec import FREE, TensorSpec, encode_metadata
from tensorwire.protocol import ErrorCode, FrameType, Status, pack_extension
from tests.attacks.conftest import Bystander, Target, X, others_served
from tests.attacks.peer import (
    CANCEL,
    DATA,
    ECHO,
    END,
    FLOAT,
    LIMIT,
    PING,
    SOAK,
    Raw,
    call,
    dims,
    frame,
    metadata,
    service,
    size,
)
from tests.support.wire import WireClient

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

PATIENCE = 0.35
"""Seconds that a call of another client may take during a flood: far below the 0.6 s that one read could cost, and
above what two shared cores add by themselves."""
ANY = metadata("wide")
WINDOW = 300
"""Calls that a flood sends at a time; three times as many may be open, which is under max_streams."""


def slow(others: Bystander) -> float:
    """The slowest call of another client, in seconds; of the minutes of a soak all but one in a hundred."""
    times = sorted(others.times)
    return times[len(times) * 99 // 100 if SOAK else -1]


@pytest.fixture
def others(running: Target) -> Iterator[Bystander]:
    with others_served(running) as bystander:
        while len(bystander.times) < 5:
            time.sleep(0.01)
        yield bystander


def flood(target: Target, make: Callable[[int], bytes], count: int, *, seconds: float = 10.0) -> int:
    """Send `count` frames as fast as they are answered, and read every answer; how many came."""
    with Raw(target.address) as peer:
        answers = 0
        done = threading.Event()

        def read() -> None:
            nonlocal answers
            with contextlib.suppress(EOFError, OSError):
                while answers < count:
                    peer.receive()
                    answers += 1
            done.set()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        with contextlib.suppress(OSError):
            for first in range(1, count + 1, WINDOW):
                peer.send(b"".join(map(make, range(first, min(first + WINDOW, count + 1)))))
                while answers < first - WINDOW and reader.is_alive():
                    time.sleep(0.001)
        done.wait(seconds)
    reader.join(5)
    return answers


def wide_variant(number: int) -> bytes:
    """A good call whose shape was never seen before."""
    return call(number, meta=ANY, ext=pack_extension(dims=dims(1, number)), body=bytes(4 * number))


def forged_variant(number: int) -> bytes:
    names = [TensorSpec(f"{number}-{column}", FLOAT, (FREE,)) for column in range(200)]
    return call(number, meta=encode_metadata("echo", "", names), ext=b"", body=b"")


COSTLY: dict[str, tuple[Callable[[int], bytes], int]] = {
    "not-metadata": (lambda i: call(i, meta=i.to_bytes(20, "little")), 4000),
    "unknown-models": (lambda i: call(i, meta=metadata(f"m{i}")), 1000),
    "200-tensors": (forged_variant, 60),
    "new-shapes": (wide_variant, 700),
    "describe": (lambda i: service(i, "$describe", msgpack.packb({"model": "two"})), 2000),
    "msgpack": (lambda i: service(i, "$health", msgpack.packb([0] * 16000)), 60),
    "raising": (lambda i: call(i, meta=metadata("shouts")), 1000),
}


@pytest.mark.parametrize("what", COSTLY)
def test_costly_calls_do_not_keep_the_loop(running: Target, others: Bystander, what: str) -> None:
    make, count = COSTLY[what]
    others.times.clear()
    assert flood(running, make, count) == count
    assert max(others.times, default=0.0) < PATIENCE


VARIANTS: dict[str, Callable[[int], bytes]] = {
    "shapes": lambda i: call(
        i, meta=ANY, ext=pack_extension(dims=dims(1 + i % 8, i // 8)), body=bytes(4 * (1 + i % 8) * (i // 8))
    ),
    # The same call in other bytes: what follows the last table of a FlatBuffer is read by nobody.
    "metadata": lambda i: call(i, meta=ECHO + i.to_bytes(8, "little")),
    "versions": lambda i: call(i, meta=encode_metadata("echo", str(i), [TensorSpec("x", FLOAT, (FREE, FREE))])),
}


@pytest.mark.soak
@pytest.mark.parametrize("what", VARIANTS)
def test_a_flood_of_signatures_costs_no_other_connection_a_hit(running: Target, others: Bystander, what: str) -> None:
    """The other one says nothing during the flood, so that being used lately does not protect what it uses."""
    count = size(1300, {"metadata": 1_000_000, "versions": 100_000, "shapes": 8_000}[what])
    signatures = [np.zeros((rows, 4), np.float32) for rows in range(1, 9)]
    memory = running.rss
    with WireClient(running.address) as client:
        for x in signatures:
            client.infer("echo", {"x": x})
        assert flood(running, VARIANTS[what], count, seconds=LIMIT - 20) == count
        misses = running.metric("signature_cache_misses_total")
        for x in signatures:
            client.infer("echo", {"x": x})
        assert running.metric("signature_cache_misses_total") == misses
    assert running.metric("signature_cache_entries") <= 1024
    assert running.rss < memory + (48 << 20)


@pytest.mark.soak
def test_open_and_cancel(running: Target, others: Bystander) -> None:
    with Raw(running.address) as peer:
        reader = threading.Thread(target=peer.rest, daemon=True)
        reader.start()
        with contextlib.suppress(OSError):  # closed for abuse, or served: both are right
            for first in range(1, size(20_000, 1_000_000) + 1, 1000):
                pairs = (call(i) + frame(CANCEL, stream_id=i) for i in range(first, first + 1000))
                peer.send(b"".join(pairs))
        with contextlib.suppress(OSError):
            peer.socket.shutdown(socket.SHUT_RDWR)
        reader.join(10)
    running.wait("calls", 0)
    assert running.metric("queue_depth", model="echo", version="2") == 0
    assert slow(others) < PATIENCE


def test_late_frames_are_counted(running: Target, others: Bystander) -> None:
    with Raw(running.address) as peer:
        assert peer.works(1)
        cancels = frame(CANCEL, stream_id=1) * 10_001
        with contextlib.suppress(OSError):
            peer.send(cancels)
        assert peer.closed_with().aux == ErrorCode.CALM
    assert not others.error


def test_more_streams_than_allowed_are_refused_one_by_one(running: Target, others: Bystander) -> None:
    with Raw(running.address) as peer:
        opens = b"".join(
            frame(
                FrameType.OPEN, flags=3, stream_id=i, meta=ANY, ext=pack_extension(dims=dims(1, 1), body_length=65537)
            )
            for i in range(1, 2000)
        )
        peer.send(opens)
        assert {peer.receive().aux for _ in range(1999)} == {Status.INVALID_ARGUMENT}
    assert not others.error


def test_watches_are_bounded(running: Target, others: Bystander) -> None:
    with Raw(running.address) as peer:
        peer.send(b"".join(service(i, "$health", msgpack.packb({"watch": True})) for i in range(1, 101)))
        answers = [peer.receive() for _ in range(100)]
        refused = [answer for answer in answers if answer.kind == END]
        assert len(refused) == 84
        assert all(answer.aux == Status.RESOURCE_EXHAUSTED and "watches" in answer.text for answer in refused)
        peer.send(frame(CANCEL, stream_id=1) + service(101, "$health", msgpack.packb({"watch": True})))
        while (answer := peer.receive()).stream_id != 101:
            pass
        assert answer.kind == DATA
    assert not others.error


@pytest.mark.parametrize(("what", "reason"), [("ping", "calm"), ("describe", "write_timeout"), ("calls", "calm")])
def test_who_does_not_read_is_not_read_and_then_closed(
    running: Target, others: Bystander, what: str, reason: str
) -> None:
    """Answers to PINGs wait up to 1 MiB; calls above max_streams are refused, and 10,000 of them are no accident.

    On a busy machine the peer may be found not to read before it has sent so many.
    """
    reasons = {reason, "write_timeout"}

    def dropped() -> float:
        return sum(running.metric("connections_dropped_total", reason=one) for one in reasons)

    before, memory = dropped(), running.rss
    make: dict[str, Callable[[int], bytes]] = {
        "ping": lambda _: frame(PING, body=b"12345678") * 50,
        "describe": lambda i: service(i, "$describe", msgpack.packb({"model": "two"})),
        "calls": lambda i: call(i, meta=ANY),  # of another model: the queue of this one it fills
    }
    with Raw(running.address, receive_buffer=4096) as peer:
        peer.socket.settimeout(5)
        sent = 0
        with contextlib.suppress(OSError):
            for first in range(1, 200_001, 500):
                data = b"".join(map(make[what], range(first, first + 500)))
                peer.send(data)
                sent += len(data)
        assert sent < 64 << 20  # it stopped being read
        end = time.monotonic() + 20
        while dropped() == before:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert dropped() == before + 1
        running.wait("connections", 1)  # the other client's
    assert running.rss < memory + (64 << 20)
    assert not others.error


def test_an_unasked_pong_does_not_break_the_drain(running: Target, others: Bystander) -> None:
    """It once raised when the server drained, for every connection. That it drains is tests/attacks/test_end.py's."""
    with Raw(running.address) as peer:
        peer.send(frame(FrameType.PONG, body=b"draining"))
        assert peer.works(1)
    assert not others.error


@pytest.mark.soak
def test_thousands_of_silent_connections_keep_nobody_out(running: Target, others: Bystander) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    silent: list[socket.socket] = []
    try:
        for number in range(size(2000, 10_000)):
            silent.append(socket.create_connection(running.address, timeout=10))
            if number % 400 == 399:
                with WireClient(running.address) as newcomer:
                    np.testing.assert_array_equal(newcomer.infer("echo", {"x": X})["y"], X)
                assert running.metric("connections_pending") <= 256
        running.wait("connections_pending", 0)
    finally:
        for one in silent:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert slow(others) < 2 * PATIENCE
    assert running.metric("connections_dropped_total", reason="too_many_pending") > 0


def test_garbage_from_200_strangers_is_not_a_flood_of_log(running: Target, others: Bystander) -> None:
    before = running.log.stat().st_size
    for _ in range(200):
        with socket.create_connection(running.address, timeout=10) as stranger:
            stranger.sendall(b"\x1b[31m\r\n" * 100)
            with contextlib.suppress(OSError):
                assert b"tensorwire" in stranger.recv(1000)
    assert running.log.stat().st_size - before < 32 << 10
    assert not others.error


def test_priority_255_does_not_starve_the_others(running: Target, others: Bystander) -> None:
    with WireClient(running.address) as client:
        done = threading.Event()

        def press() -> None:
            with Raw(running.address) as peer:
                stream_id = 1
                while not done.is_set():
                    peer.send(b"".join(call(i, priority=255) for i in range(stream_id, stream_id + 200)))
                    for _ in range(200):
                        peer.receive()
                    stream_id += 200

        presser = threading.Thread(target=press, daemon=True)
        presser.start()
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            client.infer("echo", {"x": X})
        done.set()
        presser.join(10)
    assert max(others.times) < 1.5  # the starvation rule: one second, and a batch
