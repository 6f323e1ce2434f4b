"""An attacker between a real client and a real server with keys: bits changed, bytes withheld, sessions played again.

The server is `tensorwire serve --keys`; its model writes a line for each call, so that what it ran is counted there.
What is done to every byte without a network is in test_signed_handshake.py and test_signed_session.py; here are
samples, and every byte when soaking.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

import tensorwire
from tensorwire.clients.errors import BadReply, ConnectFailed, ConnectionLost, TensorwireError
from tensorwire.protocol import FrameType, Status
from tensorwire.protocol.header import HEADER_SIZE
from tensorwire.protocol.limits import PREFACE
from tests.attacks.peer import LIMIT, SOAK
from tests.attacks.signed import SUITES, flipped
from tests.integration.models import flat
from tests.support.server import ServerProcess, running_server, write_model
from tests.support.wire import TIMEOUT

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

COUNTS = """
def build():
    def run(inputs):
        with open({path!r}, "a") as file:
            file.write("x" * len(inputs["x"]) + "\\n")
        return {{"y": inputs["x"] * 2}}
    return run
"""
X = np.arange(4, dtype=np.float32).reshape(1, 4)
HANDSHAKE_TIMEOUT = 1.0


class Keyed:
    """A server with one key, and what its model has run."""

    def __init__(self, server: ServerProcess, key: str, ran: Path, log: Path) -> None:
        self.server, self.key, self._ran, self.log = server, key, ran, log

    @property
    def calls(self) -> int:
        """Calls that the model has run."""
        return len(self._ran.read_text().splitlines()) if self._ran.exists() else 0


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    folder = tmp_path_factory.mktemp("keyed")
    ran, log, keys = folder / "ran", folder / "server.log", folder / "keys.toml"
    write_model(folder / "models", "m", COUNTS.format(path=str(ran)), flat(warmup=False))
    command = [sys.executable, "-m", "tensorwire", "keys", "new", "--principal", "alice", str(keys)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    key = next(word for word in made.stdout.split() if ":" in word and len(word.partition(":")[2]) == 43)
    flags = ("--keys", str(keys), "--log-format", "json", "--handshake-timeout", str(HANDSHAKE_TIMEOUT))
    with running_server(folder / "models", *flags, log=log) as server:
        yield Keyed(server, key, ran, log)
        assert server.metric("tensorwire_connections_pending") == 0
    assert key.partition(":")[2] not in log.read_text(), "a secret is in the log"
    assert "Traceback" not in log.read_text()


class Between:
    """A proxy for one connection; whoever comes after the first is turned away.

    flip: (whether of the client's bytes, the bit). cut: so many bytes of the server's, or of the client's, go through;
    then both sides get an end of stream, or a reset.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        flip: tuple[bool, int] | None = None,
        cut: tuple[bool, int] | None = None,
        reset: bool = False,
    ) -> None:
        self._address, self._flip, self._cut, self._reset = address, flip, cut, reset
        self.said: dict[bool, bytearray] = {True: bytearray(), False: bytearray()}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tw://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            ours, _ = self._listener.accept()
            self._sockets.append(ours)
            self._sockets.append(socket.create_connection(self._address, TIMEOUT))
            for end in self._sockets:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError):
                while self._cut != (False, 0) and self._move():
                    pass
            self._end()
            while True:
                self._listener.accept()[0].close()

    def _move(self) -> bool:
        """Carry over what is there; False once it is over."""
        ready, _, _ = select.select(self._sockets, [], [], TIMEOUT)
        for source in ready:
            up = source is self._sockets[0]
            sink = self._sockets[1] if up else self._sockets[0]
            data = source.recv(1 << 16)
            start = len(self.said[up])
            self.said[up] += data
            if self._flip is not None and self._flip[0] is up and start <= self._flip[1] >> 3 < len(self.said[up]):
                data = flipped(data, self._flip[1] - 8 * start)
            if self._cut is not None and self._cut[0] is up and len(self.said[up]) >= self._cut[1]:
                sink.sendall(data[: self._cut[1] - start])
                return False
            sink.sendall(data)
            if not data:
                return False
        return bool(ready)

    def _end(self) -> None:
        for end in self._sockets:
            if self._reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        assert not self._thread.is_alive()
        for end in self._sockets:
            end.close()


def blocking_call(url: str, key: str, mac: str) -> Any:
    with tensorwire.connect(url, key=key, mac=mac, timeout=5) as client:
        return client.infer("m", {"x": X}, deadline=5)["y"]


def asyncio_call(url: str, key: str, mac: str) -> Any:
    async def run() -> Any:
        async with await tensorwire.aio.connect(url, key=key, mac=mac, timeout=5) as client:
            return (await client.infer("m", {"x": X}, deadline=5))["y"]

    return asyncio.run(run())


CLIENTS = {"blocking": blocking_call, "asyncio": asyncio_call}
each_client = pytest.mark.parametrize("call", CLIENTS.values(), ids=CLIENTS.keys())
each_suite = pytest.mark.parametrize("suite", SUITES)


def failure(between: Between, keyed: Keyed, call: Any, suite: str) -> TensorwireError:
    """The error of a call through the proxy: one of the library's, in time, and not a deadline's."""
    with pytest.raises(TensorwireError) as caught:
        call(between.url, keyed.key, suite)
    assert isinstance(caught.value, ConnectFailed | ConnectionLost | BadReply), caught.value
    return caught.value


def record_ends(data: bytes, start: int) -> list[int]:
    """Where each record from `start` on ends."""
    ends = []
    while start < len(data):
        start += 4 + int.from_bytes(data[start : start + 4], "little") + 16
        ends.append(start)
    return ends


def honest(keyed: Keyed, call: Any, suite: str) -> tuple[bytes, bytes]:
    """What both sides say when nobody interferes, up to the reply; that it works."""
    with Between(keyed.server.address) as between:
        np.testing.assert_array_equal(call(between.url, keyed.key, suite), X * 2)
        return bytes(between.said[True]), bytes(between.said[False])


def parts(up: bytes, down: bytes) -> dict[tuple[bool, str], range]:
    """Where the flights of the handshake lie."""
    hello = len(PREFACE) + HEADER_SIZE + int.from_bytes(up[len(PREFACE) : len(PREFACE) + 4], "little")
    auth = hello + HEADER_SIZE + int.from_bytes(up[hello : hello + 4], "little")
    welcome = HEADER_SIZE + int.from_bytes(down[:4], "little")
    assert (up[len(PREFACE) + 4], up[hello + 4], down[4]) == (FrameType.HELLO, FrameType.AUTH, FrameType.WELCOME)
    return {
        (True, "hello"): range(hello),
        (True, "auth"): range(hello, auth),
        (False, "welcome"): range(welcome),
        (False, "ready"): range(welcome, record_ends(down, welcome)[0]),
    }


@pytest.mark.soak
@each_client
@each_suite
def test_no_bit_of_a_real_handshake_can_be_changed(keyed: Keyed, call: Any, suite: str) -> None:
    flights = parts(*honest(keyed, call, suite))
    before = keyed.calls
    for (up, _), where in flights.items():
        # A length that has grown is waited for until the handshake is given up: few of those.
        bits = range(8 * where.start, 8 * where.stop, 1 if SOAK else 149)
        for bit in bits:
            with Between(keyed.server.address, flip=(up, bit)) as between:
                error = failure(between, keyed, call, suite)
            assert error.not_started or isinstance(error, ConnectFailed), bit
    assert keyed.calls == before, "the model has run"


@pytest.mark.soak
@each_client
@each_suite
def test_no_bit_of_a_real_call_can_be_changed(keyed: Keyed, call: Any, suite: str) -> None:
    """Of the request: the model does not run it. Of the reply: the caller does not get it."""
    up, down = honest(keyed, call, suite)
    flights = parts(up, down)
    for of_client, start, end in (
        (True, flights[True, "auth"].stop, record_ends(up, flights[True, "auth"].stop)[0]),
        (False, flights[False, "ready"].stop, record_ends(down, flights[False, "ready"].stop)[0]),
    ):
        before = keyed.calls
        bits = range(8 * (start + 4), 8 * end, 1 if SOAK else 101)  # behind n: a longer record would be waited for
        for bit in bits:
            with Between(keyed.server.address, flip=(of_client, bit)) as between:
                error = failure(between, keyed, call, suite)
            assert isinstance(error, ConnectionLost | BadReply), bit
        assert keyed.calls - before == (0 if of_client else len(bits)), "calls that the model has run"


@pytest.mark.soak
@each_client
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_a_reply_that_is_cut_short_is_never_a_success(keyed: Keyed, call: Any, reset: bool) -> None:
    """Before READY nothing was started; from then on the outcome is unknown, and neither is ever a result."""
    for suite in SUITES:
        up, down = honest(keyed, call, suite)
        ready = parts(up, down)[False, "ready"].stop
        reply = record_ends(down, ready)[0]
        for cut in range(0, reply, 1 if SOAK else 23):
            with Between(keyed.server.address, cut=(False, cut), reset=reset) as between:
                error = failure(between, keyed, call, suite)
            if cut < ready:
                assert isinstance(error, ConnectFailed), cut
            elif isinstance(error, ConnectionLost) and not error.not_started:
                assert error.status is Status.UNKNOWN, cut
            else:  # the reset was there before READY was read
                assert cut == ready or reset, (cut, error)


@each_suite
def test_a_session_that_was_heard_runs_nothing_when_it_is_played_again(keyed: Keyed, suite: str) -> None:
    """Every byte that the client of a good call said, at once and piece by piece, from another socket."""
    up, down = honest(keyed, blocking_call, suite)
    hello = parts(up, down)[True, "hello"].stop
    before = keyed.calls
    for pieces in ((up,), (up[:hello], up[hello:]), (up[:hello], up[hello:], up[hello:])):
        with socket.create_connection(keyed.server.address, TIMEOUT) as raw:
            answer = b""
            with suppress(ConnectionResetError, BrokenPipeError):
                for piece in pieces:
                    raw.sendall(piece)
                while data := raw.recv(1 << 16):
                    answer += data
        welcome = HEADER_SIZE + int.from_bytes(answer[:4], "little")
        assert answer[4] == FrameType.WELCOME
        assert len(record_ends(answer, welcome)) <= 1, "more than the refusal"
    assert keyed.calls == before


def test_the_server_is_well_and_has_logged_it_in_order(keyed: Keyed) -> None:
    url = "tw://{}:{}".format(*keyed.server.address)
    np.testing.assert_array_equal(blocking_call(url, keyed.key, "hmac-sha256"), X * 2)
    assert keyed.server.metric("tensorwire_connections_pending") == 0
    for line in keyed.log.read_text().splitlines():
        assert line.isprintable()
        assert json.loads(line)["level"] in ("info", "warning"), line
