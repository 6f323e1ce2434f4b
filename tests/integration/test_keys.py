"""Keys from end to end: a real `tensorwire serve`, the key file under it, and callers of all sorts."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tensorwire.codec import DescribeRequest, HealthRequest, ModelList, unpack_service
from tensorwire.protocol import Ended, ErrorCode, GoAway, Status
from tensorwire.server import key_edits
from tensorwire.server.key_file import Key, read_keys, secret_text
from tests.integration.models import ECHO, ROW, SLEEPS, flat
from tests.support.server import ServerProcess, running_server, write_model
from tests.support.wire import Reply, WireClient

pytestmark = pytest.mark.timeout(120)

X = np.arange(8, dtype=np.float32).reshape(2, 4)
BIG = np.arange(2 * ROW, dtype=np.float32).reshape(2, ROW)
SECONDS = np.ones((1, 1), np.float32)
EMPTY = b"\x80"  # msgpack of {}

WITHIN = 1.5
"""Seconds: what takes one on a quiet machine (the key file is looked at twice a second)."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "echo", ECHO, flat())
    write_model(folder, "blob", ECHO, flat(ROW, max_batch=4))
    write_model(folder, "secret-plans", ECHO, flat())
    write_model(folder, "sleeps", SLEEPS, flat(1, engine="process", max_batch=1, warmup=False))
    return folder


class KeyFile:
    """A key file that the test writes, and the text that a client has of each key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0

    def add(self, name: str, **fields: object) -> str:
        """A key of its own principal, unless another is named."""
        self.number += 1
        principal = str(fields.pop("principal", name))
        key = Key(name, bytes([self.number]) * 31 + b"k", principal, **fields)  # type: ignore[arg-type]
        key_edits.add(self.path, key)
        return f"{name}:{secret_text(key.secret)}"

    def text(self, name: str) -> str:
        """What the client has of this key."""
        (secret,) = [key.secret for key in read_keys(self.path) if key.id == name]
        return f"{name}:{secret_text(secret)}"


@contextlib.contextmanager
def keyed_server(models: Path, folder: Path, *flags: str) -> Iterator[tuple[ServerProcess, KeyFile, Path]]:
    """A server with a key file that has one key, and its log."""
    keys, log = KeyFile(folder / "keys.toml"), folder / "log"
    keys.add("first")
    with running_server(models, "--keys", str(keys.path), *flags, log=log) as server:
        yield server, keys, log


@pytest.fixture(scope="module")
def shared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, KeyFile, Path]]:
    with keyed_server(models, tmp_path_factory.mktemp("keys")) as made:
        yield made


def soon(condition: Callable[[], bool], seconds: float = WITHIN) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def taken(server: ServerProcess, key: str) -> bool:
    """Whether the server takes this key now."""
    try:
        WireClient(server.address, key).socket.close()
    except (ConnectionError, OSError):
        return False
    return True


def refusal(server: ServerProcess, key: str) -> str:
    """How somebody is turned away."""
    with pytest.raises(ConnectionError) as caught:
        WireClient(server.address, key)
    return str(caught.value)


# ---- no start without ----


def start(models: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A start that must fail."""
    command = [sys.executable, "-m", "tensorwire.server", str(models), "--port", "0", "--no-admin", *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["tensorwire keys new", "--keys keys.toml", "--insecure"]),
        (["--host", "0.0.0.0"], ["tensorwire keys new", "--insecure"]),
        (["--no-tcp", "--unix", "s"], ["tensorwire keys new", "--insecure"]),
        (["--host", "0.0.0.0", "--insecure"], ["0.0.0.0", "tensorwire keys new"]),
        (["--host", "::", "--insecure"], ["::", "tensorwire keys new"]),
        (["--keys", "none.toml"], ["none.toml", "does not exist", "tensorwire keys new"]),
    ],
)
def test_without_keys_the_server_does_not_start_and_says_how_to_make_one(
    models: Path, flags: list[str], words: list[str]
) -> None:
    result = start(models, *flags)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_a_public_address_with_keys_and_insecure_is_refused_too(models: Path, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.toml")
    keys.add("first")
    result = start(models, "--host", "0.0.0.0", "--keys", str(keys.path), "--insecure")
    assert result.returncode == 1
    assert "--insecure" in result.stderr


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_a_key_file_that_others_may_read_stops_the_start(models: Path, tmp_path: Path, mode: int) -> None:
    keys = KeyFile(tmp_path / "keys.toml")
    first = keys.add("first")
    keys.path.chmod(mode)
    result = start(models, "--keys", str(keys.path))
    assert result.returncode == 1
    assert f"chmod 600 {keys.path}" in result.stderr
    assert first.partition(":")[2] not in result.stderr


def test_with_keys_a_public_address_is_served(models: Path, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.toml")
    key = keys.add("first")
    with running_server(models, "--keys", str(keys.path), "--host", "0.0.0.0") as server:
        with WireClient(("127.0.0.1", server.address[1]), key) as client:
            np.testing.assert_array_equal(client.infer("echo", {"x": X})["y"], X)
        assert "with a key only" in refusal(server, "")


# ---- who is let in ----


@pytest.mark.parametrize("mac", ["hmac-sha256", "aes-256-gmac"])
def test_calls_with_a_key_small_and_big(shared: tuple[ServerProcess, KeyFile, Path], tmp_path: Path, mac: str) -> None:
    server, keys, _ = shared
    with WireClient(server.address, keys.text("first"), mac) as client:
        assert client.connection.mac == mac
        for name, array in (("echo", X), ("blob", BIG), ("echo", X)):
            np.testing.assert_array_equal(client.infer(name, {"x": array})["y"], array)


def test_whoever_cannot_prove_a_valid_key_is_told_the_same(shared: tuple[ServerProcess, KeyFile, Path]) -> None:
    server, keys, _ = shared
    ended = keys.add("ended", not_after=time.time() // 1 - 60)
    not_yet = keys.add("later", not_before=time.time() // 1 + 3600)
    probe = keys.add("probe")
    soon(lambda: taken(server, probe))
    unknown = f"nobody:{ended.partition(':')[2]}"
    wrong = f"first:{ended.partition(':')[2]}"
    answers = {refusal(server, key) for key in (ended, not_yet, unknown, wrong)}
    assert len(answers) == 1
    assert "AUTHENTICATION" in answers.pop()


def test_a_caller_without_a_key_is_told_how_to_give_one(shared: tuple[ServerProcess, KeyFile, Path]) -> None:
    server, _, _ = shared
    told = refusal(server, "")
    assert "with a key only" in told
    assert "TENSORWIRE_KEY" in told


# ---- what they see ----


def test_a_model_out_of_scope_does_not_exist(models: Path, tmp_path: Path) -> None:
    with keyed_server(models, tmp_path) as (server, keys, _):
        key = keys.add("narrow", models=("ec*", "blob"))
        soon(lambda: taken(server, key))
        with WireClient(server.address, key) as client:
            told = [_without(client.fail(name, {"x": X}), name) for name in ("secret-plans", "no-such-plans")]
            assert told[0] == told[1]
            assert told[0][0] == Status.NOT_FOUND
            for service, request in (("$describe", DescribeRequest), ("$health", HealthRequest)):
                payloads = (
                    {"payload": np.frombuffer(request(name).pack(), np.uint8)}
                    for name in ("secret-plans", "no-such-plans")
                )
                hidden, missing = (client.fail(service, payload) for payload in payloads)
                assert _without(hidden, "secret-plans") == _without(missing, "no-such-plans")
            seen = ModelList.unpack(client.service_bytes("$models", EMPTY)).models
            assert [model.model for model in seen] == ["blob", "echo"]
            health = unpack_service(client.service_bytes("$health", HealthRequest("").pack()))
            assert [model["model"] for model in health["models"]] == ["blob", "echo"]
            np.testing.assert_array_equal(client.infer("echo", {"x": X})["y"], X)


def _without(ended: Ended, name: str) -> tuple[Status, bool, str]:
    return ended.status, ended.not_started, ended.detail.replace(name, "NAME").partition(" [request")[0]


# ---- the file changes under the server ----


def test_a_new_key_is_known_within_a_second_and_by_sighup_at_once(models: Path, tmp_path: Path) -> None:
    with keyed_server(models, tmp_path) as (server, keys, log):
        second = keys.add("second")
        soon(lambda: taken(server, second))
        third = keys.add("third")
        server.process.send_signal(signal.SIGHUP)
        soon(lambda: taken(server, third), 0.4)
        before = keys.path.read_text()
        keys.path.write_text("[[keys]]\nid = 'broken'\n")
        soon(lambda: "the keys of before go on" in log.read_text())
        assert taken(server, second)
        keys.path.write_text(before)
        keys.path.chmod(0o640)
        soon(lambda: "chmod 600" in log.read_text())
        assert taken(server, third)


def test_a_revoked_key_ends_what_runs_within_a_second(models: Path, tmp_path: Path) -> None:
    with keyed_server(models, tmp_path) as (server, keys, _):
        key, other = keys.add("leaver"), keys.add("stayer")
        soon(lambda: taken(server, other))
        with WireClient(server.address, key) as client, WireClient(server.address, other) as stayer:
            running = client.open("sleeps", {"x": 5 * SECONDS})
            waiting = client.open("sleeps", {"x": 5 * SECONDS})
            stays = stayer.open("sleeps", {"x": 0 * SECONDS})
            key_edits.remove(keys.path, "leaver")
            began = time.monotonic()
            ended = [client.ended(stream) for stream in (running, waiting)]
            while client.receive():
                pass
            assert time.monotonic() - began < WITHIN
            assert {end.status for end in ended} == {Status.UNAUTHENTICATED}
            assert client.closed is not None
            assert client.closed.code is ErrorCode.AUTHENTICATION
            assert not taken(server, key)
            stayer.reply(stays)


def test_a_key_that_ends_is_closed_at_its_end(models: Path, tmp_path: Path) -> None:
    with keyed_server(models, tmp_path) as (server, keys, _):
        end = int(time.time()) + 4
        key = keys.add("short", not_after=float(end))
        soon(lambda: taken(server, key))
        with WireClient(server.address, key) as client:
            stream = client.open("sleeps", {"x": 20 * SECONDS})
            assert client.ended(stream).status == Status.UNAUTHENTICATED
            assert end - 0.1 < time.time() < end + WITHIN
            assert any(isinstance(event, GoAway) for event in client.events), "it was asked to come again before"


def draining(client: WireClient) -> bool:
    return any(isinstance(event, GoAway) for event in client.events)


def never_started(client: WireClient, stream: int) -> bool:
    """Whether the server has said that it will not serve this stream (15.2): a client that was late asks again."""
    with contextlib.suppress(ConnectionError):
        while client.receive():
            pass
    return any(isinstance(event, GoAway) and event.last_stream_id < stream for event in client.events)


def test_a_key_is_rotated_without_a_failed_call(models: Path, tmp_path: Path) -> None:
    """Callers that connect again when they are told to, with whatever key their file has then."""
    with keyed_server(models, tmp_path) as (server, keys, _):
        client_key = tmp_path / "client.key"
        client_key.write_text(keys.add("old", principal="p"))
        soon(lambda: taken(server, client_key.read_text()))
        stop, failures, ids, calls = threading.Event(), list[str](), set[bytes](), [0]

        def call() -> None:
            while not stop.is_set():
                with WireClient(server.address, client_key.read_text()) as client:
                    ids.add(client.config.key_id)
                    stream = 0
                    while not stop.is_set() and not draining(client):
                        stream += 1
                        try:
                            outcome = client.outcome(client.open("echo", {"x": X}))
                        except ConnectionError:
                            if never_started(client, stream):
                                break
                            raise
                        calls[0] += 1
                        if not isinstance(outcome, Reply) and not (outcome.not_started and draining(client)):
                            failures.append(outcome.detail)

        def guarded() -> None:
            try:
                call()
            except Exception as error:
                failures.append(repr(error))

        thread = threading.Thread(target=guarded)
        thread.start()
        try:
            command = [sys.executable, "-m", "tensorwire", "keys", "rotate", "p", str(keys.path), "--grace", "4s"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            end = {key.id: key.not_after for key in read_keys(keys.path)}["old"]
            client_key.with_suffix(".new").write_text(done.stdout.strip())
            client_key.with_suffix(".new").replace(client_key)
            while time.time() < end + 1.0:
                time.sleep(0.05)
        finally:
            stop.set()
            thread.join(20)
        assert failures == []
        assert calls[0] > 100
        assert len(ids) == 2
        assert not taken(server, keys.text("old"))


# ---- secrets ----


def test_no_secret_is_seen_anywhere(models: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    with keyed_server(models, tmp_path, "--log-level", "debug", "--audit", str(audit)) as (server, keys, log):
        key = keys.add("second")
        soon(lambda: taken(server, key))
        with WireClient(server.address, key) as client:
            client.infer("echo", {"x": X})
            key_edits.remove(keys.path, "second")
            while client.receive():
                pass
        refusal(server, key)
        keys.path.write_text(keys.path.read_text() + f'\n[[keys]]\nid = "x"\nsecret = "{key.partition(":")[2]}x"\n')
        soon(lambda: "'x'" in log.read_text())
        pages = [server.page(path) for path in ("/metrics", "/models", "/readyz")]
        command_line = Path(f"/proc/{server.process.pid}/cmdline").read_bytes().decode()
        environment = Path(f"/proc/{server.process.pid}/environ").read_bytes().decode()
        secrets = {key.partition(":")[2], secret_text(bytes([1]) * 31 + b"k")}
        for text in (*pages, command_line, environment, log.read_text(), audit.read_text()):
            assert text
            for secret in secrets:
                assert secret not in text
                assert secret[:20] not in text
