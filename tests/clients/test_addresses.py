"""Names with several addresses, some of which are silent, and names that take their time: the deadline holds, and the
first address that answers is the one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import uvloop

import tensorwire
from tensorwire.clients import aio, sockets
from tensorwire.clients.errors import ConnectFailed, ConnectionLost, DeadlineExceeded, TensorwireError
from tensorwire.clients.url import parse_url
from tests.support.peer import Peer

X = np.ones((1, 4), np.float32)
NAME = "localhost"


@pytest.fixture
def silent() -> Iterator[int]:
    """A port on 127.0.0.2 that takes no connection: its backlog is full, so that the kernel drops what comes."""
    with contextlib.ExitStack() as made:
        listener = made.enter_context(socket.socket())
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        for _ in range(8):
            sock = made.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what the resolver knows of NAME, and how long it takes; the only thing that is not real here."""
    real = socket.getaddrinfo

    def resolve(*where: tuple[str, int], slow: threading.Event | None = None) -> None:
        def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            if host != NAME or kwargs.get("flags") == socket.AI_NUMERICHOST:
                return real(host, port, *args, **kwargs)
            if slow is not None:
                slow.wait(30)
            return [found for host, port in where for found in real(host, port, type=socket.SOCK_STREAM)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return resolve


def call_blocking(url: str, timeout: float) -> None:
    with tensorwire.connect(url, timeout=timeout) as client:
        client.infer("m", {"x": X})


def call_awaiting(loop: Callable[[], asyncio.AbstractEventLoop]) -> Callable[[str, float], None]:
    async def main(url: str, seconds: float) -> None:
        async with await aio.connect(url, timeout=seconds) as client:
            await client.infer("m", {"x": X})

    def call(url: str, timeout: float) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main(url, timeout))

    return call


CLIENTS = pytest.mark.parametrize(
    "call",
    [call_blocking, call_awaiting(asyncio.new_event_loop), call_awaiting(uvloop.new_event_loop)],
    ids=["blocking", "asyncio", "uvloop"],
)


@CLIENTS
def test_a_silent_first_address_does_not_keep_the_second_waiting(
    call: Callable[[str, float], None], silent: int, resolve: Callable[..., None]
) -> None:
    with Peer() as peer:
        resolve(("127.0.0.2", silent), ("127.0.0.1", peer.port))
        before = time.monotonic()
        call(f"tw://{NAME}", 60.0)
        assert sockets.NEXT_ADDRESS <= time.monotonic() - before < 30.0


@CLIENTS
def test_what_came_of_every_address_is_told_in_one_line(
    call: Callable[[str, float], None], silent: int, resolve: Callable[..., None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    resolve(("127.0.0.1", port), ("127.0.0.3", port))
    with pytest.raises(
        ConnectFailed, match=r"127\.0\.0\.1: connection refused; 127\.0\.0\.3: connection refused; is the"
    ):
        call(f"tw://{NAME}", 10.0)
    resolve(("127.0.0.2", silent), ("127.0.0.1", port))
    with pytest.raises(ConnectFailed, match=r"within|127\.0\.0\.2: no answer"):
        call(f"tw://{NAME}", 0.6)


@CLIENTS
def test_a_slow_look_up_keeps_the_deadline(call: Callable[[str, float], None], resolve: Callable[..., None]) -> None:
    slow = threading.Event()
    try:
        with Peer() as peer:
            resolve(("127.0.0.1", peer.port), slow=slow)
            before = time.monotonic()
            with pytest.raises(ConnectFailed, match=r"no answer in time|within"):
                call(f"tw://{NAME}", 0.3)
            assert time.monotonic() - before < 15.0
    finally:
        slow.set()


def test_look_ups_that_do_not_end_are_not_begun_without_end(resolve: Callable[..., None]) -> None:
    slow = threading.Event()
    try:
        resolve(slow=slow)
        errors = []
        for _ in range(sockets.MAX_LOOKUPS + 2):
            with pytest.raises(OSError) as caught:
                sockets.look_up(NAME, 1, time.monotonic() + 0.01, sockets.wanted)
            errors.append(str(caught.value))
        assert "being looked up, and the system's resolver does not answer" in errors[-1]
    finally:
        slow.set()
        while sockets._looking_up:
            threading.Event().wait(0.01)


def test_families_take_turns() -> None:
    four = [(socket.AF_INET, n) for n in range(3)]
    six = [(socket.AF_INET6, n) for n in range(2)]
    assert sockets.in_turn([*six, *four]) == [six[0], four[0], six[1], four[1], four[2]]
    assert sockets.in_turn(four) == four


@pytest.mark.parametrize(("first", "second"), [(0.3, 60.0), (60.0, 0.3)], ids=["short dials", "long dials"])
def test_a_short_deadline_ends_no_other_call_that_waits_for_the_same_connection(
    silent: int, first: float, second: float
) -> None:
    """Whichever of the two dials: the short one ends at its deadline, the other when no connection can be had."""
    ended: dict[float, tuple[float, BaseException]] = {}
    with Peer() as peer, tensorwire.connect(f"tw://127.0.0.1:{peer.port}", timeout=3.0) as client:
        client.infer("m", {"x": X})
        dialler = client._driver._dialler
        dialler._address = parse_url(f"tw://127.0.0.2:{silent}")
        peer.connection().hang_up()
        with pytest.raises(ConnectionLost):
            client.infer("m", {"x": X})

        def call(deadline: float) -> None:
            before = time.monotonic()
            with pytest.raises(TensorwireError) as caught:
                client.infer("m", {"x": X}, deadline=deadline)
            ended[deadline] = (time.monotonic() - before, caught.value)

        threads = [threading.Thread(target=call, args=(deadline,)) for deadline in (first, second)]
        for thread in threads:
            thread.start()
            while thread.is_alive() and not dialler.lead.holder:
                threading.Event().wait(0.001)
        for thread in threads:
            thread.join(60.0)
    assert isinstance(ended[0.3][1], DeadlineExceeded)
    assert isinstance(ended[60.0][1], ConnectFailed)
    assert ended[0.3][0] < ended[60.0][0]
    assert ended[60.0][0] > 2.5
