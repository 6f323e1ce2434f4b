"""Bodies that never finish, replies that nobody reads, peers that vanish: memory comes back, and nobody starves."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tensorwire.protocol import ErrorCode, Status
from tensorwire.protocol.header import END_STREAM
from tests.attacks.conftest import BODY_TIMEOUT, POOL, Bystander, Target, others_served
from tests.attacks.peer import DATA, END, LIMIT, Raw, big, call, chunk, metadata, size
from tests.support.wire import WireClient

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

MIB = 1 << 20
COLUMNS = MIB // 4  # of a row of 1 MiB
CHUNK = 262144
GROWS = metadata("grows")  # every row of the reply is 4 MiB


@pytest.fixture
def others(running: Target) -> Iterator[Bystander]:
    with others_served(running) as bystander:
        yield bystander


@pytest.mark.usefixtures("others")
def test_half_bodies_of_silent_peers_starve_nobody_and_are_given_up(running: Target) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Raw(running.address)) for _ in range(4)]
        for peer in peers:
            peer.send(b"".join(big(stream_id, COLUMNS) for stream_id in range(1, 65)))
        began = time.monotonic()
        running.wait_pool(POOL // 4 * 3, POOL // 4 * 3)
        assert time.monotonic() - began < BODY_TIMEOUT
        with WireClient(running.address) as other:  # a quarter is left to calls in one frame, on new connections too
            x = np.ones((1, 16384), np.float32)
            assert other.infer("wide", {"x": x})["y"][0, 0] == 1
            refused = other.fail("wide", {"x": np.ones((1, 2 * COLUMNS), np.float32)})
            assert (refused.status, refused.not_started) == (Status.RESOURCE_EXHAUSTED, True)
            assert "unfinished bodies" in refused.detail
        running.wait_pool(0, 0, BODY_TIMEOUT + 10)
        for peer in peers[:2]:  # one had half of the pool, one what was left
            closed = peer.closed_with()
            assert closed.aux == ErrorCode.TIMEOUT
            assert f"the body of {MIB} bytes was not complete" in closed.text


@pytest.mark.usefixtures("others")
def test_a_body_in_the_middle_of_a_chunk_is_given_up_too(running: Target) -> None:
    """Its memory may be under a read: a deadline ends the call, but only the end of the connection frees it."""
    with Raw(running.address) as peer:
        peer.send(big(1, COLUMNS, aux=100_000) + chunk(1, bytes(CHUNK))[: CHUNK // 2])
        ended = peer.receive()
        assert (ended.kind, ended.aux) == (END, Status.DEADLINE_EXCEEDED)
        assert peer.closed_with().aux == ErrorCode.TIMEOUT
        running.wait_pool(0, 0)


@pytest.mark.usefixtures("others")
def test_a_dribbled_body_is_given_up_too(running: Target) -> None:
    began = time.monotonic()
    with Raw(running.address) as peer, contextlib.suppress(OSError):
        peer.send(big(1, COLUMNS) + chunk(1, bytes(CHUNK))[:1000])
        while time.monotonic() - began < BODY_TIMEOUT + 5:
            peer.send(b"\0")
            time.sleep(0.02)
    assert time.monotonic() - began < BODY_TIMEOUT + 4
    running.wait_pool(0, 0)


@pytest.mark.usefixtures("others")
def test_bodies_that_do_come_are_not_cut_off(running: Target) -> None:
    with Raw(running.address) as peer:
        for stream_id in range(1, 5):
            peer.send(big(stream_id, COLUMNS))
            for flags in (2, 2, 2, END_STREAM):
                time.sleep(0.1)
                peer.send(chunk(stream_id, bytes(CHUNK), flags=flags))
            assert peer.receive().kind == DATA


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("how", ["close", "reset", "half-close", "garbage"])
def test_a_peer_that_vanishes_in_the_middle_of_a_body(running: Target, how: str) -> None:
    for _ in range(10):
        with Raw(running.address) as peer:
            peer.send(big(1, COLUMNS) + chunk(1, bytes(CHUNK)) + chunk(1, bytes(CHUNK))[:100_000])
            if how == "reset":
                peer.reset()
            elif how == "half-close":
                peer.socket.shutdown(socket.SHUT_WR)
                assert peer.rest() == []
            elif how == "garbage":
                peer.send(b"\xff" * 500_000)
    running.wait_pool(0, 0)


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
def test_a_peer_that_vanishes_in_the_middle_of_a_reply(running: Target, how: str) -> None:
    for _ in range(5):
        with Raw(running.address, receive_buffer=4096) as peer:
            peer.send(b"".join(call(stream_id, meta=GROWS) for stream_id in range(1, 4)))
            peer.socket.recv(1000)
            if how == "reset":
                peer.reset()
            elif how == "half-close":
                peer.socket.shutdown(socket.SHUT_WR)
    running.wait("calls", 0)


@pytest.mark.soak
@pytest.mark.usefixtures("others")
def test_a_slow_reader_of_big_replies_is_dropped(running: Target) -> None:
    before = running.metric("connections_dropped_total", reason="write_timeout")
    began = time.monotonic()
    with Raw(running.address, receive_buffer=4096) as peer, contextlib.suppress(OSError):
        peer.send(b"".join(call(stream_id, meta=GROWS) for stream_id in range(1, size(17, 257))))
        while time.monotonic() - began < 10 and peer.socket.recv(100):
            time.sleep(0.05)
            if running.metric("connections_dropped_total", reason="write_timeout") > before:
                break
    assert running.metric("connections_dropped_total", reason="write_timeout") == before + 1


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("dribbles", [True, False])
def test_a_small_frame_that_does_not_come_is_given_up(running: Target, dribbles: bool) -> None:
    """Up to 132 KiB of it would be kept for as long as its peer likes."""
    began = time.monotonic()
    with Raw(running.address) as peer:
        data = call(1, body=bytes(60_000))
        peer.send(data[:50_000])
        with contextlib.suppress(OSError):
            for at in range(50_000, 50_300 if dribbles else 50_000):
                peer.send(data[at : at + 1])
                time.sleep(0.02)
        closed = peer.closed_with()
        assert closed.aux == ErrorCode.TIMEOUT
        assert "not complete" in closed.text
    assert BODY_TIMEOUT <= time.monotonic() - began < BODY_TIMEOUT + 4


@pytest.mark.usefixtures("others")
def test_frames_in_pieces_that_do_come_are_served_for_any_time(running: Target) -> None:
    """Every read ends within a frame, for longer than one frame may take."""
    began = time.monotonic()
    with Raw(running.address) as peer:
        rest = b""
        stream_id = 0
        while time.monotonic() < began + BODY_TIMEOUT * 1.7:
            stream_id += 1
            data = rest + call(stream_id)
            peer.send(data[:-20])
            rest = data[-20:]
            time.sleep(0.02)
        peer.send(rest)
        assert {peer.receive().kind for _ in range(stream_id)} == {DATA}
