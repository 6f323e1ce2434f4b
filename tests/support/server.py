"""A real server process for tests: models written to a folder, one line read when it is ready, counts read by HTTP."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

START_TIMEOUT = 120.0


def write_model(folder: Path, name: str, code: str, description: str, version: str = "1") -> None:
    """One model folder: `code` is its model.py, `description` its model.toml."""
    place = folder / name / version
    place.mkdir(parents=True)
    (place / "model.py").write_text(textwrap.dedent(code))
    (place / "model.toml").write_text(textwrap.dedent(description))


class ServerProcess:
    """A running server. `address` is (host, port)."""

    def __init__(self, process: subprocess.Popen[str], ready: str) -> None:
        self.process = process
        self.ready = ready
        match = re.search(r"tw://([\d.]+):(\d+)", ready)
        admin = re.search(r"http://[\d.]+:\d+", ready)
        self.address = (match[1], int(match[2])) if match else ("", 0)
        self.admin = admin[0] if admin else ""

    def page(self, path: str) -> str:
        """One admin page."""
        with urllib.request.urlopen(self.admin + path, timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """One value of /metrics, 0.0 if it is not there."""
        for line in self.page("/metrics").splitlines():
            key, _, value = line.rpartition(" ")
            if key.partition("{")[0] == name and all(f'{k}="{v}"' in key for k, v in labels.items()):
                return float(value)
        return 0.0

    def wait_metric(self, name: str, expected: float, seconds: float = 20.0, **labels: str) -> None:
        """Wait until a value is what is expected; what frees memory may take a turn of the loop."""
        end = time.monotonic() + seconds
        while (value := self.metric(name, **labels)) != expected:
            assert time.monotonic() < end, f"{name} is {value}, expected {expected}"
            time.sleep(0.05)

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextlib.contextmanager
def running_server(
    models: Path, *flags: str, env: dict[str, str] | None = None, log: Path | None = None
) -> Iterator[ServerProcess]:
    """A server on a free port, stopped at the end. Its log goes to stderr, which pytest shows if a test fails, or to a
    file. Without --keys it takes everybody.
    """
    access = [] if "--keys" in flags else ["--insecure"]
    ports = ["--port", "0", "--admin-port", "0"]
    command = [sys.executable, "-m", "tensorwire.server", str(models), *ports, *access, *flags]
    with contextlib.ExitStack() as files:
        stderr = None if log is None else files.enter_context(log.open("wb"))
        environment = {**os.environ, **(env or {})}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready, f"the server did not start: exit code {process.wait(START_TIMEOUT)}"
        yield ServerProcess(process, ready)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
