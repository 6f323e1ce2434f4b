"""The asyncio client over real sockets, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from tensorwire.clients import aio
from tensorwire.clients.aio_wire import Wire
from tensorwire.clients.errors import (
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    InvalidInput,
    LocalDeadlineExceeded,
    NotFound,
)
from tensorwire.codec import Encoder, Health, HealthReport, State
from tensorwire.protocol import Message, Status
from tests.support.peer import Peer, PeerConnection, echo, silent

X = np.arange(16, dtype=np.float32).reshape(1, 16)
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runner(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as running:
            running.run(asyncio.wait_for(main, 60))

    return runner


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_calls_of_every_size_come_back(run: Run, transport: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            for size in (0, 1, 16_384, 16_385, 100_000, 5_000_000):
                array = np.random.default_rng(0).random(size, dtype=np.float32)
                result = await client.infer("m", {"x": array}, deadline=30.0)
                np.testing.assert_array_equal(result["x"], array)
                assert not result["x"].flags.writeable

    with Peer(unix=tmp_path / "s" if transport == "unix" else None) as peer:
        run(main())


def test_many_calls_at_once_each_get_their_own_result(run: Run) -> None:
    async def main() -> None:
        async with await aio.connect(peer.url) as client:

            async def caller(number: int) -> None:
                for n in range(20):
                    value = X + number * 100 + n
                    result = await client.infer("m", {"x": value}, deadline=30.0)
                    np.testing.assert_array_equal(result["x"], value)

            await asyncio.gather(*(caller(number) for number in range(64)))

    with Peer() as peer:
        run(main())


def test_big_calls_at_once_pass_through_back_pressure(run: Run) -> None:
    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            big = np.ones(1_000_000, np.float32)
            results = await asyncio.gather(*(client.infer("m", {"x": big * n}) for n in range(8)))
            assert [result["x"][-1] for result in results] == list(range(8))

    with Peer() as peer:
        run(main())


def test_what_one_turn_of_the_loop_starts_leaves_in_one_write(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            flushes = 0
            flush = Wire.flush

            def counted(wire: Wire) -> None:
                nonlocal flushes
                flushes += 1
                flush(wire)

            monkeypatch.setattr(Wire, "flush", counted)
            futures = [client.submit("m", {"x": X + n}) for n in range(64)]
            await futures[0]
            assert flushes == 1
            for n, future in enumerate(futures):
                np.testing.assert_array_equal((await future)["x"], X + n)

    with Peer() as peer:
        run(main())


def test_a_call_makes_no_task_and_no_timer_of_its_own(run: Run) -> None:
    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            await client.infer("m", {"x": X}, deadline=10.0)
            before = len(asyncio.all_tasks())
            timer = client._driver._alarm._timer
            futures = [client.submit("m", {"x": X}, deadline=20.0) for _ in range(100)]
            assert len(asyncio.all_tasks()) == before
            assert client._driver._alarm._timer is timer
            await asyncio.gather(*futures)

    with Peer() as peer:
        run(main())


@pytest.mark.parametrize("deadline", [0.005, 0.1])
def test_a_deadline_passes_in_time_and_the_server_is_told(run: Run, deadline: float) -> None:
    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            loop = asyncio.get_running_loop()
            before = loop.time()
            with pytest.raises(LocalDeadlineExceeded):
                await client.infer("m", {"x": X}, deadline=deadline)
            assert loop.time() - before < deadline + 1.0
            await client.ping(deadline=5.0)
            assert peer.connection().cancelled == [1]

    with Peer(silent) as peer:
        run(main())


def test_cancelling_the_task_cancels_the_call(run: Run) -> None:
    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            task = asyncio.create_task(client.infer("m", {"x": X}))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            future = client.submit("m", {"x": X})
            future.cancel()
            await asyncio.sleep(0)
            await client.ping(deadline=5.0)
            assert peer.connection().cancelled == [1, 2]

    with Peer(silent) as peer:
        run(main())


def test_a_status_is_raised_and_the_connection_lives_on(run: Run) -> None:
    def refuse(connection: PeerConnection, message: Message) -> None:
        if message.stream_id == 1:
            connection.end(1, Status.NOT_FOUND, "no model 'm'")
        else:
            echo(connection, message)

    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            with pytest.raises(NotFound, match="no model 'm'"):
                await client.infer("m", {"x": X})
            await client.infer("m", {"x": X})
            assert len(peer.connections) == 1

    with Peer(refuse) as peer:
        run(main())


@pytest.mark.parametrize("how", ["vanish", "hang_up"])
def test_a_server_that_disappears_under_a_call_leaves_it_unknown_and_is_dialled_again(run: Run, how: str) -> None:
    def disappear(connection: PeerConnection, message: Message) -> None:
        if connection.number == 1:
            getattr(connection, how)()
        else:
            echo(connection, message)

    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            with pytest.raises(ConnectionLost):
                await client.infer("m", {"x": X})
            np.testing.assert_array_equal((await client.infer("m", {"x": X}, deadline=5.0))["x"], X)
            assert len(peer.connections) == 2

    with Peer(disappear) as peer:
        run(main())


def test_goaway_moves_what_did_not_start_and_lets_the_rest_finish(run: Run) -> None:
    first: list[Message] = []

    def drain(connection: PeerConnection, message: Message) -> None:
        message.body = memoryview(bytes(message.body))
        if connection.number == 1:
            first.append(message)
            if message.stream_id == 2:
                connection.goaway(1, "restart")
        else:
            echo(connection, message)
            peer.connection(0).reply(first[0])

    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            results = await asyncio.gather(*(client.infer("m", {"x": X + n}, deadline=10.0) for n in range(2)))
            for n, result in enumerate(results):
                np.testing.assert_array_equal(result["x"], X + n)
            assert len(peer.connections) == 2

    with Peer(drain) as peer:
        run(main())


def test_a_refused_connection_is_told_with_what_to_do(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ConnectFailed, match="is the server running"):
            await aio.connect("tw+unix:///nonexistent/socket", timeout=5.0)

    run(main())


def test_a_server_that_accepts_and_says_nothing_fails_within_the_timeout(run: Run) -> None:
    import socket

    async def main() -> None:
        with pytest.raises(ConnectFailed):
            await aio.connect(f"tw://127.0.0.1:{listener.getsockname()[1]}", timeout=0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        run(main())


def test_wait_for_ready_waits_for_a_server_that_comes_up_later(run: Run, tmp_path: Path) -> None:
    made: list[Peer] = []

    async def main() -> None:
        async with await aio.connect(f"tw+unix://{tmp_path}/s", wait_for_ready=True) as client:
            await client.infer("m", {"x": X}, deadline=5.0)

    timer = threading.Timer(0.15, lambda: made.append(Peer(unix=tmp_path / "s")))
    timer.start()
    try:
        run(main())
    finally:
        timer.join()
        made[0].close()


def test_close_fails_what_is_open_and_refuses_what_comes(run: Run) -> None:
    async def main() -> None:
        client = await aio.connect(peer.url)
        future = client.submit("m", {"x": X})
        await client.close()
        await client.close()
        with pytest.raises(ClientClosed):
            await future
        with pytest.raises(ClientClosed):
            await client.infer("m", {"x": X})

    with Peer(silent) as peer:
        run(main())


def test_an_input_that_cannot_be_sent_is_refused_before_anything_is(run: Run) -> None:
    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            with pytest.raises(InvalidInput):
                await client.infer("m", {"x": object()})

    with Peer() as peer:
        run(main())


def test_health_is_watched_as_a_stream(run: Run) -> None:
    reports = [HealthReport((Health("m", "1", state),)) for state in (State.IDLE, State.SERVING)]

    def watch(connection: PeerConnection, message: Message) -> None:
        for report in reports:
            encoded = Encoder().encode("$health", "", {"payload": np.frombuffer(report.pack(), np.uint8)})
            ext = b"\x01\x08" + encoded.dims
            connection.send(message.stream_id, encoded.meta, ext, b"".join(encoded.buffers), flags=0)

    async def main() -> None:
        async with await aio.connect(peer.url) as client:
            stream = client.watch_health("m")
            assert [await anext(stream), await anext(stream)] == reports
            await stream.aclose()
            await client.ping(deadline=5.0)
            assert peer.connection().cancelled == [1]

    with Peer(watch) as peer:
        run(main())
