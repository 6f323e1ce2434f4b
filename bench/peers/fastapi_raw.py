"""FastAPI on uvicorn (uvloop, httptools): the array's bytes as the body, both ways; E with a small batcher."""

import socket
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response

from bench import works
from bench.harness import announce

from .batching import Batcher
from .http_client import HTTP_CANNOT, HTTP_WORKS, KEEP_ALIVE, caller, callers, native

__all__ = ["CANNOT", "WORKS", "caller", "callers", "native", "serve"]

WORKS, CANNOT = HTTP_WORKS, HTTP_CANNOT


def application() -> FastAPI:
    """Return one path a model."""
    app, batcher = FastAPI(openapi_url=None), Batcher()

    async def infer(model: str, request: Request) -> Response:
        body = await request.body()
        if model == "mlp":
            body = (await batcher.submit(np.frombuffer(body, np.float32).reshape(1, -1).copy())).tobytes()
        elif model == "image":
            body = works.scores().tobytes()
        return Response(body, media_type="application/octet-stream")

    app.add_api_route("/{model}", infer, methods=["POST"])
    return app


def serve() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        announce(f"127.0.0.1:{listener.getsockname()[1]}")
        options: dict[str, Any] = {"loop": "uvloop", "http": "httptools", "log_level": "warning", "access_log": False}
        uvicorn.Server(uvicorn.Config(application(), **options, timeout_keep_alive=KEEP_ALIVE)).run(sockets=[listener])
