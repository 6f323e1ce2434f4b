"""tensorwire: a real `tensorwire serve`, no MAC; the blocking client one call at a time, the asyncio client for many,
the load generator on the C client (clients/c/load) for native figures.

The server also takes callers with the benchmark's key: `ours_hmac` and `ours_gmac` are these. It is on loopback and
lives as long as the run, so that its key may be known.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import inspect
import os
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tensorwire
from bench import native_tools, network, works
from bench.measure import Sample, named
from bench.works import BATCH, DIGITS, IMAGE, ROW, SCORES, SMALL, Work

WORKS = ("A", "B", "C", "D", "E", "F", "I", "O", "S")
CANNOT = dict[str, str]()
PATH = "build/compiled"
ECHO = "def build():\n    return lambda inputs: {'y': inputs['x']}\n"
SCORER = """\
import numpy as np


def build():
    rows = np.tile(np.arange(1000, dtype=np.float32), (32, 1))
    return lambda inputs: {'y': rows[: len(inputs['x'])]}
"""
NETWORK = "from typing import Any\n\n\n" + inspect.getsource(network.build)
#: name -> backend, source, where it runs, one row in and out
MODELS = {
    "echo": ("python", ECHO, "inline", SMALL, SMALL),
    "image": ("python", SCORER, "inline", IMAGE, SCORES),
    "bytes": ("python", ECHO, "inline", (1, -1), (1, -1)),
    "mlp": ("torch", NETWORK, "inline", ROW, DIGITS),
    "mlp_process": ("torch", NETWORK, "process", ROW, DIGITS),
}
#: calls in flight of the flood in I
FLOOD = 64
KEY = "bench:" + base64.urlsafe_b64encode(hashlib.sha256(b"tensorwire bench").digest()).decode().rstrip("=")
#: what the unsigned peers say, so that a key in the environment changes nothing
NO_KEY = ""


def write_models(folder: Path) -> None:
    """Write one model folder each."""
    for name, (backend, source, engine, shape, reply_shape) in MODELS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(source)
        (version / "model.toml").write_text(
            textwrap.dedent(f"""\
                backend = "{backend}"
                max_batch = {BATCH}
                engine = "{engine}"
                threads = 1

                [[inputs]]
                name = "x"
                dtype = "float32"
                shape = {[-1, *shape[1:]]}

                [[outputs]]
                name = "y"
                dtype = "float32"
                shape = {[-1, *reply_shape[1:]]}
                """)
        )


def serve(*options: str) -> None:
    """Run `tensorwire serve` on a free port and a Unix socket; it prints both."""
    folder = Path(tempfile.mkdtemp(prefix="tensorwire-bench-"))
    write_models(folder / "models")
    name, _, secret = KEY.partition(":")
    keys = folder / "keys.toml"
    keys.touch(mode=0o600)
    keys.write_text(f'[[keys]]\nid = "{name}"\nsecret = "{secret}"\nprincipal = "bench"\nmodels = ["*"]\n')
    trust = ["--keys", str(keys), "--insecure"]
    where = ["--port", "0", "--unix", str(folder / "socket"), "--no-admin", "--log-level", "warning"]
    os.execv(
        sys.executable, [sys.executable, "-m", "tensorwire", "serve", str(folder / "models"), *trust, *where, *options]
    )


def tcp_url(address: str) -> str:
    """Return the first of the addresses that the server printed."""
    return address.partition(",")[0]


def unix_url(address: str) -> str:
    """Return the second."""
    return address.partition(",")[2]


@contextlib.contextmanager
def caller(
    work: Work,
    address: str,
    spin: float | None = None,
    url: Callable[[str], str] = tcp_url,
    key: str = NO_KEY,
    mac: str | None = None,
) -> Iterator[Callable[[], Any]]:
    """The blocking client."""
    tensor = {"x": works.request(work)}
    with tensorwire.connect(url(address), spin=spin, key=key, mac=mac) as client:
        infer, model = client.infer, work.model
        yield lambda: infer(model, tensor)["y"]


@contextlib.contextmanager
def pipeline(work: Work, address: str) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """The blocking client with calls submitted ahead."""
    from collections import deque

    tensor, pending = {"x": works.request(work)}, deque[Any]()
    with tensorwire.connect(tcp_url(address), key=NO_KEY) as client:
        yield (
            lambda: pending.append(client.submit(work.model, tensor)),
            lambda: pending.popleft().result()["y"],
        )


@contextlib.asynccontextmanager
async def callers(
    work: Work,
    address: str,
    model: str = "",
    url: Callable[[str], str] = tcp_url,
    key: str = NO_KEY,
    mac: str | None = None,
) -> AsyncIterator[list[Callable[[], Any]]]:
    """The asyncio client, one a connection."""
    tensor, name = {"x": works.request(work)}, model or work.model
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await tensorwire.aio.connect(url(address), key=key, mac=mac))
            for _ in range(work.connections)
        ]
        if work.kind == "open":  # an open loop waits for a future; a coroutine would need a task
            yield [partial(client.submit, name, tensor) for client in clients]
        else:
            yield [partial(client.infer, name, tensor) for client in clients]


def check(work: Work, reply: Any) -> None:
    """The asyncio client gives the whole reply: one output."""
    works.check(work, reply if isinstance(reply, np.ndarray) else reply["y"])


def native(work: Work, address: str, calls: int, key: str = NO_KEY, mac: str = "none") -> Sample:
    """clients/c/load's twire-load: the C client, which compares replies with what they must be now and then."""
    x, y = ("x".join(map(str, shape)) for shape in (work.shape, work.reply_shape))
    model = [
        "--url",
        tcp_url(address),
        "--model",
        work.model,
        "--input",
        f"x=float32:{x}",
        "--output",
        f"y=float32:{y}",
    ]
    numbers = ["--connections", work.connections, "--in-flight", work.in_flight // work.connections, "--calls", calls]
    options = [*model, "--mac", mac, *(["--echo"] if work.model == "echo" else []), *numbers]
    return native_tools.load("twire-load", *options, environment={"TENSORWIRE_KEY": key})


def isolation(work: Work, address: str, calls: int) -> Sample:
    """Return the p99 of the model's own time in an engine process, alone or while another model is flooded."""
    return asyncio.run(model_times(work, address, calls))


async def model_times(work: Work, address: str, calls: int) -> Sample:
    rows = {"x": np.tile(works.request(work), (BATCH, 1))}
    small = {"x": np.ones(SMALL, np.float32)}
    times: list[float] = []
    url = tcp_url(address)
    async with (
        await tensorwire.aio.connect(url, key=NO_KEY) as client,
        await tensorwire.aio.connect(url, key=NO_KEY) as flooding,
    ):

        async def flood() -> None:
            while True:
                await flooding.infer("echo", small)

        reply = await client.infer("mlp_process", rows)
        works.check(work, reply["y"][:1])
        floods = [asyncio.create_task(flood()) for _ in range(FLOOD if work.key == "I.flood" else 0)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(calls):
            reply = await client.infer("mlp_process", rows, timing=True)
            if reply.timing is None:
                raise RuntimeError("the server gave no timing")
            times.append(reply.timing.compute)
        elapsed = loop.time() - began
        for task in floods:
            task.cancel()
        await asyncio.gather(*floods, return_exceptions=True)
    percentiles = named(times)
    return Sample(calls, elapsed, percentiles, value=percentiles["99"])
