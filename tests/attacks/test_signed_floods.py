"""Floods by somebody with a good key: a signature says who sends it, not that there may be so much of it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tensorwire.protocol import ErrorCode, FrameType
from tests.attacks.conftest import Target
from tests.attacks.guarded import PATIENCE, Guest, guarded_server, working
from tests.attacks.peer import CANCEL, CLOSE, DATA, ECHO, ECHO_EXT, LIMIT, OPEN, PING, SOAK, call, frame, size

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

PONG = int(FrameType.PONG)
RECORD = 65_536  # bytes of small frames in one record


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with guarded_server(tmp_path_factory.mktemp("guarded"), "--write-timeout", "2") as target:
        yield target


def slowest(times: list[float]) -> float:
    """Of all calls; of the minutes of a soak all but one in a hundred."""
    ranked = sorted(times)
    return ranked[len(ranked) * 99 // 100 if SOAK else -1]


def records(make: Callable[[int], bytes], count: int, first: int = 1) -> Iterator[bytes]:
    """So many frames, as many in each record as it holds."""
    batch = b""
    for number in range(first, first + count):
        one = make(number)
        if len(batch) + len(one) > RECORD:
            yield batch
            batch = b""
        batch += one
    yield batch


def last_words(peer: Guest) -> ErrorCode:
    """Why the server closed, which it must."""
    closed = peer.closed_with()
    assert closed.text
    return ErrorCode(closed.aux)


NUISANCES: dict[str, tuple[Callable[[int], bytes], ErrorCode]] = {
    "cancels of a call that is over": (lambda _: frame(CANCEL, stream_id=1), ErrorCode.CALM),
    "cancels of streams that never were": (lambda i: frame(CANCEL, stream_id=i + 1), ErrorCode.STREAM),
    "messages to a call that is over": (lambda _: frame(DATA, stream_id=1, seq=1, meta=ECHO), ErrorCode.CALM),
    "empty messages to a call that is over": (lambda _: frame(DATA, stream_id=1, seq=1), ErrorCode.CALM),
    "credit, which was not negotiated": (lambda _: frame(FrameType.CREDIT, stream_id=1), ErrorCode.FRAME),
    "rates, which were not negotiated": (lambda _: frame(FrameType.RATE), ErrorCode.FRAME),
    "resumptions, which were not negotiated": (lambda _: frame(FrameType.RESUME), ErrorCode.FRAME),
    "proofs": (lambda _: frame(FrameType.AUTH), ErrorCode.PROTOCOL),
    "greetings": (lambda _: frame(FrameType.HELLO), ErrorCode.PROTOCOL),
}


@pytest.mark.parametrize("what", NUISANCES)
def test_what_is_of_no_use_ends_the_connection_soon(guarded: Target, what: str) -> None:
    make, code = NUISANCES[what]
    with working(guarded) as worker, Guest(guarded.address) as peer:
        assert peer.works(1)
        with contextlib.suppress(OSError):
            for record in records(make, 10_001):
                peer.send(record)
        assert last_words(peer) == code
    assert slowest(worker.times) < PATIENCE


def closed(target: Target) -> float:
    """How many were closed since they did not read; on a busy machine that may be found before too much waits."""
    reasons = ("calm", "write_timeout")
    return sum(target.metric("connections_dropped_total", reason=reason) for reason in reasons)


def test_pings_of_somebody_who_does_not_read(guarded: Target) -> None:
    memory, before = guarded.rss, closed(guarded)
    with working(guarded) as worker:
        sent = 0
        with Guest(guarded.address, receive_buffer=4096) as peer:
            peer.socket.settimeout(5)
            with contextlib.suppress(OSError):
                for record in records(lambda _: frame(PING, body=b"12345678"), size(1_500_000, 6_000_000)):
                    peer.send(record)
                    sent += len(record)
            end = time.monotonic() + 10
            while closed(guarded) == before:
                assert time.monotonic() < end
                time.sleep(0.05)
        assert sent < 48 << 20  # it was not read to the end: what kernels hold, and 16 MiB that are thrown away
    assert guarded.rss < memory + (32 << 20)
    assert slowest(worker.times) < PATIENCE


class Reader(threading.Thread):
    """Reads whatever `peer` is sent: `kinds` counts the frames by type."""

    def __init__(self, peer: Guest) -> None:
        super().__init__(daemon=True)
        self.kinds: Counter[int] = Counter()
        self._peer = peer
        self.start()

    def run(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.kinds[self._peer.receive().kind] += 1


@pytest.mark.parametrize("kind", [PING, PONG])
def test_pings_and_pongs_of_somebody_who_reads_disturb_nobody(guarded: Target, kind: int) -> None:
    """100,000 in a second or so: more than any use of them, and less work than as many calls. Who does not keep up with
    the answers is closed.
    """
    count = size(100_000, 3_000_000)
    memory, before = guarded.rss, closed(guarded)
    with working(guarded) as worker, Guest(guarded.address) as peer:
        peer.socket.settimeout(LIMIT)  # a PONG is not answered: nothing is read for as long as the flood takes
        reader = Reader(peer)
        with contextlib.suppress(OSError):
            for record in records(lambda _: frame(kind, body=b"12345678"), count):
                peer.send(record)
            peer.send(call(1))
        end = time.monotonic() + 60
        while not reader.kinds[DATA] and reader.is_alive():
            assert time.monotonic() < end
            time.sleep(0.01)
        with contextlib.suppress(OSError):
            peer.socket.shutdown(socket.SHUT_RDWR)
        reader.join(20)
        if reader.kinds[DATA]:
            assert reader.kinds[PONG] <= count
        else:
            assert kind == PING
            assert closed(guarded) == before + 1
    assert slowest(worker.times) < PATIENCE
    assert guarded.rss < memory + (32 << 20)


@pytest.mark.soak
def test_open_and_cancel(guarded: Target) -> None:
    with working(guarded) as worker:
        with Guest(guarded.address) as peer:
            reader = Reader(peer)
            with contextlib.suppress(OSError):  # closed for abuse, or served: both are right
                pairs = records(lambda i: call(i) + frame(CANCEL, stream_id=i), size(20_000, 1_000_000))
                for record in pairs:
                    peer.send(record)
                peer.socket.shutdown(socket.SHUT_RDWR)
            reader.join(20)
        guarded.wait("queue_depth", 0, model="echo")
    assert slowest(worker.times) < PATIENCE


EMPTY: dict[str, bytes] = {
    "a record of nothing": struct.pack("<I", 0) + bytes(16),
    "a record of a byte": struct.pack("<I", 1) + bytes(17),
    "a record that is no frame": struct.pack("<I", 31) + bytes(31 + 16),
}


@pytest.mark.parametrize("what", EMPTY)
def test_records_of_next_to_nothing_are_none(guarded: Target, what: str) -> None:
    with Guest(guarded.address) as peer:
        peer.send_plain(EMPTY[what])
        assert last_words(peer) == ErrorCode.FRAME


def test_the_smallest_records_there_are_disturb_nobody(guarded: Target) -> None:
    """One PING each: a tag to check and one to make for 32 bytes."""
    with working(guarded) as worker, Guest(guarded.address) as peer:
        one = frame(PING, body=b"12345678")
        for _ in range(100):
            for _ in range(100):
                peer.send(one)
            for _ in range(100):
                assert peer.receive().kind == PONG
        assert peer.works(1)
    assert slowest(worker.times) < PATIENCE


def test_calls_that_are_never_finished_are_bounded_and_cost_no_call_of_others(guarded: Target) -> None:
    """OPEN without END_STREAM: a call is one message here."""
    with working(guarded) as worker, Guest(guarded.address) as peer:
        with contextlib.suppress(OSError):
            for record in records(lambda i: frame(OPEN, stream_id=i, ext=ECHO_EXT, meta=ECHO), 5000):
                peer.send(record)
        with contextlib.suppress(OSError, EOFError):
            answers = [peer.receive().kind for _ in range(5000)]
            assert CLOSE not in answers
    assert slowest(worker.times) < PATIENCE


def test_a_record_that_is_wrong_ends_only_its_own_connection(guarded: Target) -> None:
    with working(guarded), Guest(guarded.address) as good, Guest(guarded.address) as bad:
        sealed = bytearray(bad._mine.seal(call(1)))
        sealed[-1] ^= 1
        bad.send_plain(bytes(sealed))
        assert last_words(bad) == ErrorCode.AUTHENTICATION
        assert good.works(1)
    assert guarded.metric("connections_dropped_total", reason="authentication") == 1
