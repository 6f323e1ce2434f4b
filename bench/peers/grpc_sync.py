"""gRPC's blocking API at both ends: a thread pool in the server, futures where the client has many in flight."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from bench import works
from bench.harness import announce
from bench.works import Work

from .infer_messages import OPTIONS, make_reply, make_request, native, read_reply, read_request, services

__all__ = ["CANNOT", "WORKS", "caller", "native", "pipeline", "serve"]

WORKS = ("A", "B", "C", "D", "F")
CANNOT = {"E": "a thread a call and no batches: only grpc.aio was given a batcher"}
#: threads of the server's pool: more of them make it slower
THREADS = 8


class Inference:
    """Answers as our models do: the input itself, or constant scores."""

    def Infer(self, request: Any, context: Any) -> Any:  # noqa: N802 (gRPC names the method)
        array = works.scores() if request.model_name == "image" else read_request(request)
        return make_reply(request.model_name, array)


def serve() -> None:
    server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS)
    services.add_InferenceServicer_to_server(Inference(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(f"127.0.0.1:{port}")
    server.wait_for_termination()


@contextlib.contextmanager
def stub(address: str) -> Iterator[Any]:
    """A connection of its own."""
    with grpc.insecure_channel(address, options=[*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield services.InferenceStub(channel)


@contextlib.contextmanager
def caller(work: Work, address: str) -> Iterator[Callable[[], Any]]:
    array = works.request(work)
    with stub(address) as infer:
        yield lambda: read_reply(infer.Infer(make_request(work.model, array)))


@contextlib.contextmanager
def pipeline(work: Work, address: str) -> Iterator[tuple[Callable[[], None], Callable[[], Any]]]:
    array, pending = works.request(work), deque[Any]()
    with stub(address) as infer:
        yield (
            lambda: pending.append(infer.Infer.future(make_request(work.model, array))),
            lambda: read_reply(pending.popleft().result()),
        )
