"""What goes wrong at one caller stays there: a typed status that names field, sent and expected; nobody else notices.

Every test runs against one real server process over real sockets. After each one the server still answers a second,
long-lived connection, and no memory is left in use.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import FREE, TensorSpec, dtype_by_name, encode_metadata
from tensorwire.protocol import Ended, Status, pack_extension
from tensorwire.protocol.header import HEADER
from tests.integration.models import ROW, write_models
from tests.support.server import ServerProcess, running_server
from tests.support.wire import TIMEOUT, WireClient

pytestmark = pytest.mark.timeout(180)

X = np.arange(8, dtype=np.float32).reshape(2, 4)
FLOAT = dtype_by_name("float32")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = write_models(tmp_path_factory.mktemp("models"))
    flags = ("--pool-bytes", "64MiB", "--write-timeout", "1")
    with running_server(models, *flags, env={"TENSORWIRE_POISON": "1"}) as server:
        yield server


@pytest.fixture(scope="module")
def bystander(server: ServerProcess) -> Iterator[WireClient]:
    with WireClient(server.address) as client:
        yield client


@pytest.fixture
def client(server: ServerProcess, bystander: WireClient) -> Iterator[WireClient]:
    """A connection to break things on; afterwards a bystander still gets answers and all memory is back."""
    with WireClient(server.address) as client:
        yield client
    np.testing.assert_array_equal(bystander.infer("echo", {"x": X})["y"], X)
    server.wait_metric("tensorwire_pool_used_bytes", 0)
    server.wait_metric("tensorwire_calls", 0)


def still_works(client: WireClient) -> None:
    np.testing.assert_array_equal(client.infer("echo", {"x": X})["y"], X)


def opening(stream_id: int, meta: bytes, ext: bytes, microseconds: int = 0) -> bytes:
    """The first frame of a big call, whose chunks the test sends or does not."""
    flags = 0x03  # END_STREAM, MORE
    header = HEADER.pack(len(ext) + len(meta), 5, 0, flags, stream_id, 0, microseconds, len(meta), len(ext), 0)
    return header + ext + meta


# -- what works, so that the rest means something


def test_small_calls_are_answered(client: WireClient) -> None:
    reply = client.reply(client.open("echo", {"x": X}, timing=True))
    np.testing.assert_array_equal(reply.arrays["y"], X)
    assert (reply.model, reply.version) == ("echo", "2")
    assert reply.timing is not None
    assert sum(reply.timing[:6]) <= reply.timing[6] + 6


def test_many_calls_in_flight_come_back_to_the_right_caller(client: WireClient) -> None:
    streams = {client.open("echo", {"x": np.full((1, 4), number, np.float32)}): number for number in range(200)}
    for stream_id, number in streams.items():
        assert client.reply(stream_id).arrays["y"][0, 0] == number


@pytest.mark.parametrize("model", ["blob", "far"])
def test_big_calls_are_answered_whole(client: WireClient, model: str) -> None:
    x = np.random.default_rng(1).random((4, ROW), np.float32)
    np.testing.assert_array_equal(client.infer(model, {"x": x})["y"], x)


def test_several_inputs_and_outputs(client: WireClient) -> None:
    a, b = np.array([[1.0], [-1.0]], np.float32), np.ones((2, 3), np.float32)
    outputs = client.infer("two", {"a": a, "b": b})
    np.testing.assert_array_equal(outputs["sum"], a + 1)
    np.testing.assert_array_equal(outputs["flag"], [True, False])


def test_an_older_version_is_there_when_asked_for(client: WireClient) -> None:
    reply = client.reply(client.open("echo", {"x": X}, version="1"))
    assert reply.version == "1"


# -- the signature


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": X.astype(np.float64)}, ["x", "float64", "float32"]),
        ({"x": X.astype(np.int32)}, ["x", "int32", "float32"]),
        ({"x": X[:, :3].copy()}, ["x", "3", "4"]),
        ({"x": X.reshape(2, 2, 2)}, ["x", "2, 2, 2", "4"]),
        ({"x": np.float32(1)}, ["x", "4"]),
        ({"z": X}, ["'x'", "'z'"]),
        ({}, ["x"]),
        ({"x": X, "extra": X}, ["extra"]),
        ({"x": np.zeros((9, 4), np.float32)}, ["9", "8"]),
        ({"x": np.zeros((0, 4), np.float32)}, ["0"]),
        ({"x": ["a", "b"]}, ["x", "string", "float32"]),
    ],
    ids=["float64", "int32", "width", "ndim", "scalar", "name", "missing", "extra", "rows", "no-rows", "strings"],
)
def test_tensors_that_are_not_the_models(client: WireClient, arrays: dict[str, Any], words: list[str]) -> None:
    ended = client.fail("echo", arrays)
    assert ended.status is Status.INVALID_ARGUMENT
    assert ended.not_started
    for word in words:
        assert word in ended.detail
    assert f"[request {client.connection.connection_id.hex()}-" in ended.detail
    still_works(client)


@pytest.mark.parametrize(
    ("model", "version"),
    [("nope", ""), ("../echo", ""), ("echo\x00", ""), ("echo/1", ""), ("echo", "7"), ("$nope", "")],
)
def test_a_model_that_is_not_there(client: WireClient, model: str, version: str) -> None:
    ended = client.fail(model, {"x": X}, version=version)
    assert ended.status is Status.NOT_FOUND
    assert ended.not_started
    assert ended.detail.isprintable()
    still_works(client)


def test_a_big_call_is_refused_before_its_body_is_read(client: WireClient) -> None:
    ended = client.fail("mean", {"x": np.zeros((5, ROW), np.float32)})
    assert (ended.status, ended.not_started) == (Status.INVALID_ARGUMENT, True)
    ended = client.fail("nope", {"x": np.zeros((1, ROW), np.float32)})
    assert (ended.status, ended.not_started) == (Status.NOT_FOUND, True)
    still_works(client)


def test_a_stream_of_messages_is_not_a_call(client: WireClient) -> None:
    ended = client.fail("echo", {"x": X}, flags=0)
    assert (ended.status, ended.not_started) == (Status.UNIMPLEMENTED, True)
    still_works(client)


# -- bodies and metadata


@pytest.mark.parametrize("sent", [0, 1, 31, 33, 64, 65536])
def test_a_body_of_another_length_than_its_shapes(client: WireClient, sent: int) -> None:
    encoded = client.encoder.encode("echo", "", {"x": X})
    stream_id = client.open_raw(encoded.meta, pack_extension(dims=encoded.dims), [bytes(sent)], sent)
    ended = client.ended(stream_id)
    assert ended.status is Status.INVALID_ARGUMENT
    assert f"sent {sent} bytes, expected 32" in ended.detail
    still_works(client)


def test_a_big_body_of_another_length_than_its_shapes(client: WireClient) -> None:
    encoded = client.encoder.encode("mean", "", {"x": np.zeros((1, ROW), np.float32)})
    sent = 4 * ROW + 4
    ended = client.ended(client.open_raw(encoded.meta, pack_extension(dims=encoded.dims), [bytes(sent)], sent))
    assert (ended.status, ended.not_started) == (Status.INVALID_ARGUMENT, True)
    assert f"sent {sent} bytes, expected {4 * ROW}" in ended.detail
    still_works(client)


@pytest.mark.parametrize("meta", [b"", b"\x00", b"\xff" * 64, b"garbage that is no flatbuffer", bytes(4096)], ids=len)
def test_metadata_that_is_none(client: WireClient, meta: bytes) -> None:
    ended = client.ended(client.open_raw(meta, b"", [], 0))
    assert ended.status is Status.INVALID_ARGUMENT
    assert "metadata" in ended.detail
    still_works(client)


def test_metadata_cut_off_at_every_byte(client: WireClient) -> None:
    encoded = client.encoder.encode("echo", "", {"x": X})
    ext = pack_extension(dims=encoded.dims)
    for length in range(len(encoded.meta)):
        stream_id = client.open_raw(encoded.meta[:length], ext, encoded.buffers, encoded.body_length)
        outcome = client.outcome(stream_id)
        if isinstance(outcome, Ended):
            assert outcome.status is Status.INVALID_ARGUMENT, length
        else:  # only the padding at its end was cut
            assert length > len(encoded.meta) - 8
            np.testing.assert_array_equal(outcome.arrays["y"], X)
    still_works(client)


@pytest.mark.parametrize("sizes", [(), (2,), (2, 4, 1), (2**63, 2**63), (2**64 - 1, 4), (2, 2**48)])
def test_dims_that_do_not_fit_or_overflow(client: WireClient, sizes: tuple[int, ...]) -> None:
    meta = encode_metadata("echo", "", [TensorSpec("x", FLOAT, (FREE, FREE))])
    ext = pack_extension(dims=struct.pack(f"<{len(sizes)}Q", *sizes))
    assert client.ended(client.open_raw(meta, ext, [], 0)).status is Status.INVALID_ARGUMENT
    still_works(client)


def test_a_body_larger_than_any_pool_is_refused_before_it_is_sent(client: WireClient) -> None:
    ended = client.fail("echo", {"x": np.zeros((1 << 18, 4), np.float32)})
    assert ended.status is Status.INVALID_ARGUMENT


def test_a_full_pool_refuses_and_recovers(server: ServerProcess, client: WireClient) -> None:
    x = np.zeros((4, ROW), np.float32)  # 1 MiB each, none of them finishes
    meta = client.encoder.encode("far", "", {"x": x})
    ext = pack_extension(dims=meta.dims, body_length=meta.body_length)
    with WireClient(server.address) as greedy, WireClient(server.address) as other:
        for peer, most in ((greedy, 32), (other, 48)):  # half of the pool, then three quarters
            for stream_id in range(1, 40):
                peer.socket.sendall(opening(stream_id, meta.meta, ext))
            server.wait_metric("tensorwire_pool_used_bytes", most << 20)
        ended = client.fail("far", {"x": x})
        assert (ended.status, ended.not_started) == (Status.RESOURCE_EXHAUSTED, True)
        assert "pool" in ended.detail
        still_works(client)
    server.wait_metric("tensorwire_pool_used_bytes", 0)
    client.infer("far", {"x": x})


# -- broken frames and other protocols


def talk(server: ServerProcess, data: bytes) -> bytes:
    """Everything the server says to a stranger before it closes."""
    with socket.create_connection(server.address, timeout=TIMEOUT) as stranger:
        stranger.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := stranger.recv(65536):
                answer += part
        return answer


def test_an_http_client_gets_one_helpful_line(server: ServerProcess, client: WireClient) -> None:
    answer = talk(server, b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"tensorwire" in answer


def test_a_tls_client_gets_one_helpful_line(server: ServerProcess, client: WireClient) -> None:
    assert b"tensorwire" in talk(server, bytes.fromhex("16030100050100000100"))
    context = ssl.create_default_context()
    with socket.create_connection(server.address, timeout=TIMEOUT) as raw, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(raw, server_hostname="localhost")


def test_garbage_after_the_preface_is_a_close(server: ServerProcess, client: WireClient) -> None:
    answer = talk(server, b"\x89TWP\r\n\x1a\n" + b"\xaa" * 100)
    assert answer[4] == 15  # CLOSE


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(0xFFFFFFFF, 5, 0, 1, 1, 0, 0, 0, 0, 0),
        HEADER.pack(65536 + 1, 5, 0, 1, 1, 0, 0, 0, 0, 0),
        HEADER.pack(65537, 5, 0, 1, 1, 0, 0, 65537, 0, 0),
        HEADER.pack(4, 5, 0, 1, 1, 0, 0, 8, 0, 0),
        HEADER.pack(0, 5, 0, 1, 3, 0, 0, 0, 0, 0),
        HEADER.pack(0, 5, 0, 1, 2**64 - 1, 0, 0, 0, 0, 0),
        HEADER.pack(0, 5, 0, 1, 0, 0, 0, 0, 0, 0),
        HEADER.pack(0, 200, 0, 0, 1, 0, 0, 0, 0, 0),
        HEADER.pack(0, 5, 0, 0x8000, 1, 0, 0, 0, 0, 0),
        HEADER.pack(0, 5, 0, 1, 1, 0, 0, 0, 0, 7),
        HEADER.pack(0, 1, 0, 0, 0, 0, 0, 0, 0, 0),
    ],
    ids=["length", "inline", "meta", "overlap", "id-skip", "id-max", "id-0", "type", "flag", "reserved", "hello"],
)
def test_a_broken_header_closes_this_connection_with_a_reason(client: WireClient, header: bytes) -> None:
    client.socket.sendall(header)
    while client.closed is None and client.receive():
        pass
    assert client.closed is not None
    assert client.closed.remote
    assert client.closed.detail


def test_a_silent_peer_is_closed_after_the_handshake_timeout(server: ServerProcess, client: WireClient) -> None:
    began = time.monotonic()
    talk(server, b"")
    assert time.monotonic() - began < 5
    server.wait_metric("tensorwire_connections_pending", 0)


# -- clients that vanish


def test_a_client_that_vanishes_mid_body(server: ServerProcess, client: WireClient) -> None:
    x = np.zeros((4, ROW), np.float32)
    encoded = client.encoder.encode("blob", "", {"x": x})
    ext = pack_extension(dims=encoded.dims, body_length=encoded.body_length)
    with WireClient(server.address) as gone:
        meta = encoded.meta
        gone.socket.sendall(opening(1, meta, ext))
        gone.socket.sendall(HEADER.pack(65536, 6, 0, 2, 1, 0, 0, 0, 0, 0) + bytes(65536)[:1000])
        server.wait_metric("tensorwire_pool_used_bytes", 1 << 20)
    server.wait_metric("tensorwire_pool_used_bytes", 0)


def test_a_client_that_resets_mid_reply(server: ServerProcess, client: WireClient) -> None:
    x = np.zeros((4, ROW), np.float32)
    with WireClient(server.address) as gone:
        for _ in range(4):
            gone.open("blob", {"x": x})
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.wait_metric("tensorwire_pool_used_bytes", 0)


def test_a_client_that_never_reads_is_closed(server: ServerProcess, client: WireClient) -> None:
    before = server.metric("tensorwire_connections_dropped_total", reason="write_timeout")
    x = np.zeros((4, ROW), np.float32)
    with WireClient(server.address) as mute:
        mute.socket.settimeout(1.0)
        with contextlib.suppress(OSError):
            for _ in range(64):
                mute.open("blob", {"x": x})
        server.wait_metric("tensorwire_connections_dropped_total", before + 1, reason="write_timeout")


# -- models that misbehave


def test_a_model_that_raises(client: WireClient) -> None:
    ended = client.fail("raises", {"x": X})
    assert ended.status in (Status.UNKNOWN, Status.INTERNAL)
    assert not ended.not_started
    assert "ValueError" in ended.detail
    assert ended.detail.isprintable()
    still_works(client)


def test_a_model_that_returns_the_wrong_shape(client: WireClient) -> None:
    ended = client.fail("wrong", {"x": X})
    assert (ended.status, ended.not_started) == (Status.INTERNAL, False)
    for word in ("y", "2", "4"):
        assert word in ended.detail
    still_works(client)


def test_a_model_that_hangs_past_the_deadline(client: WireClient) -> None:
    began = time.monotonic()
    ended = client.fail("sleeps", {"x": np.array([[1.5]], np.float32)}, deadline=0.2)
    waited = time.monotonic() - began
    assert ended.status is Status.DEADLINE_EXCEEDED
    assert not ended.not_started
    assert 0.15 < waited < 1.0
    still_works(client)


def start_sleeping(server: ServerProcess, client: WireClient, seconds: float) -> int:
    """A call that keeps its model busy, begun for sure."""
    server.wait_metric("tensorwire_queue_depth", 0, model="sleeps")
    stream_id = client.open("sleeps", {"x": np.array([[seconds]], np.float32)})
    client.ping()
    server.wait_metric("tensorwire_queue_depth", 0, model="sleeps")
    return stream_id


def test_queued_work_expires_by_the_timer_and_not_when_its_turn_comes(
    server: ServerProcess, client: WireClient
) -> None:
    start_sleeping(server, client, 1.0)
    began = time.monotonic()
    ended = client.fail("sleeps", {"x": np.array([[0.0]], np.float32)}, deadline=0.1)
    assert ended.status is Status.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 0.7


def test_a_deadline_covers_the_time_the_body_takes(server: ServerProcess, client: WireClient) -> None:
    x = np.zeros((4, ROW), np.float32)
    encoded = client.encoder.encode("blob", "", {"x": x})
    ext, meta = pack_extension(dims=encoded.dims, body_length=encoded.body_length), encoded.meta
    with WireClient(server.address) as slow:
        slow.connection.open(b"", b"", [], 0, 1, 0, 0)  # the core counts a stream; its bytes are written by hand below
        slow.connection.data_to_send()
        slow.socket.sendall(opening(1, meta, ext, microseconds=200_000))
        ended = slow.ended(1)
        assert ended.status is Status.DEADLINE_EXCEEDED
        assert ended.not_started
        assert "body was received" in ended.detail
    server.wait_metric("tensorwire_pool_used_bytes", 0)


def test_cancel_ends_the_call_at_once_and_nobody_elses(server: ServerProcess, client: WireClient) -> None:
    before = server.metric("tensorwire_requests_total", model="sleeps", status="CANCELLED")
    first = start_sleeping(server, client, 1.0)
    second = client.open("sleeps", {"x": np.array([[0.0]], np.float32)})
    client.connection.cancel(second)
    client.flush()
    began = time.monotonic()
    while client.connection.open_streams > 1:
        assert client.receive()
    assert time.monotonic() - began < 0.5
    assert server.metric("tensorwire_requests_total", model="sleeps", status="CANCELLED") == before + 1
    assert client.reply(first).arrays["y"][0, 0] == 1.0
    assert client.outcomes.get(second) is None


@pytest.mark.parametrize("how", [9, 11], ids=["SIGKILL", "SIGSEGV"])
def test_a_model_that_kills_its_process(client: WireClient, how: int) -> None:
    wait_ready(client, "dies")
    ended = client.fail("dies", {"x": np.array([[how]], np.float32)})
    assert (ended.status, ended.not_started) == (Status.UNAVAILABLE, False)
    still_works(client)
    wait_ready(client, "dies")
    assert client.infer("dies", {"x": np.array([[0]], np.float32)})["y"][0, 0] == 0


def wait_ready(client: WireClient, model: str) -> None:
    """Until the model's process serves again."""
    end = time.monotonic() + 60
    while True:
        ended = client.outcome(client.open(model, {"x": np.array([[0]], np.float32)}))
        if not isinstance(ended, Ended):
            return
        assert (ended.status, ended.not_started) == (Status.UNAVAILABLE, True)
        assert time.monotonic() < end
        time.sleep(0.05)
