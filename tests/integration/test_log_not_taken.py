"""A log or an output that nobody takes (reader gone, slow, disk full) costs lines, which are counted, and no call."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.models import ECHO, flat
from tests.support.server import ServerProcess, write_model
from tests.support.wire import WireClient

pytestmark = pytest.mark.timeout(120)

X = np.arange(8, dtype=np.float32).reshape(2, 4)
FULL = Path("/dev/full")
PRINTS = """
def build():
    def run(inputs):
        print("<" + "x" * 400 + ">")
        return {"y": inputs["x"]}
    return run
"""
LOST = "tensorwire_log_lines_lost_total"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_model(folder, "echo", ECHO, flat())
    write_model(folder, "away", PRINTS, flat(engine="process", warmup=False))
    write_model(folder, "here", PRINTS, flat(engine="inline", warmup=False))
    return folder


@contextlib.contextmanager
def server(models: Path, stdout: Any, stderr: Any, *flags: str) -> Iterator[ServerProcess]:
    """A server on a Unix socket with these descriptors; it is ready when its socket is there."""
    path = models.parent / "socket"
    command = [sys.executable, "-m", "tensorwire.server", str(models), "--insecure", "--no-tcp", "--unix", str(path)]
    with socket.create_server(("127.0.0.1", 0)) as port:  # its ready line may be lost: the port is chosen here
        admin = port.getsockname()[1]
    command += ["--admin-port", str(admin), *flags]
    process = subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True)
    try:
        running = ServerProcess(process, f"http://127.0.0.1:{admin}")
        for _ in range(600):
            with contextlib.suppress(OSError):
                running.page("/readyz")
                break
            assert process.poll() is None, f"it ended with {process.returncode}"
            signal.sigtimedwait([], 0.1)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def provoke_a_line(models: Path) -> None:
    """A stranger's bytes are told in the log."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(models.parent / "socket"))
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 4)
        stranger.recv(4096)
        with contextlib.suppress(ConnectionError):
            stranger.recv(4096)


def calls_go_on(models: Path, *names: str) -> None:
    with WireClient(str(models.parent / "socket")) as client:
        for name in names or ("echo",):
            np.testing.assert_array_equal(client.infer(name, {"x": X})["y"], X)


def test_the_reader_of_the_log_is_gone(models: Path) -> None:
    reading, writing = os.pipe()
    with server(models, subprocess.DEVNULL, writing) as running:
        os.close(writing)
        os.close(reading)
        for _ in range(3):
            provoke_a_line(models)
            calls_go_on(models, "echo", "away", "here")
        assert running.metric(LOST) >= 3
        assert running.terminate() == 0


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("which", ["log", "output", "both"])
def test_the_disk_of_the_log_or_of_the_output_is_full(models: Path, which: str) -> None:
    with FULL.open("wb") as full:
        stdout = subprocess.DEVNULL if which == "log" else full
        with server(models, stdout, subprocess.DEVNULL if which == "output" else full) as running:
            provoke_a_line(models)
            calls_go_on(models, "echo", "away", "here")
            assert (running.metric(LOST) > 0) == (which != "output")
            assert running.terminate() == 0


def test_a_reader_that_does_not_read_keeps_nobody_waiting_and_loses_nothing_that_there_is_room_for(
    models: Path,
) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with server(models, writing, writing) as running:
        os.close(writing)
        for _ in range(20):
            calls_go_on(models, "echo", "away", "here")
            provoke_a_line(models)
        assert running.metric(LOST) == 0
        running.process.send_signal(signal.SIGTERM)
        with os.fdopen(reading, encoding="utf-8") as log:
            lines = log.read().splitlines()
        assert running.process.wait(30) == 0
    events = [json.loads(line)["event"] for line in lines if not line.startswith("tensorwire ")]
    assert len([event for event in events if "x" * 400 in event]) == 40
    assert events[-1] == "stopped"


def test_a_start_that_fails_fails_with_its_code_where_nobody_can_be_told(tmp_path: Path) -> None:
    with FULL.open("wb") as full:
        command = [sys.executable, "-m", "tensorwire.server", str(tmp_path / "none"), "--insecure"]
        assert subprocess.run(command, stdout=full, stderr=full, check=False).returncode == 1


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
def test_a_capture_that_the_disk_does_not_take_ends_and_calls_go_on(models: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr, server(models, subprocess.DEVNULL, stderr, "--capture", str(FULL)) as running:
        for _ in range(2):
            calls_go_on(models)
            with WireClient(str(models.parent / "socket")) as client:
                for _ in range(200):
                    client.infer("echo", {"x": X})
        assert running.terminate() == 0
    assert log.read_text().count("capture cannot be written") == 1
    assert "Traceback" not in log.read_text()


def test_standard_descriptors_that_are_closed_do_not_become_sockets(models: Path) -> None:
    reading, writing = os.pipe()
    shell = ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", sys.executable, "-m", "tensorwire.server", str(models)]
    path = models.parent / "socket"
    command = [*shell, "--insecure", "--no-tcp", "--unix", str(path), "--no-admin"]
    process = subprocess.Popen(command, pass_fds=[writing])
    os.close(writing)
    try:
        while not path.exists():
            assert process.poll() is None
            signal.sigtimedwait([], 0.1)
        calls_go_on(models, "echo", "away", "here")
        for number in (0, 1, 2):
            assert Path(f"/proc/{process.pid}/fd/{number}").readlink() == Path(os.devnull)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        os.close(reading)
        process.kill()
        process.wait()
