"""One real server for all attacks, and what is true after each: others were served, nothing is held, no traceback."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.integration.models import flat, write_models
from tests.support.server import ServerProcess, running_server, write_model
from tests.support.wire import WireClient

POOL = 64 << 20
BODY_TIMEOUT = 1.5
RSS_LIMIT = 420 << 20  # the pool, what the interpreter and its libraries take, and room
LOG_LIMIT = 256 << 10
LINE_LIMIT = 8192

FORMING = 64 << 10

X = np.arange(8, dtype=np.float32).reshape(2, 4)

WIDE = """
def build():
    return lambda inputs: {"y": inputs["x"][:, :1]}
"""
GROWS = """
import numpy as np
def build():
    return lambda inputs: {"y": np.zeros((len(inputs["x"]), 1 << 20), np.float32)}
"""
FILLS = """
import numpy as np
def build():
    return lambda inputs: {"y": np.full((len(inputs["x"]), 1 << 20), 1, np.float32)}
"""
SHOUTS = """
def build():
    def run(inputs):
        raise RuntimeError("\\x1b[2J\\r\\n" + "A" * (1 << 20))
    return run
"""
ANY = """
backend = "python"
engine = "inline"
max_batch = 8
warmup = false
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, -1]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, {columns}]
"""


class Target:
    """The server under attack, and what is measured about it."""

    def __init__(self, server: ServerProcess, log: Path) -> None:
        self.server = server
        self.log = log
        self.address = server.address
        self.pid = server.process.pid

    @property
    def rss(self) -> int:
        """Bytes of memory that are not shared: the pool is, and counts for itself."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(fields["VmRSS"].split()[0]) << 10

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - a count

    def metric(self, name: str, **labels: str) -> float:
        return self.server.metric("tensorwire_" + name, **labels)

    def wait(self, name: str, value: float, seconds: float = 10.0, **labels: str) -> None:
        self.server.wait_metric("tensorwire_" + name, value, seconds, **labels)

    def wait_pool(self, least: int, most: int, seconds: float = 5.0) -> None:
        """Wait until so many bytes of the pool are in use; beside them the bystander has one block of a few KiB."""
        end = time.monotonic() + seconds
        while not least <= (used := self.metric("pool_used_bytes")) <= most + FORMING:
            assert time.monotonic() < end, f"{used} bytes are in use, expected {least} to {most}"
            time.sleep(0.02)


class Bystander(threading.Thread):
    """Another client that works all the time: `times` of its calls in seconds, and the first error."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.client = WireClient(address)
        self.times: list[float] = []
        self.error: Exception | None = None
        self._enough = threading.Event()

    def run(self) -> None:
        try:
            while True:
                began = time.perf_counter()
                np.testing.assert_array_equal(self.client.infer("echo", {"x": X})["y"], X)
                self.times.append(time.perf_counter() - began)
                if self._enough.wait(0.002):
                    return
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        self._enough.set()
        self.join(30)
        self.client.socket.close()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    models = write_models(tmp_path_factory.mktemp("models"), processes=False)
    write_model(models, "wide", WIDE, ANY.format(columns=1))
    write_model(models, "grows", GROWS, ANY.format(columns=1 << 20))
    write_model(models, "fills", FILLS, ANY.format(columns=1 << 20))
    write_model(models, "shouts", SHOUTS, flat(warmup=False))
    log = tmp_path_factory.mktemp("log") / "server.log"
    limits = ("--body-timeout", str(BODY_TIMEOUT), "--write-timeout", "1", "--handshake-timeout", "1.5")
    with running_server(models, "--pool-bytes", str(POOL), "--log-format", "json", *limits, log=log) as server:
        target = Target(server, log)
        yield target
        target.wait("pool_used_bytes", 0)


@pytest.fixture(scope="module")
def target(running: Target) -> Iterator[Target]:
    """The server, for a module of attacks that are over at once."""
    with others_served(running):
        yield running


@contextmanager
def others_served(running: Target) -> Iterator[Bystander]:
    """During the attack everybody else is served, and after it everything that it took is back."""
    descriptors = running.descriptors
    bystander = Bystander(running.address)
    bystander.start()
    yield bystander
    bystander.finish()
    assert bystander.error is None
    assert bystander.times
    for name in ("calls", "connections", "connections_pending"):
        running.wait(name, 0)
    running.wait_pool(0, 0)
    assert running.descriptors <= descriptors + 2  # the admin page that asks has one
    assert running.rss < RSS_LIMIT
    check_log(running)


def check_log(target: Target) -> None:
    """Bounded, one JSON object a line, nothing raw of a peer's in it, and no exception but models'."""
    text = target.log.read_text(encoding="utf-8")
    assert len(text) < LOG_LIMIT
    for line in text.splitlines():
        assert len(line) < LINE_LIMIT
        assert line.isprintable()
        event = json.loads(line)
        by_model = event["part"] == "engine"
        assert by_model or (event["level"] in ("info", "warning") and "Traceback" not in line), line
