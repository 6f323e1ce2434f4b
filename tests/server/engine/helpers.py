"""Models in temporary folders, calls to them, and a pool that counts."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tensorwire.codec import Encoder, decode_arrays, decode_metadata, resolve
from tensorwire.gpu import SlabPool
from tensorwire.server.engine.api import BatchResult, Failure, Prepared, Request
from tensorwire.server.engine.inline import InlineEngine
from tensorwire.server.engine.spec import ModelSpec, load_spec

ECHO_TOML = """
backend = "python"
max_batch = 32

[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 16]

[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 16]
"""
ECHO = """
def build():
    return lambda inputs: {"y": inputs["x"]}
"""


def model_folder(root: Path, toml: str, source: str | None = None, name: str = "m", version: str = "1") -> Path:
    """Write `<root>/<name>/<version>/model.toml` and, if given, model.py."""
    folder = root / name / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(textwrap.dedent(toml))
    if source is not None:
        (folder / "model.py").write_text(textwrap.dedent(source))
    return folder


def python_spec(root: Path, toml: str = ECHO_TOML, source: str = ECHO) -> ModelSpec:
    return load_spec(model_folder(root, toml, source))


class Harness:
    """An InlineEngine with a real pool, stepped by hand; everything that came out of it in `results`."""

    def __init__(self, spec: ModelSpec, pool_bytes: int = 64 << 20, **options: Any) -> None:
        self.pool = SlabPool(pool_bytes)
        self.results: list[BatchResult | Failure] = []
        self.wakes = 0
        self.engine = InlineEngine(spec, self.pool, self._wake, **options)
        self.engine.sink = self.results.extend
        self.engine.start()
        self._encoder = Encoder()
        self._streams = 0

    def _wake(self, engine: InlineEngine) -> None:
        del engine
        self.wakes += 1

    def prepare(self, arrays: Mapping[str, Any]) -> tuple[Prepared, memoryview]:
        encoded = self._encoder.encode("m", "", arrays)
        resolved = resolve(decode_metadata(encoded.meta), encoded.dims)
        return self.engine.prepare(resolved, encoded.meta, encoded.dims), memoryview(b"".join(encoded.buffers))

    def request(self, **options: Any) -> Request:
        self._streams += 1
        return Request(self._streams, options.pop("arrived", time.monotonic()), **options)

    def submit(self, arrays: Mapping[str, Any], *, adopt: bool = False, **options: Any) -> Request:
        request = self.request(**options)
        refusal = self.try_submit(arrays, request, adopt=adopt)
        assert refusal is None, refusal.message
        return request

    def try_submit(self, arrays: Mapping[str, Any], request: Request, *, adopt: bool = False) -> Failure | None:
        prepared, body = self.prepare(arrays)
        if not adopt:
            return self.engine.submit(prepared, body, None, request)
        slab = self.pool.allocate(len(body))
        assert slab is not None
        slab.view[: len(body)] = body
        return self.engine.submit(prepared, slab.view, slab, request)

    def run(self) -> list[BatchResult | Failure]:
        """Step until nothing waits; what came out."""
        for _ in range(1000):
            self.engine.step()
            if not self.engine.queue_depth:
                break
        results, self.results[:] = list(self.results), []
        return results

    def infer(self, arrays: Mapping[str, Any], **options: Any) -> dict[str, np.ndarray[Any, Any]]:
        request = self.submit(arrays, **options)
        return outputs_of(self.run(), request)

    def assert_all_memory_returned(self) -> None:
        assert self.engine.in_use == 0
        self.engine.trim()
        assert self.pool.in_use == 0


def outputs_of(results: list[BatchResult | Failure], request: Request) -> dict[str, np.ndarray[Any, Any]]:
    """The rows of one request, as a caller would get them."""
    for result in results:
        if request not in result.requests:
            continue
        assert isinstance(result, BatchResult), result.message
        if result.encoded is not None:
            encoded = result.encoded
            return decode_arrays(resolve(decode_metadata(encoded.meta), encoded.dims), b"".join(encoded.buffers))
        first = sum(r.rows for r in result.requests[: result.requests.index(request)])
        return {
            name: np.frombuffer(bytes(data[first * row_bytes : (first + request.rows) * row_bytes]), dtype).reshape(
                request.rows, *row_shape
            )
            for (name, dtype, row_shape, row_bytes), data in zip(result.signature, result.outputs, strict=True)
        }
    raise AssertionError("the request is in no result")


def failure_of(results: list[BatchResult | Failure], request: Request) -> Failure:
    found = [result for result in results if request in result.requests]
    assert len(found) == 1
    assert isinstance(found[0], Failure)
    return found[0]
