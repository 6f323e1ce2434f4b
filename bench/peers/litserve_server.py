"""LitServe: uvicorn in front, a worker process a model, raw bytes as the body; batches in E; its ZeroMQ queue."""

# No annotations as text here: LitServe reads them.
from typing import Annotated, Any

import numpy as np
from fastapi import Body, Response
from litserve import LitAPI, LitServer

from bench import works
from bench.network import Network
from bench.works import BATCH

from .http_client import HTTP_CANNOT, HTTP_WORKS, KEEP_ALIVE, announce_when_ready, caller, callers, free_port, native

__all__ = ["CANNOT", "WORKS", "Echo", "Image", "Mlp", "caller", "callers", "native", "serve"]

WORKS, CANNOT = HTTP_WORKS, HTTP_CANNOT
RawBody = Annotated[bytes, Body(media_type="application/octet-stream")]
#: seconds that a batch waits to fill
WAIT = 0.001


class Echo(LitAPI):  # type: ignore[misc] # litserve may not be installed where types are checked
    """Bytes in, the same bytes out."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: RawBody) -> Any:
        return request

    def predict(self, x: Any) -> Any:
        return x

    def encode_response(self, output: Any) -> Response:
        return Response(bytes(output), media_type="application/octet-stream")


class Image(Echo):
    """Constant scores."""

    def predict(self, x: Any) -> Any:
        return works.scores().tobytes()


class Mlp(Echo):
    """The network, a batch at a time."""

    def setup(self, device: str) -> None:
        self.network = Network()

    def batch(self, inputs: list[bytes]) -> Any:
        return np.frombuffer(b"".join(inputs), np.float32).reshape(len(inputs), -1).copy()

    def predict(self, x: Any) -> Any:
        return self.network(x)

    def unbatch(self, output: Any) -> list[bytes]:
        return [row.tobytes() for row in output]


def serve() -> None:
    port = free_port()
    announce_when_ready(port)
    apis = [Echo(api_path="/echo"), Echo(api_path="/bytes"), Image(api_path="/image")]
    apis.append(Mlp(api_path="/mlp", max_batch_size=BATCH, batch_timeout=WAIT))
    server = LitServer(apis, accelerator="cpu", fast_queue=True, timeout=120)
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
    )
