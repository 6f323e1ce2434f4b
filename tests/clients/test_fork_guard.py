"""A client across a fork: the parent's goes on, whatever the child does with it, and the child's is refused."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

import tensorwire
from tensorwire.clients import aio
from tensorwire.clients.blocking import Client
from tensorwire.clients.errors import ForkedClient
from tensorwire.protocol.capture import read_frames
from tests.support.certificates import Certificates, make_certificates
from tests.support.peer import Peer

X = np.arange(16, dtype=np.float32).reshape(1, 16)

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=["tcp", "unix", "tls"])
def peer(request: pytest.FixtureRequest, files: Certificates, tmp_path: Path) -> Iterator[Peer]:
    context = None
    if request.param == "tls":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files.server)
    with Peer(unix=tmp_path / "s" if request.param == "unix" else None, tls=context) as made:
        yield made


def options(peer: Peer, files: Certificates) -> dict[str, Any]:
    return {"tls_ca": files.ca} if peer.url.startswith("tws") else {}


def in_a_child(work: Callable[[], None]) -> None:
    """Do ``work`` in a forked child, which must come to its end."""
    child = os.fork()
    if child == 0:
        code = 1
        signal.alarm(20)  # a child that hangs must not outlive the test
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def finish(step: Awaitable[object]) -> None:
    """Run a coroutine that must not have to wait: the child has no loop of its own."""
    with pytest.raises(StopIteration):
        step.__await__().__next__()


def close_socket(client: Client) -> None:
    wire = client._driver._wire
    assert wire is not None
    wire.sock.close()


def close(client: aio.Client) -> None:
    finish(client.close())


def leave(client: aio.Client) -> None:
    finish(client.__aexit__(None, None, None))


def collect(client: aio.Client) -> None:
    for wire in client._driver._wires:
        wire._transport.abort()  # as the collector and the end of a loop do
    client.__dict__.clear()
    gc.collect()


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("deed", [close, leave, collect])
def test_nothing_that_a_child_does_reaches_the_asyncio_client_of_its_parent(
    peer: Peer, files: Certificates, loop: Callable[[], asyncio.AbstractEventLoop], deed: Callable[[aio.Client], None]
) -> None:
    async def main() -> None:
        async with await aio.connect(peer.url, **options(peer, files)) as client:
            await client.infer("m", {"x": X})

            def work() -> None:
                with pytest.raises(ForkedClient, match="connect again in the child"):
                    finish(client.infer("m", {"x": X}))
                deed(client)

            in_a_child(work)
            for _ in range(3):
                np.testing.assert_array_equal((await client.infer("m", {"x": X}, deadline=10.0))["x"], X)
        assert len(peer.connections) == 1

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("deed", ["close", "leave", "collect"])
def test_nothing_that_a_child_does_reaches_the_blocking_client_of_its_parent(
    peer: Peer, files: Certificates, deed: str
) -> None:
    with tensorwire.connect(peer.url, **options(peer, files)) as client:
        client.infer("m", {"x": X})

        def work() -> None:
            with pytest.raises(ForkedClient, match="connect again in the child"):
                client.infer("m", {"x": X})
            if deed == "close":
                client.close()
            elif deed == "leave":
                client.__exit__(None, None, None)
            else:
                close_socket(client)  # as the collector does

        in_a_child(work)
        for _ in range(3):
            np.testing.assert_array_equal(client.infer("m", {"x": X}, deadline=10.0)["x"], X)
        assert len(peer.connections) == 1


def test_a_child_keeps_no_connection_of_its_parent_open() -> None:
    ready, go = os.pipe()
    with Peer() as peer:
        client = tensorwire.connect(peer.url)
        child = os.fork()
        if child == 0:
            os.read(ready, 1)
            os._exit(0)
        close_socket(client)  # as when the parent dies
        assert peer.connection().closed.wait(10)
        os.write(go, b".")
        os.waitpid(child, 0)
    for descriptor in (ready, go):
        os.close(descriptor)


def test_a_child_writes_nothing_into_its_parents_capture(tmp_path: Path) -> None:
    capture = tmp_path / "capture"
    with Peer() as peer, tensorwire.connect(peer.url, capture=capture) as client:
        client.infer("m", {"x": X})
        recorder = client._driver._core.capture
        assert recorder is not None
        in_a_child(recorder.close)  # as the child's exit does
        assert capture.stat().st_size == 0  # all of it still lies in the parent's buffer
        client.infer("m", {"x": X})
    with capture.open("rb") as file:
        assert sum(1 for _ in read_frames(file)) > 4
