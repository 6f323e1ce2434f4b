"""gRPC for asyncio on uvloop, both ends, with the protobuf messages of the open inference protocol (raw contents)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import numpy as np
import uvloop

from bench.harness import Sample, announce
from bench.works import WORKS, Work

NAME = "grpc.aio"
OPTIONS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]
DTYPES = {"FP32": np.dtype(np.float32)}

messages, services = grpc.protos_and_services("bench/peers/infer.proto")


def read(tensor: Any, raw: bytes) -> np.ndarray[Any, Any]:
    """Return the array of one tensor message."""
    return np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tensor.shape)


class Inference:
    """Answers as our models do: the input itself, or constant scores."""

    def __init__(self) -> None:
        self.scores = {
            work.model: np.zeros(work.reply_shape, np.float32) for work in WORKS.values() if work.model != "echo"
        }

    async def Infer(self, request: Any, context: Any) -> Any:  # noqa: N802 (gRPC names the method)
        array = read(request.inputs[0], request.raw_input_contents[0])
        reply = self.scores.get(request.model_name, array)
        output = messages.Tensor(name="y", datatype="FP32", shape=reply.shape)
        return messages.InferResponse(
            model_name=request.model_name, outputs=[output], raw_output_contents=[reply.tobytes()]
        )


def serve() -> None:
    async def main() -> None:
        server = grpc.aio.server(options=OPTIONS)
        services.add_InferenceServicer_to_server(Inference(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        announce(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    uvloop.run(main())


async def run(work: Work, address: str, calls: int) -> Sample:
    array = np.ones(work.shape, np.float32)
    latencies: list[float] = []
    clock = time.perf_counter
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = services.InferenceStub(channel)

        async def worker(count: int) -> None:
            for _ in range(count):
                before = clock()
                tensor = messages.Tensor(name="x", datatype="FP32", shape=array.shape)
                request = messages.InferRequest(
                    model_name=work.model, inputs=[tensor], raw_input_contents=[array.tobytes()]
                )
                reply = await stub.Infer(request)
                read(reply.outputs[0], reply.raw_output_contents[0])
                latencies.append(clock() - before)

        await worker(20)
        latencies.clear()
        begin = clock()
        await asyncio.gather(*(worker(calls // work.in_flight) for _ in range(work.in_flight)))
        return Sample(latencies, clock() - begin)


def measure(work: Work, address: str, calls: int) -> Sample:
    # a tenth of the calls is enough for a rate and keeps the round as short as the others'
    return uvloop.run(run(work, address, max(calls // 10, 200)))
