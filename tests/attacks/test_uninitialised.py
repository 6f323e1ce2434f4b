"""No byte of a reply is memory that nobody wrote, or that another caller did.

The allocator of the server fills what it hands out and what it takes back with a pattern, the pool is full of another
caller's bytes, and every byte that the server sends is searched for either.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from tests.attacks.peer import AUTH, LIMIT, PING, call, frame, greeting, metadata, service
from tests.integration.models import ECHO, TWO, TWO_DESCRIPTION, flat
from tests.support.server import ServerProcess, running_server, write_model
from tests.support.wire import Reply, WireClient

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("uninitialised")]

FREED = 0x55
FRESH = FREED ^ 0xFF
SECRET = b"another caller's"
PATTERNS = (bytes([FREED]) * 8, bytes([FRESH]) * 8, SECRET[:8])
WIDE = 65536

THREE = """
import numpy as np
def build():
    return lambda inputs: {
        "a": inputs["x"][:, :1].copy(), "b": (inputs["x"][:, :3] > 0), "c": inputs["x"].astype(np.float64)
    }
"""
THREE_DESCRIPTION = """
backend = "python"
engine = "{engine}"
max_batch = 4
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 5]
[[outputs]]
name = "a"
dtype = "float32"
shape = [-1, 1]
[[outputs]]
name = "b"
dtype = "bool"
shape = [-1, 3]
[[outputs]]
name = "c"
dtype = "float64"
shape = [-1, 5]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("models")
    write_model(models, "two", TWO, TWO_DESCRIPTION)
    for engine in ("inline", "process"):
        write_model(models, f"echo-{engine}", ECHO, flat(engine=engine))
        write_model(models, f"wide-{engine}", ECHO, flat(WIDE, engine=engine, max_batch=4))
        write_model(models, f"three-{engine}", THREE, THREE_DESCRIPTION.format(engine=engine))
    poisoned = {"MALLOC_PERTURB_": str(FREED), "PYTHONMALLOC": "malloc"}
    with running_server(models, "--pool-bytes", "16MiB", env=poisoned) as running:
        yield running


class Tap:
    """A socket that keeps every byte it received."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.heard = bytearray()

    def recv_into(self, buffer: memoryview) -> int:
        count = self._inner.recv_into(buffer)
        self.heard += buffer[:count]
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def clean(heard: bytes | bytearray) -> None:
    for pattern in PATTERNS:
        at = heard.find(pattern)
        assert at < 0, heard[max(0, at - 64) : at + 64]


def fill_the_pool(server: ServerProcess) -> None:
    """Another caller's bytes in every part of the pool and of the results."""
    secret = np.frombuffer(SECRET * (4 * WIDE // len(SECRET)), np.float32).reshape(1, WIDE)
    with WireClient(server.address) as other:
        for engine in ("inline", "process"):
            streams = [other.open(f"wide-{engine}", {"x": secret}) for _ in range(8)]
            for stream_id in streams:
                assert other.reply(stream_id).arrays["y"].tobytes()[:16] == SECRET
            for _ in range(50):
                small = np.frombuffer(SECRET, np.float32).reshape(1, 4)
                assert other.infer(f"echo-{engine}", {"x": small})["y"].tobytes() == SECRET


def test_replies_hold_nothing_but_what_was_computed(server: ServerProcess) -> None:
    fill_the_pool(server)
    with WireClient(server.address) as client:
        tap: Any = Tap(client.socket)
        client.socket = tap
        for rows in (1, 2, 3, 4):
            for engine in ("inline", "process"):
                x = np.linspace(-1, 1, 5 * rows, dtype=np.float32).reshape(rows, 5)
                streams = [client.open(f"three-{engine}", {"x": x}, timing=True) for _ in range(5)]
                for stream_id in streams:
                    reply = client.outcome(stream_id)
                    assert isinstance(reply, Reply)
                    np.testing.assert_array_equal(reply.arrays["c"], x.astype(np.float64))
                wide = np.ones((rows, WIDE), np.float32)
                assert client.infer(f"wide-{engine}", {"x": wide})["y"].min() == 1
        a, b = np.ones((2, 1), np.float32), np.ones((2, 3), np.float32)
        assert client.infer("two", {"a": a, "b": b})["flag"].all()
        assert len(tap.heard) > 4 << 20
        clean(tap.heard)


def test_what_is_no_reply_holds_nothing_either(server: ServerProcess) -> None:
    """The handshake, services, refusals, PONG, and the last words."""
    fill_the_pool(server)
    with socket.create_connection(server.address, timeout=20) as peer:
        peer.sendall(greeting() + AUTH)
        for stream_id, name in enumerate(("$models", "$health", "$nothing"), 1):
            peer.sendall(service(stream_id, name, msgpack.packb({})))
        peer.sendall(service(4, "$describe", msgpack.packb({"model": "two"})))
        peer.sendall(call(5, meta=metadata("nobody")) + call(6, meta=b"garbage") + frame(PING, body=b"12345678"))
        heard = b""
        while b"12345678" not in heard:
            heard += peer.recv(1 << 16)
        peer.sendall(frame(99))
        while piece := peer.recv(1 << 16):
            heard += piece
    clean(heard)


def test_the_server_really_is_poisoned(server: ServerProcess) -> None:
    environment = Path(f"/proc/{server.process.pid}/environ").read_bytes()
    assert b"MALLOC_PERTURB_=85" in environment
