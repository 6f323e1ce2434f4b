"""The server as a process: how it starts, what it says about itself, how it drains, and what it records."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import tensorwire
from tensorwire.clients.errors import ResourceExhausted
from tensorwire.codec import DescribeRequest, Description, HealthReport, HealthRequest, ModelList, State
from tensorwire.protocol import Closed, Ended, FrameType, GoAway, Status, parse_extension
from tensorwire.protocol.capture import read_frames
from tests.integration.models import ECHO, MEAN, ROW, SLEEPS, flat
from tests.support.server import ServerProcess, running_server, write_model
from tests.support.wire import WireClient

pytestmark = pytest.mark.timeout(120)

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_model(folder, "echo", ECHO, flat())
    write_model(folder, "echo", ECHO, flat(), version="10")
    write_model(folder, "mean", MEAN, flat(ROW, 1, max_batch=4))
    write_model(folder, "sleeps", SLEEPS, flat(1, engine="process", max_batch=1, warmup=False))
    return folder


@pytest.fixture
def server(models: Path) -> Iterator[ServerProcess]:
    with running_server(models) as server:
        yield server


# -- starting


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "--host", "0.0.0.0"], ["tensorwire keys new", "--unix"]),
        (["models", "--port", "70000"], ["port", "65535"]),
        (["models", "--config", "none.toml"], ["none.toml", "does not exist"]),
        (["empty"], ["<name>/<version>/model.toml"]),
        (["models", "--no-tcp", "--admin-port", "0"], ["nothing to listen on", "--unix"]),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line(
    models: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-m", "tensorwire.server", *arguments, "--insecure", "--log-level", "error"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=_environment(), check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "broken", "raise RuntimeError('no weights')", flat())
    command = [sys.executable, "-m", "tensorwire.server", "models", "--insecure", "--port", "0", "--admin-port", "0"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=_environment(), check=False)
    assert result.returncode == 1
    assert "broken" in result.stderr
    assert "no weights" in result.stderr


def _environment() -> dict[str, str]:
    """Ours, with relative import paths made absolute: these servers run in another folder."""
    paths = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def test_auto_keeps_a_cheap_model_on_the_loop_and_moves_a_dear_one_away(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    write_model(folder, "cheap", ECHO, flat(engine="auto"))
    dear = ECHO.replace("lambda inputs:", "lambda inputs: __import__('time').sleep(0.002) or")
    write_model(folder, "dear", dear, flat(engine="auto"))
    with running_server(folder) as server, WireClient(server.address) as client:
        assert "cheap/1 (inline)" in server.ready
        assert "dear/1 (process)" in server.ready
        for name in ("cheap", "dear"):
            np.testing.assert_array_equal(client.infer(name, {"x": X})["y"], X)


def test_a_unix_socket_serves_the_same(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    with running_server(models, "--unix", str(path), "--no-tcp") as server:
        assert f"tw+unix://{path}" in server.ready
        with WireClient(str(path)) as client:
            np.testing.assert_array_equal(client.infer("echo", {"x": X})["y"], X)
            big = np.ones((4, ROW), np.float32)
            np.testing.assert_array_equal(client.infer("mean", {"x": big})["y"], np.ones((4, 1), np.float32))
        assert server.terminate() == 0
    assert not path.exists()


# -- what it says about itself


def test_models_are_listed(server: ServerProcess) -> None:
    with WireClient(server.address) as client:
        listed = ModelList.unpack(client.service_bytes("$models", b"\x80"))
    assert [(entry.model, entry.version) for entry in listed.models] == [
        ("echo", "1"),
        ("echo", "10"),
        ("mean", "1"),
        ("sleeps", "1"),
    ]


def test_a_model_is_described(server: ServerProcess) -> None:
    with WireClient(server.address) as client:
        described = Description.unpack(client.service_bytes("$describe", DescribeRequest("echo").pack()))
        assert (described.model, described.version, described.engine) == ("echo", "10", "inline")
        assert str(described.inputs[0]) == "float32[-1, 4]"
        ended = client.fail("$describe", {"payload": np.frombuffer(DescribeRequest("nope").pack(), np.uint8)})
        assert ended.status is Status.NOT_FOUND


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x93" * 100, b"\x81\xa5model\x01", b"\x80\x80", b"\xd4\x01\x01"], ids=len
)
def test_a_service_payload_that_is_none_is_refused(server: ServerProcess, payload: bytes) -> None:
    with WireClient(server.address) as client:
        ended = client.fail("$describe", {"payload": np.frombuffer(payload, np.uint8)})
        assert ended.status is Status.INVALID_ARGUMENT
        client.ping()


def test_health_is_watched_until_the_client_cancels(server: ServerProcess) -> None:
    request = {"payload": np.frombuffer(HealthRequest("sleeps", watch=True).pack(), np.uint8)}
    with WireClient(server.address) as client:
        watch = client.open("$health", request)
        assert _state(client, watch) is State.IDLE
        call = client.open("sleeps", {"x": np.array([[1.0]], np.float32)})
        assert _state(client, watch) is State.SERVING
        client.reply(call)
        assert _state(client, watch) is State.IDLE
        client.connection.cancel(watch)
        client.flush()
        while client.connection.open_streams:
            assert client.receive()
        client.ping()


def _state(client: WireClient, stream_id: int) -> State:
    reply = client.reply(stream_id)
    assert not reply.end_stream
    return HealthReport.unpack(reply.arrays["payload"].tobytes()).models[0].state


def test_health_of_everything(server: ServerProcess) -> None:
    with WireClient(server.address) as client:
        report = HealthReport.unpack(client.service_bytes("$health", HealthRequest().pack()))
    assert {health.state for health in report.models} == {State.IDLE}
    assert len(report.models) == 4


def test_the_admin_port_tells_the_same(server: ServerProcess) -> None:
    with WireClient(server.address) as client:
        for _ in range(3):
            client.infer("echo", {"x": X})
        assert server.metric("tensorwire_requests_total", model="echo", version="10", status="OK") == 3
        assert server.metric("tensorwire_batch_rows_sum", model="echo", version="10") == 6
        assert server.metric("tensorwire_signature_cache_hits_total") == 2
        assert server.metric("tensorwire_connections") == 1
    assert server.page("/healthz") == "ok\n"
    assert "sleeps/1 idle" in server.page("/readyz")
    assert [model["engine"] for model in json.loads(server.page("/models"))] == ["inline"] * 3 + ["process"]


def test_who_calls_again_at_once_finds_the_server_awake_which_then_sleeps(models: Path) -> None:
    with running_server(models) as server, tensorwire.connect("tw://{}:{}".format(*server.address)) as client:
        for _ in range(2000):
            client.infer("echo", {"x": X})
        assert server.metric("tensorwire_spin_seconds_total") > 0.0
        process = psutil.Process(server.process.pid)
        before = process.cpu_times()
        time.sleep(1.0)
        after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.2, "nobody calls: nothing is looked for"


def test_a_server_told_not_to_spin_does_not(models: Path) -> None:
    with running_server(models, "--spin", "0") as server, WireClient(server.address) as client:
        for _ in range(100):
            client.infer("echo", {"x": X})
        assert server.metric("tensorwire_spin_seconds_total") == 0.0


def test_frames_are_recorded_for_decode(models: Path, tmp_path: Path) -> None:
    capture = tmp_path / "frames.twcap"
    with running_server(models, "--capture", str(capture)) as server:
        with WireClient(server.address) as client:
            client.infer("echo", {"x": X})
            client.infer("mean", {"x": np.ones((1, ROW), np.float32)})
            name = client.connection.connection_id
        assert server.terminate() == 0
    with capture.open("rb") as file:
        frames = [frame for frame in read_frames(file) if frame.connection_id == name]
    kinds = [(frame.received, frame.header[1]) for frame in frames if frame.header is not None]
    assert kinds.count((True, FrameType.OPEN)) == 2
    assert kinds.count((True, FrameType.DATA)) == 1  # the one chunk of the second call
    assert kinds.count((False, FrameType.DATA)) == 2


# -- limits of connections


def test_a_pool_that_is_no_power_of_two_takes_every_body_up_to_half_of_it_and_names_that_limit(tmp_path: Path) -> None:
    write_model(tmp_path, "mean", MEAN, flat(-1, 1, max_batch=4, warmup=False))
    with (
        running_server(tmp_path, "--pool-bytes", "96MiB") as server,
        tensorwire.connect("tw://{}:{}".format(*server.address)) as client,
    ):
        for mebibytes in (31, 33, 40, 48, 48):
            x = np.ones((1, mebibytes << 18), np.float32)
            assert client.infer("mean", {"x": x}, deadline=60.0)["y"].tolist() == [[1.0]]
        with pytest.raises(ResourceExhausted, match=f"at most {48 << 20} are accepted"):
            client.infer("mean", {"x": np.ones((1, (48 << 18) + 1), np.float32)}, deadline=60.0)


def test_connections_above_the_limit_are_closed_and_the_others_stay(models: Path) -> None:
    with running_server(models, "--max-connections", "3") as server:
        clients = [WireClient(server.address) for _ in range(3)]
        with pytest.raises((ConnectionError, OSError)):
            WireClient(server.address)
        for client in clients:
            client.infer("echo", {"x": X})
            client.socket.close()
        server.wait_metric("tensorwire_connections", 0)
        with WireClient(server.address) as client:
            client.infer("echo", {"x": X})


def test_silent_connections_do_not_keep_others_out_for_long(models: Path) -> None:
    with (
        running_server(models, "--max-pending", "8", "--handshake-timeout", "0.5") as server,
        contextlib.ExitStack() as s,
    ):
        with WireClient(server.address) as client:
            silent = [s.enter_context(contextlib.closing(_connect(server))) for _ in range(50)]
            client.infer("echo", {"x": X})
            server.wait_metric("tensorwire_connections_pending", 0)
            client.infer("echo", {"x": X})
        with WireClient(server.address) as client:
            client.infer("echo", {"x": X})
        assert len(silent) == 50


def _connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(server.address, timeout=10)


# -- busy


STEADY = """
import time
def build():
    def run(inputs):
        time.sleep(0.01)
        return {"y": inputs["x"]}
    return run
"""


def test_a_call_that_must_be_late_is_refused_at_the_door(tmp_path: Path) -> None:
    write_model(tmp_path / "models", "steady", STEADY, flat(1, engine="process", max_batch=1, warmup=False))
    x = {"x": np.zeros((1, 1), np.float32)}
    with running_server(tmp_path / "models") as server, WireClient(server.address) as client:
        for _ in range(50):
            client.infer("steady", x)
        waiting = [client.open("steady", x) for _ in range(40)]
        began = time.monotonic()
        ended = client.fail("steady", x, deadline=0.2)
        waited = time.monotonic() - began
        assert (ended.status, ended.not_started) == (Status.DEADLINE_EXCEEDED, True)
        assert waited < 0.15
        assert "would be late" in ended.detail
        estimate = parse_extension(ended.ext).queue_estimate
        assert estimate is not None
        assert 100_000 < estimate < 2_000_000
        client.infer("steady", x, deadline=30.0)
        for stream_id in waiting:
            client.reply(stream_id)


UPLOADS = """
import sys
import numpy as np
import tensorwire
with tensorwire.connect(sys.argv[1]) as client:
    for _ in range(200):
        client.infer("mean", {"x": np.ones((4, int(sys.argv[2])), np.float32)})
"""


def test_big_uploads_do_not_hold_up_another_connection(server: ServerProcess) -> None:
    """The uploader is a process: in a thread it would be the interpreter lock that is tested."""
    url = "tw://{}:{}".format(*server.address)
    with WireClient(server.address) as client:
        uploader = subprocess.Popen([sys.executable, "-c", UPLOADS, url, str(ROW)])
        calls = 0
        while uploader.poll() is None:
            client.infer("echo", {"x": X})
            calls += 1
    assert uploader.returncode == 0
    assert calls > 200  # held up by whole uploads it would be heard about once in each


# -- draining


class Load(threading.Thread):
    """Calls the echo model one after another on its own connection until the server says goodbye."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__()
        self.client = WireClient(server.address)
        self.sent = 0
        self.answered = 0
        self.not_started = 0
        self.lost = 0

    def run(self) -> None:
        window: list[int] = []
        goaway = False
        client = self.client
        while client.closed is None and not (goaway and not window):
            if not goaway:
                with contextlib.suppress(Exception):
                    window.append(client.open("echo", {"x": np.full((1, 4), self.sent, np.float32)}))
                    self.sent += 1
            if len(window) < 8 and not goaway:
                continue
            if not client.receive():
                break
            goaway = goaway or any(isinstance(event, GoAway) for event in client.events)
            window = [stream_id for stream_id in window if not self._settled(stream_id)]
        for stream_id in window:
            self.lost += not self._settled(stream_id)
        client.socket.close()

    def _settled(self, stream_id: int) -> bool:
        if not self.client.outcomes.get(stream_id):
            return False
        outcome = self.client.outcomes.pop(stream_id)[0]
        if isinstance(outcome, Ended):
            assert outcome.not_started, outcome.detail
            self.not_started += 1
        else:
            self.answered += 1
        return True


def test_draining_under_load_loses_no_call(models: Path) -> None:
    with running_server(models) as server:
        loads = [Load(server) for _ in range(3)]
        for load in loads:
            load.start()
        time.sleep(0.5)
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 10
        for load in loads:
            load.join(30)
            assert not load.is_alive()
            assert load.lost == 0
            assert load.answered + load.not_started == load.sent
            assert load.answered > 50


def test_a_call_in_flight_is_finished_while_draining(server: ServerProcess) -> None:
    with WireClient(server.address) as client:
        call = client.open("sleeps", {"x": np.array([[1.0]], np.float32)})
        client.ping()
        server.process.send_signal(signal.SIGTERM)
        client.wait_for(GoAway)
        with pytest.raises(OSError):
            WireClient(server.address)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            server.page("/readyz")
        assert client.reply(call).arrays["y"][0, 0] == 1.0
        closed = client.wait_for(Closed)
        assert isinstance(closed, Closed)
        assert closed.code == 0
    assert server.process.wait(20) == 0


def test_a_call_that_does_not_end_is_cut_off_at_the_drain_timeout(models: Path) -> None:
    with running_server(models, "--drain-timeout", "0.5") as server, WireClient(server.address) as client:
        client.open("sleeps", {"x": np.array([[30.0]], np.float32)})
        client.ping()
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 10


def test_a_second_signal_ends_at_once(server: ServerProcess) -> None:
    with WireClient(server.address) as client:
        client.open("sleeps", {"x": np.array([[30.0]], np.float32)})
        client.ping()
        server.process.send_signal(signal.SIGTERM)
        client.wait_for(GoAway)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(5) == 128 + signal.SIGINT


def test_idle_connections_do_not_hold_the_drain_up(server: ServerProcess) -> None:
    with WireClient(server.address), WireClient(server.address):
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 5
