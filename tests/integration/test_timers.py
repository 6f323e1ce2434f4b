"""Real servers and clients, over real sockets, on loops whose timers fire early, late and twice: every call ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

import tensorwire
from tensorwire.clients import aio
from tensorwire.clients.errors import DeadlineExceeded
from tensorwire.server.app import Server
from tensorwire.server.settings import load_settings
from tests.integration.models import ECHO, SLEEPS, flat
from tests.support.server import write_model
from tests.support.timers import unruly_loop

pytestmark = pytest.mark.timeout(240)

BOUND = 30.0
"""Seconds for all calls of a part together, which take less than one: a call that waits for ever shows."""
WAITS = {"inline": "waits_inline", "process": "waits_process", "auto": "waits_auto"}

Work = Callable[[Server, str], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for engine, name in WAITS.items():
        waiting = flat(-1, engine=engine).replace("max_batch = 8", "max_batch = 8\nmax_wait_ms = 5")
        write_model(folder, name, ECHO, waiting)
    write_model(folder, "sleeps", SLEEPS, flat(1, engine="process", warmup=False))
    return folder


def serve(loop: asyncio.AbstractEventLoop, models: Path, work: Work, audit: Path) -> Server:
    """Start a server on `loop`, do the work, stop it."""

    async def everything() -> Server:
        flags = {"insecure": True, "port": "0", "admin_port": "0", "audit": str(audit)}
        server = Server(models, load_settings(flags=flags))
        await server.start()
        try:
            await work(server, server.addresses[0])
        finally:
            assert await server.stop(10.0)
        return server

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(everything())


def x(width: int, value: float = 1.0) -> dict[str, Any]:
    return {"x": np.full((1, width), value, np.float32)}


async def lone_calls(client: aio.Client, model: str, count: int) -> None:
    """One after the other, at every phase of a millisecond."""
    async with asyncio.timeout(BOUND):
        for n in range(count):
            result = await client.infer(model, x(2, n))
            assert result["y"].tolist() == [[n, n]]


async def two_shapes(client: aio.Client, model: str, count: int) -> None:
    """Two calls that cannot share a batch, a part of a millisecond apart."""
    async with asyncio.timeout(BOUND):
        for n in range(count):
            first = asyncio.ensure_future(client.infer(model, x(2, n)))
            await asyncio.sleep(0)
            second = await client.infer(model, x(3, n))
            assert second["y"].tolist() == [[n, n, n]]
            assert (await first)["y"].tolist() == [[n, n]]


@pytest.mark.parametrize("model", WAITS.values(), ids=WAITS)
def test_calls_of_a_model_with_max_wait_are_answered(models: Path, tmp_path: Path, model: str) -> None:
    """On uvloop as it is: its timers for 5 ms fire after 4.1, too."""

    async def work(_: Server, url: str) -> None:
        async with await aio.connect(url) as client:
            await lone_calls(client, model, 100)
            await two_shapes(client, model, 20)

    serve(uvloop.new_event_loop(), models, work, tmp_path / "audit")


@pytest.mark.parametrize("kind", ["uvloop", "asyncio"])
@pytest.mark.parametrize("seed", [1, 2])
def test_on_unruly_timers_every_call_ends_once_and_timers_are_not_multiplied(
    models: Path, tmp_path: Path, kind: str, seed: int
) -> None:
    """The server on uvloop, as always; the client on the same loop, or on one of asyncio in a thread."""
    loop: Any = unruly_loop("uvloop", seed)

    def elsewhere(url: str) -> None:
        with asyncio.Runner(loop_factory=lambda: unruly_loop(kind, seed)) as runner:
            runner.run(many_calls(url))

    async def work(server: Server, url: str) -> None:
        if kind == "uvloop":
            await many_calls(url)
        else:
            await asyncio.to_thread(elsewhere, url)
        await asyncio.to_thread(blocking, url)
        assert not server.front.connections.open_calls
        fired, began = loop.fires, time.monotonic()
        await asyncio.sleep(1.0)
        assert loop.fires - fired <= 40 * (time.monotonic() - began), "who has nothing to do fires few timers"

    before = time.monotonic()
    serve(loop, models, work, tmp_path / "audit")
    assert loop.fires <= 20 * CALLS + 200 * (time.monotonic() - before)
    ends = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    named = [line["request_id"] for line in ends if line["event"] == "call"]
    assert len(named) == len(set(named)) == CALLS


CALLS = 3 * (20 + 20) + 5 + 1 + 20
"""Made by the two below: each has one end, and so one line in the audit log."""


async def many_calls(url: str) -> None:
    async with await aio.connect(url) as client:
        watch = client.watch_health("waits_inline")
        async with asyncio.timeout(BOUND):
            await anext(watch)
        for model in WAITS.values():
            await lone_calls(client, model, 20)
            await two_shapes(client, model, 10)
        async with asyncio.timeout(BOUND):
            late = [client.infer("sleeps", x(1, 0.5), deadline=0.01 * n) for n in range(1, 6)]
            for outcome in await asyncio.gather(*late, return_exceptions=True):
                assert isinstance(outcome, DeadlineExceeded)
            await watch.aclose()
            await client.ping()


def blocking(url: str) -> None:
    with tensorwire.connect(url) as client:
        for n in range(20):
            assert client.infer("waits_inline", x(2, n), deadline=BOUND)["y"].tolist() == [[n, n]]
