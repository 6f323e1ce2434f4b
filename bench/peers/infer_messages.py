"""The protobuf messages of both gRPC peers: the open inference protocol (KServe v2) with raw contents."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np

from bench import native_tools, works
from bench.measure import Sample
from bench.works import Array, Work

#: raised limits: gRPC's own is 4 MiB a message
OPTIONS = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]
DTYPES = {"FP32": np.dtype(np.float32)}

messages, services = grpc.protos_and_services("bench/peers/infer.proto")


def read(tensor: Any, raw: bytes) -> Array:
    """Return the array of one tensor message."""
    return np.frombuffer(raw, DTYPES[tensor.datatype]).reshape(tensor.shape)


def make_request(model: str, array: Array) -> Any:
    """Return the message of one call."""
    tensor = messages.Tensor(name="x", datatype="FP32", shape=array.shape)
    return messages.InferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()])


def read_request(request: Any) -> Array:
    """Return the array a call carries."""
    return read(request.inputs[0], request.raw_input_contents[0])


def make_reply(model: str, array: Array) -> Any:
    """Return the message of one reply."""
    output = messages.Tensor(name="y", datatype="FP32", shape=array.shape)
    return messages.InferResponse(model_name=model, outputs=[output], raw_output_contents=[array.tobytes()])


def read_reply(reply: Any) -> Array:
    """Return the array of one reply."""
    return read(reply.outputs[0], reply.raw_output_contents[0])


def native(work: Work, address: str, calls: int) -> Sample:
    """h2load, which sends the same prepared request again and again as one HTTP/2 stream each."""
    body = make_request(work.model, works.request(work)).SerializeToString()
    framed = b"\0" + len(body).to_bytes(4, "big") + body
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    url, streams = f"http://{address}/bench.Inference/Infer", work.in_flight // work.connections
    return native_tools.h2load(url, framed, calls, work.connections, streams, *headers)
