"""A front for one process engine, with select() in place of a loop, and the model that its tests run."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tensorwire.codec import Encoder, decode_metadata, resolve
from tensorwire.gpu import SlabPool
from tensorwire.server.engine.api import BatchResult, Failure, Prepared, Request
from tensorwire.server.engine.process import ProcessEngine
from tensorwire.server.engine.spec import load_spec
from tensorwire.server.engine.worker import Worker

TOML = """
backend = "python"
max_batch = {max_batch}
max_queue = 64
engine = "process"
warmup = false
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, {width}]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, {width}]
"""

MODEL = """
import ctypes, os, signal, sys, time

def act(code):
    if code == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif code == 2:
        ctypes.string_at(0)
    elif code == 3:
        os._exit(3)
    elif code == 4:
        time.sleep(3600)
    elif code == 5:
        raise ValueError("the model says no")
    elif code == 6:
        print("hello from the model", flush=True)
    elif code == 7:
        time.sleep(0.3)
    elif code == 8:
        sys.exit(9)

def build():
    def run(inputs):
        x = inputs["x"]
        for code in x[:, 0]:
            act(-int(code))
        return {"y": x * 2}
    return run
"""

encoder = Encoder()


def write_model(folder: Path, toml: str = "", model: str = MODEL, max_batch: int = 8, width: int = 4) -> Path:
    home = folder / "double" / "1"
    home.mkdir(parents=True)
    (home / "model.toml").write_text(toml or TOML.format(max_batch=max_batch, width=width))
    (home / "model.py").write_text(model)
    return home


class Front:
    """What a front does with an engine, with select() in place of a loop."""

    def __init__(self, folder: Path, pool_bytes: int = 8 << 20, **options: Any) -> None:
        self.pool = SlabPool(pool_bytes)
        self.woken = False
        self.outcome: list[BatchResult | Failure] = []
        self.engine = ProcessEngine(load_spec(folder), self.pool, self.wake, **options)
        self.engine.sink = self.outcome.extend
        self.stream = 0

    def wake(self, engine: ProcessEngine) -> None:
        assert engine is self.engine
        assert not self.woken
        self.woken = True

    def hand_over(self) -> None:
        if self.woken:
            self.woken = False
            self.engine.step()

    def turn(self, timeout: float = 0.05) -> None:
        self.hand_over()
        for descriptor in select.select(self.engine.descriptors(), [], [], timeout)[0]:
            self.engine.on_readable(descriptor)

    def until(self, condition: Callable[[], object], timeout: float = 30.0) -> None:
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"did not happen in time; health: {self.health()}, {self.outcome}"
            self.turn()

    def health(self) -> tuple[str, str]:
        health = self.engine.health()
        return health.state.name, health.detail

    def ready(self) -> Front:
        self.engine.start()
        self.until(lambda: self.engine.health().ready)
        return self

    def prepare(self, **arrays: Any) -> tuple[Prepared, bytes]:
        encoded = encoder.encode("double", "", arrays)
        resolved = resolve(decode_metadata(encoded.meta), encoded.dims)
        prepared = self.engine.prepare(resolved, encoded.meta, encoded.dims)
        return prepared, b"".join(encoded.buffers)

    def submit(self, *rows: list[float], slab: bool = False, deadline: float = float("inf"), **arrays: Any) -> Request:
        prepared, body = self.prepare(**(arrays or {"x": np.array(rows, np.float32)}))
        return self.submit_prepared(prepared, body, slab, deadline)

    def submit_prepared(
        self, prepared: Prepared, body: bytes, slab: bool = False, deadline: float = float("inf")
    ) -> Request:
        self.stream += 1
        request = Request(self.stream, time.monotonic(), deadline=deadline)
        held = self.pool.allocate(len(body)) if slab else None
        if held is not None:
            held.view[:] = body
        failure = self.engine.submit(prepared, memoryview(body) if held is None else held.view, held, request)
        if failure is not None:
            self.outcome.append(failure)
        return request

    def answer(self, request: Request, timeout: float = 30.0) -> BatchResult | Failure:
        def found() -> list[BatchResult | Failure]:
            return [each for each in self.outcome if request in each.requests]

        self.until(found, timeout)
        answers = found()
        assert len(answers) == 1, "a request is answered exactly once"
        return answers[0]

    def rows(self, request: Request) -> list[list[float]]:
        answer = self.answer(request)
        assert isinstance(answer, BatchResult), getattr(answer, "message", "")
        _, dtype, row_shape, row_bytes = answer.signature[0]
        start = sum(each.rows for each in answer.requests[: answer.requests.index(request)])
        data = answer.outputs[0][start * row_bytes : (start + request.rows) * row_bytes]
        rows: list[list[float]] = np.frombuffer(data, dtype).reshape(request.rows, *row_shape).tolist()
        return rows

    def failure(self, request: Request) -> Failure:
        answer = self.answer(request)
        assert isinstance(answer, Failure)
        return answer

    def assert_memory_is_back(self) -> None:
        """Nothing in flight: only the one idle forming block may be held, and trim() gives that back too."""
        self.until(lambda: not self.engine.in_use)  # that metadata was read is told apart from results
        self.engine.trim()
        assert self.pool.in_use == 0

    @property
    def worker(self) -> Worker:
        instance = self.engine._instance
        assert instance is not None
        return instance.worker

    @property
    def pid(self) -> int:
        return self.worker.process.pid
