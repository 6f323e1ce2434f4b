"""Both clients with a key, over real sockets: signed calls, keys that change, and every way in which two sides do not
share one.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

import tensorwire
from tensorwire.clients import aio, keys
from tensorwire.clients.blocking import Client
from tensorwire.clients.errors import (
    AuthenticationError,
    ConnectFailed,
    ConnectionLost,
    InvalidKey,
    TensorwireError,
)
from tensorwire.protocol import Config, ErrorCode, Message, Role, Status
from tests.support.peer import Peer, PeerConnection, echo, silent

X = np.arange(16, dtype=np.float32).reshape(1, 16)
BIG = np.random.default_rng(0).random(2_500_000, dtype=np.float32)
SIGNED = ("hmac-sha256", "aes-256-gmac")
SECRETS = {b"robot": bytes(range(32)), b"next": bytes(range(32, 64))}


def text(key_id: str, secret: bytes) -> str:
    return f"{key_id}:{base64.urlsafe_b64encode(secret).rstrip(b'=').decode()}"


KEY, NEXT = text("robot", SECRETS[b"robot"]), text("next", SECRETS[b"next"])
WRONG, UNKNOWN = text("robot", SECRETS[b"next"]), text("nobody", SECRETS[b"robot"])


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (keys.KEY_VARIABLE, keys.FILE_VARIABLE):
        monkeypatch.delenv(name, raising=False)


class Ring:
    """The server's keys: those in ``valid`` count."""

    def __init__(self) -> None:
        self.valid = {b"robot", b"next"}

    def secret_of(self, key_id: bytes) -> tuple[bytes, bool]:
        return (SECRETS[key_id], True) if key_id in self.valid else (b"\x55" * 32, False)


def signing_peer(
    handler: Callable[[PeerConnection, Message], None] = echo,
    *,
    macs: tuple[str, ...] = SIGNED,
    ring: Ring | None = None,
    unix: Path | None = None,
    port: int = 0,
) -> Peer:
    config = Config(role=Role.SERVER, mac_algorithms=macs, keyless=False)
    return Peer(handler, config=config, secret_of=(ring or Ring()).secret_of, unix=unix, port=port)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with signing_peer() as made:
        yield made


class Either:
    """One interface over the two clients, so that every rule below is checked with each."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner() if kind == "aio" else None
        try:
            self.client: Any = (
                tensorwire.connect(url, **options)
                if self.runner is None
                else self.runner.run(aio.connect(url, **options))
            )
        except BaseException:
            if self.runner is not None:
                self.runner.close()
            raise

    def infer(self, array: Any = X, **options: Any) -> Any:
        return self.run(self.client.infer("m", {"x": array}, **options))["x"]

    def run(self, outcome: Any) -> Any:
        async def wait() -> Any:
            return await outcome

        return outcome if self.runner is None else self.runner.run(wait())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.client.close())
        if self.runner is not None:
            self.runner.close()


@pytest.fixture(params=["blocking", "aio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def cut(peer: Peer, number: int) -> None:
    """End a connection, and wait until its server side is gone."""
    peer.connection(number).vanish()
    assert peer.connection(number).closed.wait(5)


# --- calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mac", SIGNED)
def test_a_signed_call_comes_back_small_or_big(kind: str, peer: Peer, mac: str) -> None:
    with Either(kind, peer.url, key=KEY, mac=mac) as client:
        for array in (X, BIG, BIG[:20_000], X):
            np.testing.assert_array_equal(client.infer(array), array)
        assert peer.connection().connection.mac == mac


def test_the_fast_mac_is_taken_where_both_sides_have_it(kind: str) -> None:
    for macs, taken in ((SIGNED, "aes-256-gmac"), (("hmac-sha256",), "hmac-sha256")):
        with signing_peer(macs=macs) as peer, Either(kind, peer.url, key=KEY) as client:
            np.testing.assert_array_equal(client.infer(), X)
            assert peer.connection().connection.mac == taken


def test_a_key_without_a_mac_proves_who_calls_and_signs_nothing(kind: str, tmp_path: Path) -> None:
    with (
        signing_peer(macs=("none",), unix=tmp_path / "s") as peer,
        Either(kind, peer.url, key=KEY, mac="none") as client,
    ):
        np.testing.assert_array_equal(client.infer(), X)
        assert peer.connection().connection.mac == "none"


def test_many_signed_calls_at_once(peer: Peer) -> None:
    with tensorwire.connect(peer.url, key=KEY) as client:
        calls = [client.submit("m", {"x": BIG[: 1 + n * 5000]}) for n in range(40)]
        for n, call in enumerate(calls):
            np.testing.assert_array_equal(call.result()["x"], BIG[: 1 + n * 5000])


def test_threads_share_a_signed_client(peer: Peer) -> None:
    failures: list[BaseException] = []

    def work(client: Client, number: int) -> None:
        try:
            for n in range(50):
                array = X + 100 * number + n
                np.testing.assert_array_equal(client.infer("m", {"x": array})["x"], array)
        except BaseException as error:
            failures.append(error)

    with tensorwire.connect(peer.url, key=KEY) as client:
        threads = [threading.Thread(target=work, args=(client, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures


def test_the_environment_is_enough(kind: str, peer: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "k").write_text(KEY)
    (tmp_path / "k").chmod(0o600)
    monkeypatch.setenv(keys.FILE_VARIABLE, str(tmp_path / "k"))
    with Either(kind, peer.url) as client:
        np.testing.assert_array_equal(client.infer(), X)


# --- keys that change ------------------------------------------------------------------------------------------------


def test_a_function_is_asked_again_when_the_connection_is_made_again(kind: str) -> None:
    ring, current, asked = Ring(), [KEY], [0]

    def key() -> str:
        asked[0] += 1
        return current[0]

    with signing_peer(ring=ring) as peer, Either(kind, peer.url, key=key) as client:
        client.infer()
        client.infer()
        assert asked == [1]
        current[0] = NEXT
        ring.valid = {b"next"}
        cut(peer, 0)
        np.testing.assert_array_equal(called_again(client), X)
        assert asked == [2]
        assert peer.connection(1).connection.config.role is Role.SERVER


def test_a_file_is_read_again_when_the_connection_is_made_again(kind: str, tmp_path: Path) -> None:
    ring, path = Ring(), tmp_path / "k"
    path.write_text(KEY)
    path.chmod(0o600)
    with signing_peer(ring=ring) as peer, Either(kind, peer.url, key=path) as client:
        client.infer()
        path.write_text(NEXT)
        ring.valid = {b"next"}
        cut(peer, 0)
        np.testing.assert_array_equal(called_again(client), X)


def called_again(client: Either) -> Any:
    """A call after a connection was cut: the first may be the one that notices."""
    try:
        return client.infer()
    except ConnectionLost:
        return client.infer()


def test_a_revoked_key_ends_the_calls_and_the_next_one_says_why(kind: str) -> None:
    ring = Ring()
    with signing_peer(silent, ring=ring) as peer, Either(kind, peer.url, key=KEY) as client:

        def revoke() -> None:
            connection = peer.connection()
            while not connection.messages:
                time.sleep(0.005)
            ring.valid = set()
            with connection.lock:
                connection.connection.close(ErrorCode.AUTHENTICATION, "the key was revoked")
                connection.flush()
            connection.hang_up()

        thread = threading.Thread(target=revoke)
        thread.start()
        with pytest.raises(ConnectionLost, match=r"the key was revoked.*unknown"):
            client.infer(deadline=10)
        thread.join(10)
        with pytest.raises(AuthenticationError, match="key 'robot'"):
            client.infer(deadline=10)


def test_a_function_that_fails_is_named_and_asked_again(kind: str, peer: Peer) -> None:
    answers: list[str | Exception] = [KeyError("vault"), KEY]

    def key() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ConnectFailed, match="the key's function raised KeyError") as caught:
        Either(kind, peer.url, key=key)
    assert isinstance(caught.value.__cause__, KeyError)
    assert not isinstance(caught.value, AuthenticationError)
    assert not peer.connections
    answers = [KeyError("vault"), KEY]
    with Either(kind, peer.url, key=key, wait_for_ready=True) as client:
        np.testing.assert_array_equal(client.infer(), X)


def test_a_function_that_never_returns_fails_at_the_timeout_and_does_not_stop_the_loop(peer: Peer) -> None:
    release = threading.Event()

    def key() -> str:
        release.wait(20)
        return KEY

    async def main() -> int:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        counting = asyncio.create_task(count())
        with pytest.raises(ConnectFailed, match=r"(function took longer than|within the deadline of) 0.3 s"):
            await aio.connect(peer.url, key=key, timeout=0.3)
        counting.cancel()
        release.set()
        return turns

    assert asyncio.run(main()) > 5


# --- no key, another key ---------------------------------------------------------------------------------------------


def refused(kind: str, peer: Peer, **options: Any) -> AuthenticationError:
    """How a connection that must not be made fails: at once, even where it may be waited for, and after one try."""
    began = time.monotonic()
    with pytest.raises(AuthenticationError) as caught:
        Either(kind, peer.url, wait_for_ready=True, timeout=20, **options)
    assert time.monotonic() - began < 10
    assert len(peer.connections) == 1
    assert caught.value.not_started
    assert caught.value.status is Status.UNAUTHENTICATED
    assert peer.url in str(caught.value)
    return caught.value


def test_without_a_key_the_error_says_how_to_give_one(kind: str, peer: Peer) -> None:
    error = refused(kind, peer)
    assert "the server wants a key, and none was given" in str(error)
    assert "TENSORWIRE_KEY_FILE" in str(error)
    assert "tensorwire keys new" in str(error)


@pytest.mark.parametrize("key", [WRONG, UNKNOWN])
def test_a_wrong_secret_and_an_unknown_key_are_one_error(kind: str, peer: Peer, key: str) -> None:
    error = refused(kind, peer, key=key)
    name = key.partition(":")[0]
    assert f"key {name!r}: the server's proof does not fit this key" in str(error)


def test_a_server_that_refuses_the_proof_is_quoted(kind: str) -> None:
    class Doubting(Ring):
        def secret_of(self, key_id: bytes) -> tuple[bytes, bool]:
            return SECRETS[key_id], False

    with signing_peer(ring=Doubting()) as peer:
        assert "the server refused key 'robot': unknown key, wrong secret" in str(refused(kind, peer, key=KEY))


def test_a_server_without_keys_gets_no_unsigned_call_instead(kind: str) -> None:
    with Peer() as peer:
        error = refused(kind, peer, key=KEY)
        assert "the server refused key 'robot'" in str(error)
        assert not peer.connection().messages
        with Either(kind, peer.url, key="") as client:
            np.testing.assert_array_equal(client.infer(), X)


def test_a_server_that_takes_no_offered_mac_is_not_offered_a_weaker_one(kind: str) -> None:
    with signing_peer(macs=("none",)) as peer:
        assert "mac" in str(refused(kind, peer, key=KEY))
    with signing_peer(macs=("aes-256-gmac",)) as peer:
        assert "mac" in str(refused(kind, peer, key=KEY, mac="hmac-sha256"))


def test_a_server_that_ends_in_the_handshake_is_asked_for_nothing_weaker(kind: str) -> None:
    hellos: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            hellos.append(sock.recv(65536))
            sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        with pytest.raises(ConnectFailed):
            Either(kind, f"tw://127.0.0.1:{listener.getsockname()[1]}", key=KEY, wait_for_ready=True, timeout=1.0)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
    assert len(hellos) > 1
    # Entry 6, MAC: gmac and hmac, never none. Entry 7: the key's id.
    assert all(b"\x06\x00\x02\x00\x02\x01" in hello and b"\x07\x00\x05\x00robot" in hello for hello in hellos)


def test_without_a_key_no_packet_leaves_this_machine(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_packet(*_: object, **__: object) -> None:
        raise AssertionError("a socket was made or a name looked up")

    for name in ("socket.socket.connect", "socket.create_connection", "socket.getaddrinfo"):
        monkeypatch.setattr(name, no_packet)
    for host in ("192.0.2.1", "gpu1.example", "[2001:db8::1]"):
        with pytest.raises(InvalidKey, match="not on this machine"):
            Either(kind, f"tw://{host}")


# --- what is changed on the way --------------------------------------------------------------------------------------


def test_a_reply_that_was_changed_on_the_way_ends_the_call_as_unknown(kind: str) -> None:
    def tamper(connection: PeerConnection, message: Message) -> None:
        body = bytes(message.body)
        with connection.lock:
            connection.connection.send(message.stream_id, message.meta, message.ext, [body], len(body), 1)
            sealed = bytearray(b"".join(connection.connection.data_to_send()))
            sealed[-20] ^= 1
            connection.sock.sendall(sealed)

    with signing_peer(tamper) as peer, Either(kind, peer.url, key=KEY) as client:
        with pytest.raises(ConnectionLost, match=r"not signed by it.*unknown") as caught:
            client.infer(deadline=10)
        assert not caught.value.not_started


def test_an_end_without_a_word_is_unknown(kind: str) -> None:
    def hang_up(connection: PeerConnection, _message: Message) -> None:
        connection.hang_up()

    with signing_peer(hang_up) as peer, Either(kind, peer.url, key=KEY) as client:
        with pytest.raises(ConnectionLost, match="unknown") as caught:
            client.infer(deadline=10)
        assert not caught.value.not_started
        assert caught.value.status is Status.UNKNOWN


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_error_repr_log_or_capture_of_a_failing_session_tells_the_secret(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    told = [
        *(key.partition(":")[2][:40] for key in (KEY, NEXT)),
        *(repr(secret)[2:-1] for secret in SECRETS.values()),
        *(s.hex() for s in SECRETS.values()),
    ]

    def keep(error: BaseException) -> None:
        shown.extend(("".join(traceback.format_exception(error)), repr(error), str(vars(error))))

    capture = tmp_path / "c"
    ring = Ring()
    with signing_peer(ring=ring) as peer:
        for key in (WRONG, UNKNOWN, KEY[:-1], KEY + "\n" + NEXT, lambda: KEY[:-1], str(tmp_path / "none")):
            with pytest.raises(TensorwireError) as caught:
                Either(kind, peer.url, key=key)
            keep(caught.value)
        with Either(kind, peer.url, key=KEY, capture=capture) as client:
            client.infer()
            shown.append(repr(client.client))
            cut(peer, len(peer.connections) - 1)
            ring.valid = set()
            for _ in range(2):
                try:
                    client.infer()
                except TensorwireError as error:
                    keep(error)
    assert len(shown) > 10
    text_shown = "\n".join([*shown, caplog.text])
    for secret in told:
        assert secret not in text_shown
    recorded = capture.read_bytes()
    assert len(recorded) > 1000
    assert not any(secret in recorded for secret in SECRETS.values())
