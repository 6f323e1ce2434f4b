"""Mosec: its HTTP front in Rust, a worker process a model, raw bytes; batches in E with its least wait."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from mosec import Runtime, Server, Worker

from bench import works
from bench.network import Network
from bench.works import BATCH

from .http_client import HTTP_CANNOT, HTTP_WORKS, announce_when_ready, caller, callers, free_port, native

__all__ = ["CANNOT", "WORKS", "Echo", "Image", "Mlp", "caller", "callers", "native", "serve"]

WORKS, CANNOT = HTTP_WORKS, HTTP_CANNOT
#: milliseconds that a batch waits to fill: 1 is the least above none
WAIT_MS = 1


class Echo(Worker):  # type: ignore[misc] # mosec may not be installed where types are checked
    """Bytes in, the same bytes out."""

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: Any) -> bytes:
        return bytes(data)

    def forward(self, data: Any) -> Any:
        return data


class Image(Echo):
    """Constant scores."""

    def forward(self, data: Any) -> Any:
        return works.scores().tobytes()


class Mlp(Echo):
    """The network, a batch at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, data: list[bytes]) -> list[bytes]:
        rows = np.frombuffer(b"".join(data), np.float32).reshape(len(data), -1).copy()
        return [row.tobytes() for row in self.network(rows)]


def serve() -> None:
    port = free_port()
    options = {
        "address": "127.0.0.1",
        "port": port,
        "timeout": 60000,
        "max-request-size": 128 << 20,
        "log-level": "error",
    }
    sys.argv[1:] = [f"--{name}={value}" for name, value in options.items()]
    server = Server()
    routes = {"/echo": [Runtime(Echo)], "/bytes": [Runtime(Echo)], "/image": [Runtime(Image)]}
    routes["/mlp"] = [Runtime(Mlp, max_batch_size=BATCH, max_wait_time=WAIT_MS)]
    server.register_runtime(routes)
    announce_when_ready(port)
    server.run()
