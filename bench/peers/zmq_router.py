"""pyzmq: a ROUTER that answers each message, a DEALER that sends them; a frame is the array's bytes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import zmq

from bench import works
from bench.harness import announce
from bench.works import Array, Work

WORKS = ("A.python", "B.python", "C.python", "C.rate", "D", "F", "S")
CANNOT = {
    "A.native": "its wire has no load generator here",
    "B.native": "its wire has no load generator here",
    "C.native": "its wire has no load generator here",
    "E": "a message queue: has no model and makes no batches",
}
#: bytes above which pyzmq sends without copying; its own default is as large
COPY_BELOW = 64 << 10


def serve() -> None:
    scores = works.scores().tobytes()
    context: Any = zmq.Context()
    with context.socket(zmq.ROUTER) as router:
        router.set_hwm(0)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        announce(f"127.0.0.1:{port}")
        while True:
            sender, model, body = router.recv_multipart(copy=False)
            reply = scores if model.bytes == b"image" else body
            router.send_multipart([sender, reply], copy=False)


@contextlib.contextmanager
def pipeline(work: Work, address: str) -> Iterator[tuple[Callable[[], Any], Callable[[], Array]]]:
    array, model = works.request(work), work.model.encode()
    context = zmq.Context.instance()
    context.set(zmq.MAX_SOCKETS, 4096)
    with context.socket(zmq.DEALER) as dealer:
        dealer.set_hwm(0)
        dealer.linger = 0
        dealer.copy_threshold = COPY_BELOW
        dealer.connect(f"tcp://{address}")
        yield (
            lambda: dealer.send_multipart([model, array], copy=False),
            lambda: np.frombuffer(dealer.recv(copy=False).buffer, np.float32),
        )
