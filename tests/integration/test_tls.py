"""TLS from end to end: real certificates, a real server process, both clients; and all that is refused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import uvloop
from click.testing import CliRunner

import tensorwire
from tensorwire.clients import aio
from tensorwire.clients.cli.commands.decode import command as decode
from tensorwire.clients.errors import (
    AuthenticationError,
    ConnectFailed,
    DeadlineExceeded,
    InvalidInput,
    LocalCancelled,
    TensorwireError,
)
from tensorwire.clients.keys import Credentials
from tensorwire.clients.url import Address
from tensorwire.protocol import Connection, FrameType
from tensorwire.protocol.header import HEADER_SIZE
from tensorwire.protocol.limits import PREFACE
from tensorwire.server.key_commands import keys
from tests.attacks.signed import Insider
from tests.integration.models import ECHO, ROW, SLEEPS, flat
from tests.support.certificates import Certificates, bundle, make_certificates, relay, tls_port
from tests.support.server import ServerProcess, running_server, write_model

pytestmark = pytest.mark.timeout(120)

X = np.arange(8, dtype=np.float32).reshape(2, 4)
BIG = np.random.default_rng(0).random((64, ROW), dtype=np.float32)  # 16 MiB

READY_FRAME = bytes([FrameType.READY])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "echo", ECHO, flat())
    write_model(folder, "blob", ECHO, flat(ROW, max_batch=64))
    write_model(folder, "sleeps", SLEEPS, flat(1, engine="process", max_batch=1, warmup=False))
    return folder


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The server's key file and the client's."""
    folder = tmp_path_factory.mktemp("keys")
    file, own = folder / "keys.toml", folder / "robot.key"
    made = CliRunner().invoke(keys, ["new", "--principal", "robot", str(file), "--out", str(own)])
    assert made.exit_code == 0, made.output
    return file, own


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "server.log"


@pytest.fixture(scope="module")
def server(models: Path, certificates: Certificates, key: tuple[Path, Path], log: Path) -> Iterator[ServerProcess]:
    flags = ("--keys", str(key[0]), "--insecure", "--handshake-timeout", "1.5", "--max-pending", "8")
    with running_server(models, *certificates.flags, *flags, log=log) as running:
        yield running
    assert "Traceback" not in log.read_text()


@pytest.fixture
def url(server: ServerProcess) -> str:
    return f"tws://127.0.0.1:{tls_port(server)}"


@pytest.fixture(params=["keyless", "hmac-sha256", "aes-256-gmac"])
def options(request: pytest.FixtureRequest, certificates: Certificates, key: tuple[Path, Path]) -> dict[str, Any]:
    """What clients are given besides the address: over TLS alone, and with each MAC inside TLS."""
    if request.param == "keyless":
        return {"tls_ca": certificates.ca, "key": ""}
    return {"tls_ca": certificates.ca, "key": key[1], "mac": request.param}


# -- calls


@pytest.mark.parametrize("spin", [0.0, 0.001])
def test_the_blocking_client_calls_over_tls(url: str, options: dict[str, Any], spin: float) -> None:
    with tensorwire.connect(url, spin=spin, **options) as client:
        for _ in range(3):
            assert np.array_equal(client.infer("echo", {"x": X})["y"], X)
        assert np.array_equal(client.infer("blob", {"x": BIG})["y"], BIG)
        assert client.ping(deadline=5.0) < 5.0


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_asyncio_client_calls_over_tls(
    url: str, options: dict[str, Any], loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def run() -> None:
        async with await aio.connect(url, **options) as client:
            assert np.array_equal((await client.infer("echo", {"x": X}))["y"], X)
            assert np.array_equal((await client.infer("blob", {"x": BIG}))["y"], BIG)
            many = [client.submit("echo", {"x": X + n}) for n in range(200)]
            for n, future in enumerate(many):
                assert np.array_equal((await future)["y"], X + n)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


def test_a_capture_with_the_right_key_calls_no_proof_made_over_tls_bad(
    server: ServerProcess, url: str, certificates: Certificates, key: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = f"tw://127.0.0.1:{server.address[1]}"
    for address, ca, said in ((plain, None, "good"), (url, certificates.ca, "bad, or made over TLS")):
        capture = tmp_path / "call.twcap"
        with tensorwire.connect(address, key=key[1], tls_ca=ca, capture=capture) as client:
            client.infer("echo", {"x": X})
        shown = CliRunner().invoke(decode, [str(capture), "--key-file", str(key[1]), "--json"])
        assert shown.exit_code == 0, shown.output
        frames = [json.loads(line) for line in shown.output.splitlines()]
        (proof,) = [frame["proof_check"] for frame in frames if frame.get("frame") == "WELCOME"]
        assert proof.startswith(said)


def test_threads_send_and_wait_on_one_connection_at_once(url: str, options: dict[str, Any]) -> None:
    failures: list[BaseException] = []

    def call(client: tensorwire.Client, number: int) -> None:
        try:
            for n in range(40):
                x = np.full((1, 4), number * 1000 + n, np.float32)
                assert np.array_equal(client.infer("echo", {"x": x}, deadline=30.0)["y"], x)
                if n % 20 == number:
                    assert np.array_equal(client.infer("blob", {"x": BIG[:8]}, deadline=30.0)["y"], BIG[:8])
        except BaseException as error:
            failures.append(error)

    with tensorwire.connect(url, **options) as client:
        threads = [threading.Thread(target=call, args=(client, number)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failures == []


def test_a_deadline_and_a_cancel_end_calls_over_tls_and_the_connection_goes_on(
    url: str, options: dict[str, Any]
) -> None:
    long = np.full((1, 1), 0.5, np.float32)
    with tensorwire.connect(url, **options) as client:
        with pytest.raises(DeadlineExceeded):
            client.infer("sleeps", {"x": long}, deadline=0.05)
        pending = client.submit("sleeps", {"x": long})
        assert pending.cancel()
        with pytest.raises(LocalCancelled):
            pending.result()
        assert np.array_equal(client.infer("echo", {"x": X}, deadline=10.0)["y"], X)

    async def run() -> None:
        async with await aio.connect(url, **options) as client:
            with pytest.raises(DeadlineExceeded):
                await client.infer("sleeps", {"x": long}, deadline=0.05)
            task = asyncio.ensure_future(client.infer("sleeps", {"x": long}))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert np.array_equal((await client.infer("echo", {"x": X}, deadline=10.0))["y"], X)

    asyncio.run(run())


def test_a_reader_that_is_slow_gets_all_of_it(url: str, certificates: Certificates) -> None:
    with tensorwire.connect(url, tls_ca=certificates.ca, key="") as client:
        pending = [client.submit("blob", {"x": BIG}) for _ in range(3)]  # nobody reads: the server must wait
        time.sleep(0.3)
        for each in pending:
            assert np.array_equal(each.result(30.0)["y"], BIG)


# -- what the client refuses


def both_fail(url: str, **options: Any) -> list[TensorwireError]:
    """The errors of both clients."""
    with pytest.raises((ConnectFailed, InvalidInput)) as blocking:
        tensorwire.connect(url, key="", timeout=5.0, **options)

    async def run() -> None:
        await aio.connect(url, key="", timeout=5.0, **options)

    with pytest.raises((ConnectFailed, InvalidInput)) as awaited:
        asyncio.run(run())
    return [blocking.value, awaited.value]


def test_a_certificate_of_an_unknown_ca_is_refused_and_no_retry_would_help(url: str, tmp_path: Path) -> None:
    other = make_certificates(tmp_path)
    for error in both_fail(url, tls_ca=other.ca, wait_for_ready=True):
        assert isinstance(error, AuthenticationError)
        assert "tls_ca=" in str(error)


def test_the_systems_cas_are_what_is_trusted_unless_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORWIRE_TLS_CA", raising=False)
    for error in both_fail(url):
        assert isinstance(error, AuthenticationError)


def test_the_environment_names_the_ca(url: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORWIRE_TLS_CA", str(certificates.ca))
    with tensorwire.connect(url, key="") as client:
        assert client.models().models


def test_a_certificate_of_another_host_is_refused(server: ServerProcess, certificates: Certificates) -> None:
    with relay(tls_port(server), certificates, certificates.ca, host="127.0.0.2") as port:
        for error in both_fail(f"tws://127.0.0.2:{port}", tls_ca=certificates.ca):
            assert isinstance(error, AuthenticationError)
            assert "127.0.0.2" in str(error)
            assert "a name that stands in the certificate" in str(error)


def test_tls_spoken_to_a_plain_port_says_so(server: ServerProcess, certificates: Certificates) -> None:
    before = server.metric("tensorwire_connections_dropped_total", reason="not_tensorwire")
    for error in both_fail(f"tws://127.0.0.1:{server.address[1]}", tls_ca=certificates.ca):
        assert "does not speak TLS" in str(error)
        assert "tw://" in str(error)
    # Neither client came back without TLS.
    assert server.metric("tensorwire_connections_dropped_total", reason="not_tensorwire") == before + 2


def test_plain_tensorwire_spoken_to_the_tls_port_says_so(server: ServerProcess, url: str) -> None:
    for error in both_fail(url.replace("tws://", "tw://")):
        assert "use tws://" in str(error)
    server.wait_metric("tensorwire_connections", 0.0)


def test_a_port_where_nobody_answers_in_tls_is_given_up_in_time(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(ConnectFailed, match="no answer in time"):
            tensorwire.connect(
                f"tws://127.0.0.1:{silent.getsockname()[1]}", key="", tls_ca=certificates.ca, timeout=0.3
            )
        assert time.monotonic() - began < 3.0


# -- what the server refuses


def wait_dropped(server: ServerProcess, reason: str, before: float, more: int = 1) -> None:
    """The server has counted so many more, and let go of them."""
    server.wait_metric("tensorwire_connections_dropped_total", before + more, reason=reason)
    server.wait_metric("tensorwire_connections", 0.0)


def dropped(server: ServerProcess, reason: str) -> float:
    return server.metric("tensorwire_connections_dropped_total", reason=reason)


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", b"\0", b"\x15\x03\x03\0\x02\x02\x28", PREFACE, PREFACE[:1]]
)
def test_plaintext_before_a_client_hello_gets_one_answer_and_the_end(server: ServerProcess, first: bytes) -> None:
    before = dropped(server, "plaintext")
    with socket.create_connection(("127.0.0.1", tls_port(server)), timeout=5) as sock:
        sock.sendall(first)
        answer = b""
        while data := sock.recv(4096):  # the end, and no reset
            answer += data
    assert b"over TLS" in answer
    assert len(answer) < 200
    wait_dropped(server, "plaintext", before)


def test_tls_1_2_is_refused_by_an_alert(server: ServerProcess, certificates: Certificates) -> None:
    before = dropped(server, "tls_handshake")
    context = ssl.create_default_context(cafile=str(certificates.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", tls_port(server)), timeout=5) as sock,
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
    ):
        context.wrap_socket(sock, server_hostname="127.0.0.1")
    wait_dropped(server, "tls_handshake", before)


def test_a_client_hello_of_nonsense_is_refused_and_counted(server: ServerProcess) -> None:
    before = dropped(server, "tls_handshake")
    with socket.create_connection(("127.0.0.1", tls_port(server)), timeout=5) as sock:
        sock.sendall(b"\x16\x03\x01\x40\x00" + bytes(0x4000))
        alert = sock.recv(4096)
        assert alert[:1] == b"\x15"
        assert sock.recv(4096) == b""
    wait_dropped(server, "tls_handshake", before)


def test_bytes_forged_within_tls_end_the_connection(server: ServerProcess, certificates: Certificates) -> None:
    before = dropped(server, "tls")
    context = ssl.create_default_context(cafile=str(certificates.ca))
    with socket.create_connection(("127.0.0.1", tls_port(server)), timeout=5) as sock:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        for _ in range(2):
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            sock.sendall(outgoing.read())
            if not incoming.pending and tls.version() != "TLSv1.3":
                incoming.write(sock.recv(65536))
        tls.write(PREFACE)
        sealed = bytearray(outgoing.read())
        sealed[-1] ^= 1
        sock.sendall(sealed)
        assert sock.recv(4096)[:1] == b"\x17"  # the alert, itself sealed
        assert sock.recv(4096) == b""
    wait_dropped(server, "tls", before)


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_a_handshake_of_tls_that_does_not_go_on_ends_with_the_handshake_timeout(
    server: ServerProcess, first: bytes
) -> None:
    before = dropped(server, "timeout")
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", tls_port(server)), timeout=5) as sock:
        sock.sendall(first)
        assert sock.recv(4096) == b""
        assert 1.4 < time.monotonic() - began < 4.0
    wait_dropped(server, "timeout", before)


def test_the_time_of_the_tls_handshake_is_no_time_on_top(server: ServerProcess, certificates: Certificates) -> None:
    """Both handshakes have one timeout between them: what TLS takes of it is gone."""
    context = ssl.create_default_context(cafile=str(certificates.ca))
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", tls_port(server)), timeout=5) as plain:
        time.sleep(1.0)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock:
            while sock.recv(4096):
                pass  # CLOSE (TIMEOUT), then the end
            assert time.monotonic() - began < 2.2


def test_tls_handshakes_count_as_pending_and_the_oldest_gives_way(
    server: ServerProcess, url: str, certificates: Certificates
) -> None:
    before = dropped(server, "too_many_pending")
    with contextlib.ExitStack() as open_sockets:
        silent = [
            open_sockets.enter_context(socket.create_connection(("127.0.0.1", tls_port(server)), timeout=5))
            for _ in range(12)
        ]
        server.wait_metric("tensorwire_connections_dropped_total", before + 4, reason="too_many_pending")
        with contextlib.suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""
        with tensorwire.connect(url, tls_ca=certificates.ca, key="") as client:  # nobody is kept out
            assert np.array_equal(client.infer("echo", {"x": X})["y"], X)


# -- channel binding


def test_a_relay_with_another_trusted_certificate_is_refused_where_calls_are_signed(
    server: ServerProcess, certificates: Certificates, key: tuple[Path, Path], tmp_path: Path
) -> None:
    other = make_certificates(tmp_path / "other")
    both = bundle(tmp_path / "both.pem", certificates, other)
    with relay(tls_port(server), other, certificates.ca) as port:
        url = f"tws://127.0.0.1:{port}"
        with tensorwire.connect(url, key="", tls_ca=both) as client:  # without a key nothing is bound: it gets through
            assert np.array_equal(client.infer("echo", {"x": X}, deadline=10.0)["y"], X)
        for mac in ("none", "hmac-sha256", "aes-256-gmac"):
            with pytest.raises(AuthenticationError):
                tensorwire.connect(url, key=key[1], mac=mac, tls_ca=both)

        async def run() -> None:
            await aio.connect(url, key=key[1], tls_ca=both)

        with pytest.raises(AuthenticationError):
            asyncio.run(run())
    with (
        relay(tls_port(server), certificates, certificates.ca) as port,  # it is the certificate that is bound
        tensorwire.connect(f"tws://127.0.0.1:{port}", key=key[1], tls_ca=both) as client,
    ):
        assert np.array_equal(client.infer("echo", {"x": X}, deadline=10.0)["y"], X)


def answer_to_auth(sock: ssl.SSLSocket, key: Path, mac: str, binding: bytes) -> bytes:
    """Take whatever the server proves, as a client would that only wants to get in, and prove the key for `binding`:
    the first bytes of what the server makes of it.
    """
    credentials = Credentials(Address(host="127.0.0.1", tls=True), key, mac)
    config = credentials.config()
    client = Connection(config, nonce=bytes(range(32)), now=0.0)
    said = b"".join(client.data_to_send())
    sock.sendall(said)
    welcome = b""
    while len(welcome) < HEADER_SIZE or len(welcome) < HEADER_SIZE + int.from_bytes(welcome[:4], "little"):
        welcome += sock.recv(4096)
    sock.sendall(Insider(said[len(PREFACE) :], welcome, config.secret, binding).auth())
    return sock.recv(4096)


@pytest.mark.parametrize("mac", ["none", "hmac-sha256"])
def test_the_server_refuses_a_client_that_is_bound_to_another_certificate_or_to_none(
    server: ServerProcess, certificates: Certificates, key: tuple[Path, Path], mac: str
) -> None:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    right = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificates.server[0].read_text())).digest()
    for binding in (right, bytes(32), b""):
        before = dropped(server, "authentication")
        with (
            socket.create_connection(("127.0.0.1", tls_port(server)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
        ):
            answer = answer_to_auth(sock, key[1], mac, binding)
            assert (READY_FRAME in answer[: HEADER_SIZE + 4]) == (binding == right)
            if binding != right:
                while sock.recv(4096):
                    pass
                wait_dropped(server, "authentication", before)


# -- certificates of clients


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of a CA that the server takes, for a name that stands for nobody there."""
    return make_certificates(tmp_path_factory.mktemp("strangers"), client="stranger")


@pytest.fixture(scope="module")
def mutual(
    models: Path,
    certificates: Certificates,
    strangers: Certificates,
    key: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("mutual")
    cas = bundle(folder / "cas.pem", certificates, strangers)
    flags = ("--keys", str(key[0]), "--tls-client-ca", str(cas), "--tls-principals", "client=robot")
    log = folder / "server.log"
    with running_server(models, *certificates.flags, *flags, log=log) as running:
        yield running
    assert "Traceback" not in log.read_text()


def principal_of(client: tensorwire.Client) -> str:
    return str(msgpack.unpackb(client._driver._core.welcome)["principal"])


@pytest.mark.parametrize("with_key", [False, True])
def test_a_certificate_that_is_mapped_is_its_principal(
    mutual: ServerProcess, certificates: Certificates, key: tuple[Path, Path], with_key: bool
) -> None:
    cert, own = certificates.client
    url = f"tws://127.0.0.1:{tls_port(mutual)}"
    given = key[1] if with_key else ""
    with tensorwire.connect(url, key=given, tls_ca=certificates.ca, tls_cert=cert, tls_key=own) as client:
        assert principal_of(client) == "robot"
        assert np.array_equal(client.infer("echo", {"x": X})["y"], X)


def test_the_environment_names_the_clients_certificate(
    mutual: ServerProcess, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORWIRE_TLS_CA", str(certificates.ca))
    monkeypatch.setenv("TENSORWIRE_TLS_CLIENT_CERT", str(certificates.client[0]))
    monkeypatch.setenv("TENSORWIRE_TLS_CLIENT_KEY", str(certificates.client[1]))
    with tensorwire.connect(f"tws://127.0.0.1:{tls_port(mutual)}", key="") as client:
        assert principal_of(client) == "robot"


@pytest.mark.parametrize("with_key", [False, True])
def test_a_certificate_that_is_not_mapped_is_refused_with_or_without_a_key(
    mutual: ServerProcess, certificates: Certificates, strangers: Certificates, key: tuple[Path, Path], with_key: bool
) -> None:
    before = dropped(mutual, "certificate")
    cert, own = strangers.client
    url = f"tws://127.0.0.1:{tls_port(mutual)}"
    given = key[1] if with_key else ""
    with pytest.raises(AuthenticationError, match="tls_principals"):
        tensorwire.connect(url, key=given, tls_ca=certificates.ca, tls_cert=cert, tls_key=own)
    wait_dropped(mutual, "certificate", before)


def test_no_certificate_is_refused_in_words(
    mutual: ServerProcess, certificates: Certificates, key: tuple[Path, Path]
) -> None:
    before = dropped(mutual, "tls_handshake")
    url = f"tws://127.0.0.1:{tls_port(mutual)}"
    for error in both_fail(url, tls_ca=certificates.ca):
        assert "tls_cert" in str(error)
    with pytest.raises(ConnectFailed, match="tls_cert"):
        tensorwire.connect(url, key=key[1], tls_ca=certificates.ca)
    wait_dropped(mutual, "tls_handshake", before, 3)


def test_a_certificate_of_a_ca_that_the_server_does_not_take_is_refused(
    mutual: ServerProcess, certificates: Certificates, tmp_path: Path
) -> None:
    before = dropped(mutual, "tls_handshake")
    other = make_certificates(tmp_path)
    for error in both_fail(
        f"tws://127.0.0.1:{tls_port(mutual)}", tls_ca=certificates.ca, tls_cert=other.client[0], tls_key=other.client[1]
    ):
        assert "does not take the client's certificate" in str(error)
    wait_dropped(mutual, "tls_handshake", before, 2)


def test_the_servers_certificate_is_no_clients(mutual: ServerProcess, certificates: Certificates) -> None:
    cert, own = certificates.server
    for error in both_fail(f"tws://127.0.0.1:{tls_port(mutual)}", tls_ca=certificates.ca, tls_cert=cert, tls_key=own):
        assert "certificate" in str(error)


# -- certificates that change


def install(source: Certificates, target: Certificates) -> None:
    """Put the certificate in place as its tools do: the files one after the other."""
    for new, old in zip(source.server, target.server, strict=True):
        beside = old.with_suffix(".new")
        beside.write_bytes(new.read_bytes())
        beside.rename(old)


def shown(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=5.0)


def wait_shown(port: int, pem: str) -> None:
    end = time.monotonic() + 10.0
    while shown(port) != pem:
        assert time.monotonic() < end, "the server does not show the new certificate"
        time.sleep(0.05)


def test_a_certificate_is_replaced_under_load_without_a_failed_call(
    models: Path, key: tuple[Path, Path], tmp_path: Path
) -> None:
    live, first, second = (make_certificates(tmp_path / name) for name in ("live", "first", "second"))
    both = bundle(tmp_path / "cas.pem", live, first, second)
    log = tmp_path / "server.log"
    failures: list[BaseException] = []
    done = threading.Event()
    calls = [0, 0]

    with running_server(models, *live.flags, "--keys", str(key[0]), log=log) as server:
        port = tls_port(server)
        url = f"tws://127.0.0.1:{port}"

        def call(*, reconnect: bool) -> None:
            try:
                while not done.is_set():
                    with tensorwire.connect(url, key=key[1], tls_ca=both) as client:
                        while not done.is_set():
                            assert np.array_equal(client.infer("echo", {"x": X}, deadline=30.0)["y"], X)
                            calls[reconnect] += 1
                            if reconnect and calls[reconnect] % 3 == 0:
                                break
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=call, kwargs={"reconnect": again}) for again in (False, True)]
        for thread in threads:
            thread.start()
        for source, hup in ((first, False), (second, True), (first, False)):
            install(source, live)
            if hup:
                server.process.send_signal(signal.SIGHUP)
            wait_shown(port, source.server[0].read_text())
            so_far = list(calls)
            while failures == [] and not all(now > before + 5 for now, before in zip(calls, so_far, strict=True)):
                time.sleep(0.01)
        # A key that belongs to another certificate: what was there stays.
        live.server[1].write_bytes(second.server[1].read_bytes())
        end = time.monotonic() + 10.0
        while "not reloaded" not in log.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert shown(port) == first.server[0].read_text()
        so_far = list(calls)
        while failures == [] and not all(now > before + 5 for now, before in zip(calls, so_far, strict=True)):
            time.sleep(0.01)
        done.set()
        for thread in threads:
            thread.join(30)
        assert failures == []
        assert server.terminate() == 0
    text = log.read_text()
    assert "Traceback" not in text
    assert "PRIVATE" not in text
