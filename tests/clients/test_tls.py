"""TLS of the clients: files, the environment, what errors say, and that nothing goes on where something is amiss."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tensorwire
from tensorwire.clients import aio, aio_wire, tls
from tensorwire.clients.blocking import Client
from tensorwire.clients.errors import AuthenticationError, ConnectFailed, InvalidInput, TensorwireError
from tensorwire.clients.options import ClientOptions
from tensorwire.clients.sockets import explain
from tensorwire.clients.tls import Channel, Trust, binding_of, describe, refused, trust_for
from tensorwire.clients.url import Address, parse_url
from tests.support.certificates import Certificates, bundle, make_certificates

Talk = Callable[[ssl.SSLSocket], None]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (tls.CA_VARIABLE, tls.CERT_VARIABLE, tls.KEY_VARIABLE, "TENSORWIRE_KEY", "TENSORWIRE_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class Server:
    """Accepts one connection, has the TLS handshake with it, and then does what the test says."""

    def __init__(self, files: Certificates, talk: Talk) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*files.server)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"tws://127.0.0.1:{self.listening.getsockname()[1]}"
        self.received = b""
        self.accepted = 0
        self.thread = threading.Thread(target=self._run, args=(talk,), daemon=True)
        self.thread.start()

    def _run(self, talk: Talk) -> None:
        while True:
            try:
                plain, _ = self.listening.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                with self.context.wrap_socket(plain, server_side=True) as sock:
                    talk(sock)
            except OSError:
                plain.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join(10)


@pytest.fixture
def serve(files: Certificates) -> Iterator[Callable[[Talk], Server]]:
    made: list[Server] = []

    def start(talk: Talk) -> Server:
        made.append(Server(files, talk))
        return made[-1]

    yield start
    for server in made:
        server.close()


def connect_both(url: str, **options: Any) -> list[Exception]:
    """How both clients fail to connect."""
    with pytest.raises(TensorwireError) as blocking:
        tensorwire.connect(url, timeout=5.0, **options).close()

    async def run() -> None:
        await (await aio.connect(url, timeout=5.0, **options)).close()

    with pytest.raises(TensorwireError) as awaited:
        asyncio.run(run())
    return [blocking.value, awaited.value]


# -- what is trusted


def test_certificates_are_verified_and_names_checked_and_nothing_older_than_1_3_is_spoken(files: Certificates) -> None:
    for trust in (Trust(), Trust(ca=files.ca), Trust(str(files.ca), *files.client)):
        context = trust.context()
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_a_ca_that_is_given_is_trusted_alone(files: Certificates) -> None:
    assert len(Trust(ca=files.ca).context().get_ca_certs()) == 1


def test_files_that_cannot_be_used_are_named_before_anything_is_sent(files: Certificates, tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    other = make_certificates(tmp_path / "other")
    cert, key = files.client
    options: dict[str, Any]
    for options, words in (
        ({"tls_ca": tmp_path / "none.pem"}, "none.pem.*No such file"),
        ({"tls_ca": text}, "text.pem.*expected PEM"),
        ({"tls_cert": cert}, "go together"),
        ({"tls_key": key}, "go together"),
        ({"tls_cert": cert, "tls_key": other.client[1]}, "key values mismatch"),
        ({"tls_cert": text, "tls_key": key}, "text.pem.*expected PEM"),
        ({"tls_cert": cert, "tls_key": tmp_path / "none.key"}, "none.key.*No such file"),
    ):
        for error in connect_both("tws://127.0.0.1:1", **options):
            assert isinstance(error, InvalidInput)
            with pytest.raises(InvalidInput, match=words):
                raise error


@pytest.mark.parametrize("option", ["tls_ca", "tls_cert", "tls_key"])
@pytest.mark.parametrize("url", ["tw://127.0.0.1:1", "tw+unix:///none.sock"])
def test_options_of_tls_without_tls_in_the_address_are_refused(files: Certificates, option: str, url: str) -> None:
    for error in connect_both(url, **{option: files.ca}):
        assert isinstance(error, InvalidInput)
        assert "tws://" in str(error)


def test_what_the_environment_says_of_tls_does_not_matter_without_it(
    files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tls.CA_VARIABLE, "/none.pem")
    assert trust_for(parse_url("tw://127.0.0.1"), None, None, None) is None
    with pytest.raises(InvalidInput, match=r"none\.pem"):
        trust_for(parse_url("tws://127.0.0.1"), None, None, None)
    assert trust_for(parse_url("tws://127.0.0.1"), files.ca, None, None) is not None


def test_files_that_change_count_at_the_next_connection(files: Certificates, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "other")
    ca = bundle(tmp_path / "ca.pem", files)
    trust = Trust(ca=ca)
    first = trust.context()
    assert trust.context() is first
    bundle(ca, files, other)
    os.utime(ca, ns=(time.time_ns(), time.time_ns() + 1_000_000))
    assert len(trust.context().get_ca_certs()) == 2
    ca.unlink()
    with pytest.raises(InvalidInput, match="No such file"):
        trust.context()


def test_a_trusted_file_that_vanishes_fails_calls_and_does_not_hang(
    serve: Callable[[Talk], Server], files: Certificates, tmp_path: Path
) -> None:
    server = serve(lambda _sock: None)
    ca = bundle(tmp_path / "ca.pem", files)
    client = Client(parse_url(server.url), ClientOptions(key="", tls_ca=ca, wait_for_ready=True))
    ca.unlink()
    with pytest.raises(InvalidInput, match="No such file"):
        client.wait_connected(5.0)
    client.close()
    assert server.accepted == 0


# -- which certificate it was


class Nameless:
    """An SSL object whose certificate is not known."""

    def getpeercert(self, *, binary_form: bool) -> None:
        assert binary_form


def test_the_binding_is_the_hash_of_the_certificate_or_there_is_no_connection() -> None:
    nameless: Any = Nameless()
    with pytest.raises(AuthenticationError, match="cannot be learned"):
        binding_of(nameless)


def test_where_the_certificate_cannot_be_learned_nothing_is_sent(
    serve: Callable[[Talk], Server], files: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[bytes] = []
    server = serve(lambda sock: received.append(sock.recv(4096)))
    nameless: Any = Nameless()
    for module in (tls, aio_wire):
        monkeypatch.setattr(module, "binding_of", lambda _tls: binding_of(nameless))
    for error in connect_both(server.url, tls_ca=files.ca):
        assert isinstance(error, ConnectFailed)
        assert "cannot be learned" in str(error)
    server.close()
    assert server.accepted == 2
    assert b"".join(received) == b""


# -- a channel, without a socket


def shaken(files: Certificates) -> tuple[Channel, ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A channel and the server's end of it, and what that end reads from and writes to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files.server)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(incoming, outgoing, server_side=True)
    channel = Channel(Trust(ca=files.ca).context(), "localhost")
    incoming.write(channel.shake())
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    assert channel.binding == b""
    arrive(channel, outgoing)
    incoming.write(channel.shake())
    server.do_handshake()
    return channel, server, incoming, outgoing


def arrive(channel: Channel, outgoing: ssl.MemoryBIO) -> None:
    data = outgoing.read()
    channel.buffer[: len(data)] = data
    channel.feed(len(data))


def test_a_channel_learns_its_binding_in_the_handshake(files: Certificates) -> None:
    channel, *_ = shaken(files)
    leaf = ssl.PEM_cert_to_DER_cert(files.server[0].read_text())
    assert channel.binding == hashlib.sha256(leaf).digest()


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_a_channel_fills_what_it_is_given_and_keeps_the_rest(files: Certificates, size: int) -> None:
    channel, server, _, outgoing = shaken(files)
    data = bytes(range(256)) * 200
    view = memoryview(data)
    while view:
        view = view[server.write(view) :]
    arrive(channel, outgoing)
    buffer, opened = memoryview(bytearray(size)), b""
    while n := channel.open(buffer):
        assert n == size or len(opened) + n == len(data)
        opened += bytes(buffer[:n])
    assert opened == data
    assert not channel.ended


def test_what_a_channel_seals_is_what_the_server_reads(files: Certificates) -> None:
    channel, server, incoming, _ = shaken(files)
    buffers: list[bytes | memoryview] = [b"head", memoryview(bytes(100_000)), b"tail"]
    for sealed in channel.seal(buffers):
        incoming.write(sealed)
    incoming.write(channel.goodbye())
    received = b""
    while data := server.read(1 << 20):
        received += data
    assert received == b"head" + bytes(100_000) + b"tail"


def test_the_servers_goodbye_is_the_end_and_a_forged_byte_is_an_error(files: Certificates) -> None:
    channel, server, _, outgoing = shaken(files)
    server.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        server.unwrap()
    arrive(channel, outgoing)
    buffer = memoryview(bytearray(100))
    assert channel.open(buffer) == 4
    assert channel.ended
    channel, server, _, outgoing = shaken(files)
    server.write(b"data")
    sealed = bytearray(outgoing.read())
    sealed[-1] ^= 1
    channel.buffer[: len(sealed)] = sealed
    channel.feed(len(sealed))
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        channel.open(buffer)


# -- servers that do not do their part


def test_a_server_that_stops_within_the_handshake_of_tls_is_no_server(files: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def hang_up() -> None:
            for _ in range(2):
                sock, _ = listening.accept()
                sock.recv(1 << 16)
                sock.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        for error in connect_both(f"tws://127.0.0.1:{port}", tls_ca=files.ca):
            assert isinstance(error, ConnectFailed)
            assert "TLS" in str(error)
        thread.join(10)


def test_a_server_of_tls_1_2_is_refused(files: Certificates, serve: Callable[[Talk], Server]) -> None:
    server = serve(lambda _sock: None)
    server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    for error in connect_both(server.url, tls_ca=files.ca):
        assert isinstance(error, ConnectFailed)
        assert "TLS 1.3" in str(error)


def test_tls_that_is_cut_without_a_goodbye_is_no_success(files: Certificates, serve: Callable[[Talk], Server]) -> None:
    def cut(sock: ssl.SSLSocket) -> None:
        sock.recv(4096)
        os.close(sock.detach())

    for error in connect_both(serve(cut).url, tls_ca=files.ca):
        assert isinstance(error, ConnectFailed)


def test_a_server_that_speaks_something_else_inside_tls_is_told_apart(
    files: Certificates, serve: Callable[[Talk], Server]
) -> None:
    def http(sock: ssl.SSLSocket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    for error in connect_both(serve(http).url, tls_ca=files.ca):
        assert "does not speak tensorwire" in str(error)


# -- what errors say


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("WRONG_VERSION_NUMBER", "does not speak TLS"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "TLS 1.3"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "tls_cert and tls_key"),
        ("TLSV1_ALERT_UNKNOWN_CA", "does not take the client's certificate"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "does not take the client's certificate"),
        ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "TLS failed: decryption failed or bad record mac"),
    ],
)
def test_an_error_of_tls_says_what_to_do(reason: str, words: str) -> None:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    assert words in describe(error)
    assert type(refused(error)) is ConnectFailed


def test_a_broken_handshake_asks_whether_it_is_the_right_port() -> None:
    address = Address(host="h", port=1, tls=True)
    assert "TLS handshake" in explain(ConnectionResetError(), address)
    assert "TLS" not in explain(ConnectionResetError(104, "Connection reset by peer"), Address(host="h", port=1))


def test_who_uses_no_tls_does_not_pay_for_its_import() -> None:
    code = "import sys, tensorwire; tensorwire.connect; sys.exit('ssl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_no_switch_turns_the_check_of_certificates_off() -> None:
    """In the package nothing but the server's look at its own certificate does without the check."""
    root = Path(tensorwire.__file__).parent
    sources = {
        f"{part}/{path.name}": path.read_text()
        for part in ("protocol", "codec", "gpu", "server", "clients")
        for path in (root / part).resolve().rglob("*.py")
    }
    found = {
        name
        for name, text in sources.items()
        if any(word in text for word in ("CERT_NONE", "check_hostname", "_create_unverified_context"))
    }
    assert found == {"server/tls.py"}
    assert len(sources) > 50
