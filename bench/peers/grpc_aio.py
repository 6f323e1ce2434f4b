"""gRPC for asyncio on uvloop, both ends; raised message limits; E with a small batcher on the loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc
import uvloop

from bench import works
from bench.harness import announce
from bench.works import Work

from .batching import Batcher
from .infer_messages import OPTIONS, make_reply, make_request, native, read_reply, read_request, services

__all__ = ["CANNOT", "WORKS", "callers", "native", "serve"]

WORKS = ("A", "B", "C", "D", "E", "F", "O", "S")
CANNOT = dict[str, str]()


class Inference:
    """Answers as our models do: the input itself, constant scores, or what the network gives."""

    def __init__(self) -> None:
        self.batcher = Batcher()

    async def Infer(self, request: Any, context: Any) -> Any:  # noqa: N802 (gRPC names the method)
        array = read_request(request)
        if request.model_name == "mlp":
            array = await self.batcher.submit(array)
        elif request.model_name == "image":
            array = works.scores()
        return make_reply(request.model_name, array)


def serve() -> None:
    async def main() -> None:
        server = grpc.aio.server(options=OPTIONS)
        services.add_InferenceServicer_to_server(Inference(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        announce(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    uvloop.run(main())


@contextlib.asynccontextmanager
async def callers(work: Work, address: str) -> AsyncIterator[list[Callable[[], Any]]]:
    array, options = works.request(work), [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
            for _ in range(work.connections)
        ]
        stubs = [services.InferenceStub(channel) for channel in channels]

        async def call(stub: Any) -> Any:
            return read_reply(await stub.Infer(make_request(work.model, array)))

        yield [partial(call, stub) for stub in stubs]
