"""TLS between a socket and its connection, without either: a client in memory, and what stands above written down."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tensorwire.protocol import ErrorCode
from tensorwire.server.front.tls_layer import TlsLayer
from tensorwire.server.tls import Certificates
from tests.support import certificates as support

BIG = bytes(range(256)) * 400  # more than six records of TLS


class Socket:
    """asyncio's transport: what was written and done."""

    def __init__(self) -> None:
        self.written = b""
        self.calls: list[str] = []
        self.eof = False
        self.closed = False
        self.aborted = False

    def write(self, data: bytes) -> None:
        assert not self.eof
        self.written += data

    def writelines(self, buffers: Iterable[bytes]) -> None:
        self.write(b"".join(buffers))

    def write_eof(self) -> None:
        self.eof = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


class Above:
    """What stands above the layer: every byte that it was handed, and what it was told. Reads `size` at a time."""

    def __init__(self, size: int = 1000) -> None:
        self.memory = memoryview(bytearray(size))
        self.received = b""
        self.thrown_away = 0
        self.told: list[Any] = []
        self.pause_at = self.abort_at = 1 << 30
        self.layer: TlsLayer

    def connection_made(self, layer: TlsLayer) -> None:
        self.layer = layer
        self.told.append("made")

    def get_buffer(self, _hint: int) -> memoryview:
        return self.memory

    def buffer_updated(self, nbytes: int) -> None:
        if "closed" in self.told:
            self.thrown_away += nbytes
            return
        self.received += bytes(self.memory[:nbytes])
        if len(self.received) >= self.pause_at:
            self.layer.pause_reading()
        if len(self.received) >= self.abort_at:
            self.layer.abort()

    def secured(self, certificate: dict[str, Any] | None) -> bool:
        self.told.append("secured")
        return True

    def refuse(self, reason: str, code: ErrorCode, _detail: str) -> None:
        self.told.append((reason, code))
        self.layer.write(b"CLOSE")
        self.close()

    def close(self) -> None:
        self.told.append("closed")
        self.layer.write_eof()

    def eof_received(self) -> bool:
        self.told.append("eof")
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self.told.append("lost")


class Pair:
    """A client of TLS in memory and the layer that serves it."""

    def __init__(self, certificates: Certificates, trusted: Path, size: int = 1000) -> None:
        context = ssl.create_default_context(cafile=str(trusted))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.socket, self.above = Socket(), Above(size)
        above: Any = self.above
        self.layer = TlsLayer(above, certificates.served.context, memoryview(bytearray(1 << 18)))
        raw: Any = self.socket
        self.layer.connection_made(raw)

    def arrive(self, data: bytes) -> None:
        """Bytes come in at the socket."""
        self.layer.get_buffer(-1)[: len(data)] = data
        self.layer.buffer_updated(len(data))

    def flow(self) -> None:
        """What the client has sent arrives; what the layer has sent arrives there."""
        if self.outgoing.pending:
            self.arrive(self.outgoing.read())
        self.incoming.write(self.socket.written)
        self.socket.written = b""

    def shake(self) -> Pair:
        for _ in range(2):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                self.flow()
        self.flow()
        return self

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.client.write(view) :]

    def read(self) -> bytes:
        """All that the client can read."""
        found = b""
        try:
            while data := self.client.read(1 << 20):
                found += data
        except ssl.SSLWantReadError:
            pass
        return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> support.Certificates:
    return support.make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def pair(files: support.Certificates) -> Pair:
    return Pair(Certificates(*files.server), files.ca)


def test_the_connection_is_made_before_tls_is_so_that_it_counts_and_its_time_runs(pair: Pair) -> None:
    assert pair.above.told == ["made"]
    pair.shake()
    assert pair.above.told == ["made", "secured"]


def test_bytes_pass_both_ways(pair: Pair) -> None:
    pair.shake()
    pair.send(BIG)
    pair.flow()
    assert pair.above.received == BIG
    pair.layer.writelines([BIG[:7], memoryview(BIG)[7:]])
    pair.layer.write(b"end")
    pair.flow()
    assert pair.read() == BIG + b"end"


def test_ciphertext_that_comes_byte_by_byte_is_the_same(pair: Pair) -> None:
    pair.shake()
    pair.send(BIG[:20000])
    for byte in pair.outgoing.read():
        pair.arrive(bytes((byte,)))
    assert pair.above.received == BIG[:20000]


def test_what_is_written_before_there_is_tls_goes_nowhere(pair: Pair) -> None:
    pair.layer.write(b"secret")
    pair.layer.writelines([b"secret"])
    assert pair.socket.written == b""
    pair.shake()
    pair.flow()
    assert pair.read() == b""


def test_while_reading_is_paused_nothing_is_handed_on_and_nothing_is_lost(pair: Pair) -> None:
    async def run() -> None:
        pair.shake()
        pair.above.pause_at = 3000
        pair.send(BIG)
        pair.flow()
        assert pair.socket.calls == ["pause"]
        assert len(pair.above.received) == 3000
        pair.above.pause_at = 1 << 30
        pair.layer.resume_reading()
        assert pair.socket.calls == ["pause", "resume"]
        await asyncio.sleep(0)
        assert pair.above.received == BIG

    asyncio.run(run())


def test_resumed_after_the_end_it_hands_nothing_on(pair: Pair) -> None:
    async def run() -> None:
        pair.shake()
        pair.above.pause_at = 1000
        pair.send(BIG)
        pair.flow()
        pair.layer.resume_reading()
        pair.above.close()
        pair.layer.connection_lost(None)
        await asyncio.sleep(0)
        assert len(pair.above.received) == 1000

    asyncio.run(run())


@pytest.mark.parametrize("data", [b"", b"x", BIG])
def test_the_clients_last_word_is_told_after_all_before_it(pair: Pair, data: bytes) -> None:
    pair.shake()
    pair.send(data)
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.flow()
    assert pair.above.received == data
    assert pair.above.told[-1] == "eof"
    assert pair.socket.closed


def test_closing_says_goodbye_and_counts_what_comes_after_it(pair: Pair) -> None:
    pair.shake()
    pair.layer.write(b"last")
    pair.above.close()
    assert pair.socket.eof
    pair.send(b"too late")
    late = pair.outgoing.read()
    pair.arrive(late)
    assert pair.above.received == b""
    assert pair.above.thrown_away == len(late)
    pair.flow()
    assert pair.read() == b"last"  # and then the end: read() has seen the goodbye


@pytest.mark.parametrize(
    ("first", "answered"), [(b"\x80", False), (b"GET / HTTP/1.1\r\n\r\n", True), (b"\x15\x03\x01\0\x02\x02\x28", True)]
)
def test_what_is_no_tls_is_refused_and_nothing_of_it_reaches_openssl_or_above(
    pair: Pair, first: bytes, answered: bool
) -> None:
    pair.arrive(first)
    assert pair.above.told == ["made", ("plaintext", ErrorCode.HANDSHAKE), "closed"]
    assert pair.above.received == b""
    assert b"tws://" in pair.socket.written
    assert b"CLOSE" not in pair.socket.written  # it would not understand


def test_plain_tensorwire_is_refused_in_its_own_words(pair: Pair) -> None:
    from tensorwire.protocol.limits import PREFACE

    pair.arrive(PREFACE + b"HELLO")
    assert pair.above.told == ["made", ("plaintext", ErrorCode.HANDSHAKE), "closed"]
    assert pair.socket.written == b"CLOSE"


def test_a_record_that_was_changed_ends_all(pair: Pair) -> None:
    pair.shake()
    pair.send(b"hello")
    sealed = bytearray(pair.outgoing.read())
    sealed[-1] ^= 1
    pair.arrive(bytes(sealed))
    assert pair.above.received == b""
    assert pair.above.told[-2:] == [("tls", ErrorCode.INTERNAL), "closed"]
    pair.flow()
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        pair.read()


def test_once_it_is_aborted_nothing_more_is_handed_on(pair: Pair) -> None:
    pair.shake()
    pair.above.abort_at = 2000
    pair.send(BIG)
    pair.flow()
    assert len(pair.above.received) == 2000
    assert pair.socket.aborted


def test_a_lost_socket_leaves_nothing_behind(pair: Pair) -> None:
    pair.shake()
    pair.layer.connection_lost(None)
    assert pair.above.told[-1] == "lost"
    pair.layer.write(b"late")
    pair.layer.write_eof()
    assert pair.socket.written == b""
