"""The ceiling of E: the network run on full batches on the server's core, no socket, no queue; rows per second.

The "server" runs the batches that its one client asks for and says how long each took.
"""

from __future__ import annotations

import socket
import struct
import time

import numpy as np

from bench import works
from bench.harness import announce
from bench.measure import Sample, named
from bench.network import Network
from bench.works import BATCH, DIGITS, Work

__all__ = ["VARIANT", "WORKS", "run", "serve"]

VARIANT, WORKS = True, ("E",)
COUNT = struct.Struct("<I")


def serve() -> None:
    network = Network()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        announce(f"127.0.0.1:{listener.getsockname()[1]}")
        while True:
            sock, _ = listener.accept()
            with sock, sock.makefile("rb") as stream:
                row = np.frombuffer(stream.read(4 * 784), np.float32)
                (batches,) = COUNT.unpack(stream.read(COUNT.size))
                rows = np.tile(row, (BATCH, 1))
                seconds = np.empty(batches + 1)
                for index in range(batches + 1):
                    before = time.perf_counter()
                    answer = network(rows)
                    seconds[index] = time.perf_counter() - before
                sock.sendall(answer[0].tobytes() + seconds[1:].tobytes())


def run(work: Work, address: str, calls: int) -> Sample:
    """Return rows per second of full batches, and percentiles of one batch."""
    batches = max(1, calls // BATCH)
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as sock, sock.makefile("rb") as stream:
        sock.sendall(works.request(work).tobytes() + COUNT.pack(batches))
        works.check(work, stream.read(4 * DIGITS[1]))
        seconds = np.frombuffer(stream.read(8 * batches))
    return Sample(batches * BATCH, float(seconds.sum()), named(seconds * 1e6))
