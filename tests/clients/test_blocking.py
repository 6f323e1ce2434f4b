"""The blocking client over real sockets: threads, deadlines, lost servers, forks, big bodies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import tensorwire
from tensorwire.clients.blocking import Client
from tensorwire.clients.errors import (
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    ForkedClient,
    InvalidInput,
    LocalCancelled,
    LocalDeadlineExceeded,
    NotFound,
)
from tensorwire.codec import Health, HealthReport, State
from tensorwire.protocol import FrameType, Message, Status, pack_extension
from tensorwire.protocol.capture import read_frames
from tests.support.peer import Peer, PeerConnection, echo, silent

X = np.arange(16, dtype=np.float32).reshape(1, 16)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["tcp", "unix"])
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    with Peer(unix=tmp_path / "s" if request.param == "unix" else None) as made:
        yield made


@pytest.fixture
def client(peer: Peer) -> Iterator[Client]:
    with tensorwire.connect(peer.url) as made:
        yield made


def reply_when(event: threading.Event, connection: PeerConnection, message: Message) -> None:
    message.body = memoryview(bytes(message.body))

    def wait() -> None:
        event.wait(10)
        connection.reply(message)

    threading.Thread(target=wait).start()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_a_call_comes_back(client: Client) -> None:
    result = client.infer("m", {"x": X})
    np.testing.assert_array_equal(result["x"], X)
    assert result.timing is None
    assert not result["x"].flags.writeable


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 100_000, 5_000_000])
def test_bodies_of_every_size_come_back(client: Client, size: int) -> None:
    array = np.random.default_rng(0).random(size, dtype=np.float32)
    np.testing.assert_array_equal(client.infer("m", {"x": array})["x"], array)


def test_many_inputs_of_many_kinds_come_back(client: Client) -> None:
    inputs = {
        "a": X,
        "b": np.array(3.5),
        "c": np.zeros((0, 4), np.int64),
        "d": np.array(["Grüße", "", "x" * 1000], dtype=object),
        "e": np.arange(100_000).reshape(2, -1),
        "f": X.T,
    }
    result = client.infer("m", inputs)
    for name, array in inputs.items():
        np.testing.assert_array_equal(result[name], array)


def test_small_replies_outlive_the_receive_buffer(client: Client) -> None:
    kept = [client.infer("m", {"x": X + n})["x"] for n in range(50)]
    for n, array in enumerate(kept):
        np.testing.assert_array_equal(array, X + n)


def test_pipelined_calls_come_back_in_any_order_of_asking(client: Client) -> None:
    calls = [client.submit("m", {"x": X + n}) for n in range(64)]
    for n in reversed(range(64)):
        np.testing.assert_array_equal(calls[n].result()["x"], X + n)
    assert all(call.done() for call in calls)
    assert calls[0].result() is calls[0].result()


def test_two_full_pipes_do_not_block_each_other(client: Client) -> None:
    big = np.ones(1_000_000, np.float32)
    calls = [client.submit("m", {"x": big * n}) for n in range(8)]
    for n, call in enumerate(calls):
        assert call.result()["x"][-1] == n


def test_threads_share_a_client(client: Client) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(100):
                value = X + number * 1000 + n
                np.testing.assert_array_equal(client.infer("m", {"x": value})["x"], value)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in threads)


def test_threads_may_wait_for_the_same_call() -> None:
    release = threading.Event()

    def later(connection: PeerConnection, message: Message) -> None:
        reply_when(release, connection, message)

    with Peer(later) as peer, tensorwire.connect(peer.url) as client:
        call = client.submit("m", {"x": X})
        results: list[object] = []
        threads = [threading.Thread(target=lambda: results.append(call.result())) for _ in range(4)]
        for thread in threads:
            thread.start()
        release.set()
        for thread in threads:
            thread.join(10)
        assert len(results) == 4


def test_a_follower_is_not_held_up_by_the_leader() -> None:
    held: list[tuple[PeerConnection, Message]] = []

    def hold_first(connection: PeerConnection, message: Message) -> None:
        if message.stream_id in {1, 12}:
            message.body = memoryview(bytes(message.body))
            held.append((connection, message))
        else:
            echo(connection, message)

    with Peer(hold_first) as peer, tensorwire.connect(peer.url) as client:
        leader = threading.Thread(target=lambda: client.infer("m", {"x": X}))
        leader.start()
        while not held:
            threading.Event().wait(0.001)
        for _ in range(10):
            client.infer("m", {"x": X}, deadline=5.0)
        with pytest.raises(LocalDeadlineExceeded):
            client.infer("m", {"x": X}, deadline=0.01)
        connection, message = held[0]
        connection.reply(message)
        leader.join(10)
        assert not leader.is_alive()


def test_the_lead_is_passed_on() -> None:
    def reply_late(connection: PeerConnection, message: Message) -> None:
        message.body = memoryview(bytes(message.body))
        threading.Timer(0.02 * message.stream_id, connection.reply, (message,)).start()

    with Peer(reply_late) as peer, tensorwire.connect(peer.url) as client:
        threads = [threading.Thread(target=lambda: client.infer("m", {"x": X}, deadline=10.0)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("spin", [0.0001, 5.0])
def test_a_client_that_spins_gets_the_same_answers(peer: Peer, spin: float) -> None:
    """Whether the reply comes while it asks (5 s) or after it went to sleep (0.1 ms at a reply held back)."""
    with tensorwire.connect(peer.url, spin=spin) as client:
        for size in (1, 100, 100_000, 1_000_000):
            array = np.arange(size, dtype=np.float32)
            np.testing.assert_array_equal(client.infer("m", {"x": array})["x"], array)


def test_a_client_that_spins_sleeps_when_the_reply_takes_longer() -> None:
    release = threading.Event()

    def later(connection: PeerConnection, message: Message) -> None:
        threading.Timer(0.05, release.set).start()
        reply_when(release, connection, message)

    with Peer(later) as peer, tensorwire.connect(peer.url, spin=0.0001) as client:
        np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)


@pytest.mark.parametrize("spin", [0.001, 30.0])
def test_a_client_that_spins_keeps_its_deadline(spin: float) -> None:
    with Peer(silent) as peer, tensorwire.connect(peer.url, spin=spin) as client:
        before = time.monotonic()
        with pytest.raises(LocalDeadlineExceeded):
            client.infer("m", {"x": X}, deadline=0.1)
        assert 0.1 <= time.monotonic() - before < 1.1


@pytest.mark.parametrize("deadline", [0.005, 0.1])
def test_a_deadline_passes_in_time_and_the_server_is_told(deadline: float) -> None:
    with Peer(silent) as peer, tensorwire.connect(peer.url) as client:
        before = time.monotonic()
        with pytest.raises(LocalDeadlineExceeded) as caught:
            client.infer("m", {"x": X}, deadline=deadline)
        assert deadline <= time.monotonic() - before < deadline + 1.0
        assert caught.value.request_id.endswith("-1")
        client.ping(deadline=5.0)
        assert peer.connection().cancelled == [1]


def test_a_result_timeout_leaves_the_call_going() -> None:
    release = threading.Event()

    def later(connection: PeerConnection, message: Message) -> None:
        reply_when(release, connection, message)

    with Peer(later) as peer, tensorwire.connect(peer.url) as client:
        call = client.submit("m", {"x": X})
        with pytest.raises(TimeoutError, match="goes on"):
            call.result(timeout=0.01)
        release.set()
        np.testing.assert_array_equal(call.result(timeout=10)["x"], X)


def test_a_cancelled_call_says_so_and_the_server_is_told() -> None:
    with Peer(silent) as peer, tensorwire.connect(peer.url) as client:
        call = client.submit("m", {"x": X})
        assert call.cancel()
        assert not call.cancel()
        with pytest.raises(LocalCancelled):
            call.result()
        client.ping(deadline=5.0)
        assert peer.connection().cancelled == [1]


def test_a_status_is_raised_and_the_connection_lives_on() -> None:
    def refuse(connection: PeerConnection, message: Message) -> None:
        if message.stream_id == 1:
            connection.end(1, Status.NOT_FOUND, "no model 'm'")
        else:
            echo(connection, message)

    with Peer(refuse) as peer, tensorwire.connect(peer.url) as client:
        with pytest.raises(NotFound, match="no model 'm'"):
            client.infer("m", {"x": X})
        client.infer("m", {"x": X})
        assert len(peer.connections) == 1


@pytest.mark.parametrize("how", ["vanish", "hang_up"])
def test_a_server_that_disappears_under_a_call_leaves_it_unknown_and_is_dialled_again(how: str) -> None:
    def disappear(connection: PeerConnection, message: Message) -> None:
        if connection.number == 1:
            getattr(connection, how)()
        else:
            echo(connection, message)

    with Peer(disappear) as peer, tensorwire.connect(peer.url) as client:
        with pytest.raises(ConnectionLost) as caught:
            client.infer("m", {"x": X})
        assert not caught.value.not_started
        np.testing.assert_array_equal(client.infer("m", {"x": X})["x"], X)
        assert len(peer.connections) == 2


def test_a_server_that_disappears_in_the_middle_of_a_big_reply_is_never_success() -> None:
    def half(connection: PeerConnection, message: Message) -> None:
        connection.connection.send(
            message.stream_id,
            message.meta,
            pack_extension(dims=(1_000_000).to_bytes(8, "little")),
            [message.body],
            len(message.body),
        )
        sent = 0
        for buffer in connection.connection.data_to_send():
            if sent < 1_000_000:
                connection.sock.sendall(buffer)
                sent += len(buffer)
        connection.vanish()

    with Peer(half) as peer, tensorwire.connect(peer.url) as client, pytest.raises(ConnectionLost):
        client.infer("m", {"x": np.zeros(1_000_000, np.float32)})


def test_a_connection_lost_while_idle_costs_no_call(peer: Peer) -> None:
    with tensorwire.connect(peer.url) as client:
        client.infer("m", {"x": X})
        peer.connection(0).hang_up()
        peer.connection(0).closed.wait(5)
        threading.Event().wait(0.02)
        client.infer("m", {"x": X})
        assert len(peer.connections) == 2


def test_goaway_moves_calls_that_did_not_start_to_a_new_connection() -> None:
    def turn_away(connection: PeerConnection, message: Message) -> None:
        if connection.number == 1:
            connection.goaway(0, "restart")
        else:
            echo(connection, message)

    with Peer(turn_away) as peer, tensorwire.connect(peer.url) as client:
        np.testing.assert_array_equal(client.infer("m", {"x": X}, deadline=5.0)["x"], X)
        assert len(peer.connections) == 2


def test_a_refused_connection_is_told_with_what_to_do() -> None:
    with pytest.raises(ConnectFailed, match="is the server running"):
        tensorwire.connect(f"tw://127.0.0.1:{free_port()}", timeout=5.0)
    with pytest.raises(ConnectFailed, match="is the server running"):
        tensorwire.connect("tw+unix:///nonexistent/socket", timeout=5.0)


def test_a_server_that_accepts_and_says_nothing_fails_within_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = time.monotonic()
        with pytest.raises(ConnectFailed):
            tensorwire.connect(f"tw://127.0.0.1:{listener.getsockname()[1]}", timeout=0.1)
        assert time.monotonic() - before < 3.0


def test_a_server_that_speaks_something_else_fails_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            sock.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectFailed):
            tensorwire.connect(f"tw://127.0.0.1:{listener.getsockname()[1]}", timeout=5.0)
        thread.join()


def test_wait_for_ready_waits_for_a_server_that_comes_up_later() -> None:
    port = free_port()
    made: list[Peer] = []
    timer = threading.Timer(0.15, lambda: made.append(Peer(port=port)))
    timer.start()
    try:
        with tensorwire.connect(f"tw://127.0.0.1:{port}", wait_for_ready=True, timeout=10.0) as client:
            client.infer("m", {"x": X})
    finally:
        timer.join()
        made[0].close()


def test_wait_for_ready_gives_up_at_its_timeout() -> None:
    with pytest.raises(ConnectFailed, match="refused"):
        tensorwire.connect(f"tw://127.0.0.1:{free_port()}", wait_for_ready=True, timeout=0.2)


def test_a_closed_client_refuses(peer: Peer) -> None:
    client = tensorwire.connect(peer.url)
    call = client.submit("m", {"x": X})
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.infer("m", {"x": X})
    with suppress(ClientClosed):
        call.result()


def test_close_wakes_a_thread_that_waits() -> None:
    with Peer(silent) as peer:
        client = tensorwire.connect(peer.url)
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                client.infer("m", {"x": X})
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=wait) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(peer.connection().messages) < 3:
            threading.Event().wait(0.001)
        client.close()
        for thread in threads:
            thread.join(10)
        assert [type(error) for error in errors] == [ClientClosed] * 3


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_client_refuses_to_be_used_across_a_fork(client: Client) -> None:
    client.infer("m", {"x": X})
    child = os.fork()
    if child == 0:
        code = 1
        try:
            client.infer("m", {"x": X})
        except ForkedClient:
            client.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    client.infer("m", {"x": X})


def test_an_input_that_cannot_be_sent_is_refused_before_anything_is(client: Client) -> None:
    with pytest.raises(InvalidInput):
        client.infer("m", {"x": object()})
    client.infer("m", {"x": X})


def test_ping_takes_a_while_and_no_model(client: Client) -> None:
    assert 0.0 < client.ping() < 5.0


def test_health_is_watched_as_a_stream() -> None:
    reports = [HealthReport((Health("m", "1", state),)) for state in (State.IDLE, State.SERVING)]

    def watch(connection: PeerConnection, message: Message) -> None:
        from tensorwire.codec import Encoder

        for report in reports:
            encoded = Encoder().encode("$health", "", {"payload": np.frombuffer(report.pack(), np.uint8)})
            ext = b"\x01\x08" + encoded.dims
            connection.send(message.stream_id, encoded.meta, ext, b"".join(encoded.buffers), flags=0)

    with Peer(watch) as peer, tensorwire.connect(peer.url) as client:
        stream = client.watch_health("m")
        assert [next(stream), next(stream)] == reports
        stream.close()
        client.ping(deadline=5.0)
        assert peer.connection().cancelled == [1]


def test_a_capture_holds_every_frame_of_every_connection(tmp_path: Path) -> None:
    with Peer() as peer, tensorwire.connect(peer.url, capture=tmp_path / "capture") as client:
        client.infer("m", {"x": X})
        peer.connection(0).hang_up()
        peer.connection(0).closed.wait(5)
        threading.Event().wait(0.02)
        client.infer("m", {"x": np.zeros(100_000)})
    with (tmp_path / "capture").open("rb") as file:
        frames = [frame for frame in read_frames(file) if frame.header is not None]
    first = [(f.received, f.header[1]) for f in frames if f.connection_id == bytes(8) and f.header]
    second = [(f.received, f.header[1]) for f in frames if f.connection_id == bytes(7) + b"\x01" and f.header]
    handshake = [(False, FrameType.HELLO), (True, FrameType.WELCOME), (False, FrameType.AUTH), (True, FrameType.READY)]
    assert first == [*handshake, (False, FrameType.OPEN), (True, FrameType.DATA)]
    assert second[:5] == [*handshake, (False, FrameType.OPEN)]
    assert second[-1] == (False, FrameType.CLOSE)


def run_python(code: str, pycache: Path) -> str:
    """What ``code`` prints in a fresh interpreter; byte code is kept, as in an installation, but not in this tree."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONPYCACHEPREFIX": str(pycache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def test_the_client_is_thin(tmp_path: Path) -> None:
    heavy = {
        "torch", "asyncio", "uvloop", "cupy", "click", "pydantic", "tensorwire.server", "tensorwire.gpu",
        # These are loaded where they are needed.
        "cryptography", "ssl", "base64", "ml_dtypes", "msgpack", "pathlib", "urllib.parse", "difflib", "email",
        "tensorwire.codec.service", "tensorwire.protocol.capture",
    }  # fmt: skip
    code = f"import sys, tensorwire; tensorwire.connect; print(sorted({heavy!r} & set(sys.modules)))"
    assert run_python(code, tmp_path).strip() == "[]"


def test_importing_the_client_costs_less_than_half_of_importing_numpy(tmp_path: Path) -> None:
    # CPU time, numpy as the measure in the same process, the best of several: neither a slow machine nor other work on
    # it may decide. (Here: a fifth.)
    code = (
        "from time import process_time as now; a = now(); import numpy; b = now(); "
        "import tensorwire; tensorwire.connect; c = now(); print((c - b) / (b - a))"
    )
    assert min(float(run_python(code, tmp_path)) for _ in range(6)) < 0.5


def test_kinds_of_ml_dtypes_need_no_import_by_the_caller(tmp_path: Path) -> None:
    code = (
        "import sys; from tensorwire.codec import dtype_by_name; before = 'ml_dtypes' in sys.modules; "
        "print(before, dtype_by_name('bfloat16').numpy)"
    )
    assert run_python(code, tmp_path).split() == ["False", "bfloat16"]
