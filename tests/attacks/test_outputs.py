"""Small requests for large replies: what waits to be read is bounded, and who does not read stops nobody's model."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tensorwire.codec import FREE, TensorSpec, encode_metadata
from tensorwire.protocol import Status
from tests.attacks.conftest import POOL, Bystander, Target, others_served
from tests.attacks.peer import ECHO, ECHO_EXT, END, FLOAT, LIMIT, Raw, call, metadata
from tests.integration.models import flat
from tests.support.server import running_server, write_model
from tests.support.wire import WireClient

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

MIB = 1 << 20
REPLY = 4 * MIB
CALLS = 200
FILLS = metadata("fills")

FAR_FILLS = """
import numpy as np
def build():
    return lambda inputs: {"y": np.full((len(inputs["x"]), 8 << 20), 1, np.float32)}
"""


@pytest.fixture
def others(running: Target) -> Iterator[Bystander]:
    with others_served(running) as bystander:
        yield bystander


@pytest.mark.usefixtures("others")
def test_replies_that_nobody_reads_are_dropped_above_a_share_of_memory(running: Target) -> None:
    """200 calls of 16 bytes ask for 800 MiB; a quarter of the pool's size is kept for one connection."""
    memory = running.rss
    most = 0
    with Raw(running.address, receive_buffer=4096) as peer:
        peer.send(b"".join(call(stream_id, meta=FILLS) for stream_id in range(1, CALLS + 1)))
        end = time.monotonic() + 20
        while running.metric("calls") > 0:
            most = max(most, running.rss - memory)
            assert time.monotonic() < end
        dropped = running.metric("requests_total", model="fills", status="RESOURCE_EXHAUSTED")
        assert dropped > CALLS / 2
    assert most < POOL // 4 + 8 * REPLY + 64 * MIB  # the share, one batch, and what an allocator keeps


@pytest.mark.usefixtures("others")
def test_who_is_told_of_dropped_replies_can_go_on(running: Target) -> None:
    with Raw(running.address, receive_buffer=4096) as peer:
        peer.send(b"".join(call(stream_id, meta=FILLS) for stream_id in range(1, 41)))
        ended = []
        for last in iter(peer.receive, None):
            if last.kind == END:
                ended.append(last)
            if last.kind == END and last.stream_id == 40:
                break
        assert {answer.aux for answer in ended} == {Status.RESOURCE_EXHAUSTED}
        assert all("fewer calls in flight" in answer.text for answer in ended)
        assert peer.works(41)


@pytest.mark.usefixtures("others")
def test_many_peers_that_do_not_read_share_one_bound(running: Target) -> None:
    memory = running.rss

    def ended() -> float:
        statuses = ("OK", "RESOURCE_EXHAUSTED", "CANCELLED")
        return sum(running.metric("requests_total", model="fills", status=status) for status in statuses)

    before = ended()
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            peer = stack.enter_context(Raw(running.address, receive_buffer=4096))
            peer.send(b"".join(call(stream_id, meta=FILLS) for stream_id in range(1, 13)))
        most, end = 0, time.monotonic() + 20
        while ended() < before + 16 * 12:
            most = max(most, running.rss)
            assert time.monotonic() < end
        # The room, a first reply of each, the batches of those that came before the crowd, what an allocator keeps.
        assert max(most, running.rss) < memory + POOL // 2 + 16 * (REPLY + MIB) + 2 * 8 * REPLY + 64 * MIB


def test_replies_that_are_read_are_not_dropped(running: Target) -> None:
    with WireClient(running.address) as client:
        streams = [client.open("fills", {"x": np.zeros((1, 4), np.float32)}) for _ in range(4)]
        for stream_id in streams:
            assert client.reply(stream_id).arrays["y"].nbytes == REPLY


def test_who_does_not_read_stops_no_model_in_another_process(tmp_path: Path) -> None:
    """Two peers fill the result memory of the engine and leave it unread; others wait for a moment, not for
    `write_timeout`.
    """
    write_model(tmp_path, "far", FAR_FILLS, flat(4, 8 << 20, engine="process", max_batch=1, warmup=False))
    with running_server(tmp_path, "--write-timeout", "60") as server, contextlib.ExitStack() as stack:
        x = np.zeros((1, 4), np.float32)
        for _ in range(2):
            mute = stack.enter_context(Raw(server.address, receive_buffer=4096))
            mute.send(b"".join(call(stream_id, meta=metadata("far")) for stream_id in range(1, 7)))
        client = stack.enter_context(WireClient(server.address))
        began = time.monotonic()
        for _ in range(4):
            assert client.infer("far", {"x": x})["y"].nbytes == 32 * MIB
        assert time.monotonic() - began < 8
        assert server.metric("tensorwire_connections_dropped_total", reason="write_timeout") > 0


def test_a_million_outputs_cannot_be_asked_for(running: Target) -> None:
    """What a call gives is the model's to say; what is named in a request is counted before it is looked at."""
    at = next(at for at in range(8, len(ECHO) - 4, 4) if ECHO[at : at + 4] == b"\x01\0\0\0")
    with Raw(running.address) as peer:
        for stream_id, count in enumerate((1025, 1_000_000, 2**31 - 1, 2**32 - 1), 1):
            forged = ECHO[:at] + struct.pack("<I", count) + ECHO[at + 4 :]
            peer.send(call(stream_id, meta=forged))
            answer = peer.receive()
            assert (answer.kind, answer.aux) == (END, Status.INVALID_ARGUMENT)
            assert "at most 1024" in answer.text, answer.text
        assert peer.works(5)


def test_the_same_name_twice_is_refused(running: Target) -> None:
    two = encode_metadata("echo", "", [TensorSpec("x", FLOAT, (FREE, FREE)), TensorSpec("z", FLOAT, (FREE, FREE))])
    forged = two.replace(b"\x01\0\0\0z\0", b"\x01\0\0\0x\0")
    assert forged != two
    with Raw(running.address) as peer:
        peer.send(call(1, meta=forged, ext=ECHO_EXT[:1] + b"\x20" + 2 * ECHO_EXT[2:], body=bytes(80)))
        answer = peer.receive()
        assert (answer.kind, answer.aux) == (END, Status.INVALID_ARGUMENT)
        assert "twice" in answer.text
        assert peer.works(2)
