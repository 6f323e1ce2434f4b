"""Both clients and the command line with keys, against a real server process that `tensorwire keys` made keys for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorwire
from tensorwire.clients import aio
from tensorwire.clients.cli.failures import ExitCode
from tensorwire.clients.errors import AuthenticationError, ConnectionLost, NotFound, TensorwireError, Unauthenticated
from tests.integration.models import ECHO, MEAN, ROW, SLEEPS, flat
from tests.support.server import ServerProcess, running_server, write_model

pytestmark = pytest.mark.timeout(120)

X = np.arange(8, dtype=np.float32).reshape(2, 4)
BIG = np.random.default_rng(0).random((4, ROW), dtype=np.float32)
MACS = ("hmac-sha256", "aes-256-gmac")


def tensorwire_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One run of the command line; no key is in its environment but what is given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TENSORWIRE_")}
    command = [sys.executable, "-m", "tensorwire", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**clean, **environment})


class Served:
    """A server with keys: its folder, its URLs, its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = folder / "keys.toml"
        self.log = folder / "log"
        self.socket = folder / "s"
        self.process: ServerProcess | None = None

    def command(self, *arguments: str) -> None:
        done = tensorwire_command("keys", *arguments, str(self.keys))
        assert done.returncode == 0, done.stderr

    def key(self, name: str, *options: str) -> Path:
        """A new key, as the client's file."""
        path = self.folder / f"{name}.key"
        self.command("new", "--principal", name, "--out", str(path), *options)
        return path

    @contextlib.contextmanager
    def running(self, models: Path) -> Iterator[Served]:
        with running_server(models, "--keys", str(self.keys), "--unix", str(self.socket), log=self.log) as process:
            self.process = process
            yield self

    @property
    def url(self) -> str:
        assert self.process is not None
        host, port = self.process.address
        return f"tw://{host}:{port}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder, "echo", ECHO, flat())
    write_model(folder, "blob", ECHO, flat(ROW, max_batch=4))
    write_model(folder, "mean", MEAN, flat(ROW, 1, max_batch=4))
    write_model(folder, "sleeps", SLEEPS, flat(1, engine="process", max_batch=1, warmup=False))
    return folder


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("s"))
    made.key("robot")
    made.key("narrow", "--models", "ec*")
    with made.running(models):
        yield made


class Either:
    """One interface over the two clients, so that every rule below is checked with each."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.runner = asyncio.Runner() if kind == "aio" else None
        try:
            self.client: Any = (
                self.runner.run(aio.connect(url, **options)) if self.runner else tensorwire.connect(url, **options)
            )
        except BaseException:
            if self.runner is not None:
                self.runner.close()
            raise

    def infer(self, model: str, array: Any, **options: Any) -> Any:
        outcome = self.client.infer(model, {"x": array}, **options)
        return (self.runner.run(outcome) if self.runner else outcome)["y"]

    def close(self) -> None:
        if self.runner is None:
            self.client.close()
        else:
            self.runner.run(self.client.close())
            self.runner.close()


@pytest.fixture(params=["blocking", "aio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["tcp", "unix"])
def url(request: pytest.FixtureRequest, served: Served) -> str:
    return served.url if request.param == "tcp" else f"tw+unix://{served.socket}"


# --- calls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mac", MACS)
def test_small_and_big_bodies_go_both_ways(kind: str, url: str, served: Served, mac: str) -> None:
    with contextlib.closing(Either(kind, url, key=served.folder / "robot.key", mac=mac)) as client:
        np.testing.assert_array_equal(client.infer("echo", X), X)
        np.testing.assert_array_equal(client.infer("blob", BIG, deadline=30.0), BIG)
        np.testing.assert_allclose(client.infer("mean", BIG), BIG.mean(axis=1, keepdims=True), rtol=1e-4)
        np.testing.assert_array_equal(client.infer("blob", BIG[:1]), BIG[:1])


def test_many_signed_calls_are_batched_and_come_back_to_their_callers(served: Served) -> None:
    with tensorwire.connect(served.url, key=served.folder / "robot.key") as client:
        calls = [client.submit("blob", {"x": BIG[:1] + n}) for n in range(24)]
        small = [client.submit("echo", {"x": X + n}) for n in range(200)]
        for n, call in enumerate(calls):
            np.testing.assert_array_equal(call.result(60)["y"], BIG[:1] + n)
        for n, call in enumerate(small):
            np.testing.assert_array_equal(call.result(60)["y"], X + n)


def test_the_address_chooses_among_the_keys_of_a_file(served: Served) -> None:
    both, narrow = served.folder / "both", served.folder / "narrow.key"
    both.write_text((served.folder / "robot.key").read_text() + narrow.read_text())
    both.chmod(0o600)
    key_id = narrow.read_text().partition(":")[0]
    with tensorwire.connect(served.url.replace("tw://", f"tw://{key_id}@"), key=both) as client:
        assert {entry.model for entry in client.models().models} == {"echo"}
        with pytest.raises(NotFound):
            client.infer("blob", {"x": BIG})


# --- keys that change, while server and client run -------------------------------------------------------------------


def refused_within(seconds: float, kind: str, url: str, key: Path) -> bool:
    """Whether a new connection with this key is refused before the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            Either(kind, url, key=key).close()
        except AuthenticationError:
            return True
        time.sleep(0.02)
    return False


def test_a_key_is_rotated_and_the_old_one_revoked_without_a_restart(kind: str, models: Path, tmp_path: Path) -> None:
    served = Served(tmp_path)
    old, new = served.key("robot"), tmp_path / "new.key"
    current = [old]

    def key() -> str:
        return current[0].read_text()

    with served.running(models), contextlib.closing(Either(kind, served.url, key=key)) as client:
        np.testing.assert_array_equal(client.infer("echo", X), X)
        served.command("rotate", "--out", str(new), "robot")
        current[0] = new
        served.command("revoke", old.read_text().partition(":")[0])
        assert refused_within(5.0, kind, served.url, old)
        with contextlib.suppress(ConnectionLost, Unauthenticated):  # the call that finds out
            client.infer("echo", X)
        np.testing.assert_array_equal(client.infer("echo", X), X)


def test_a_revoked_key_ends_its_calls_and_the_next_one_says_why(kind: str, models: Path, tmp_path: Path) -> None:
    served = Served(tmp_path)
    path = served.key("robot")
    key_id = path.read_text().partition(":")[0]
    with served.running(models), contextlib.closing(Either(kind, served.url, key=path)) as client:
        client.infer("echo", X)
        revoking = threading.Thread(target=served.command, args=("revoke", key_id))
        revoking.start()
        began = time.monotonic()
        with pytest.raises(Unauthenticated, match="the key was revoked or has ended"):
            client.infer("sleeps", np.full((1, 1), 20.0, np.float32), deadline=60)
        assert time.monotonic() - began < 15
        revoking.join(30)
        with pytest.raises(AuthenticationError, match=f"key {key_id!r}"):
            client.infer("echo", X)


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_a_log_an_error_or_an_argument(kind: str, models: Path, tmp_path: Path) -> None:
    served = Served(tmp_path)
    path = served.key("robot")
    key_id, _, secret = path.read_text().strip().partition(":")
    raw = base64.urlsafe_b64decode(secret + "=")
    other = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
    shown: list[str] = []
    with served.running(models):
        client = Either(kind, served.url, key=path)
        client.infer("echo", X)
        shown.append(repr(client.client))
        for key in (f"{key_id}:{other}", f"nobody:{secret}", "", f"{key_id}:{secret}x"):
            with pytest.raises(TensorwireError) as caught:
                Either(kind, served.url, key=key)
            shown.append("".join(traceback.format_exception(caught.value)))
        assert served.process is not None
        arguments = Path(f"/proc/{served.process.process.pid}/cmdline").read_bytes()
        shown.extend(served.process.page(page) for page in ("/metrics", "/models", "/readyz"))
        client.close()
        served.process.terminate()
    logged = served.log.read_bytes()
    assert b"connection closed" in logged
    everything = "\n".join(shown).encode() + logged + arguments
    for told in (secret.encode(), other.encode(), raw, repr(raw)[2:-1].encode(), raw.hex().encode()):
        assert told not in everything


# --- the command line ------------------------------------------------------------------------------------------------


def test_every_command_takes_the_key_from_a_file_or_the_environment(served: Served) -> None:
    path = served.folder / "robot.key"
    for arguments in (
        ("ping", "--count", "1"),
        ("models",),
        ("describe", "echo"),
        ("health",),
        ("send", "echo", "--input", "[[1,2,3,4]]"),
        ("bench", "echo", "--input", "[[1,2,3,4]]", "--requests", "20"),
    ):
        done = tensorwire_command(*arguments, "--url", served.url, "--key-file", str(path))
        assert done.returncode == ExitCode.OK, done.stderr
    for environment in ({"TENSORWIRE_KEY_FILE": str(path)}, {"TENSORWIRE_KEY": path.read_text()}):
        done = tensorwire_command("models", TENSORWIRE_URL=served.url, **environment)
        assert done.returncode == ExitCode.OK, done.stderr
        assert "echo" in done.stdout


def test_a_command_without_the_right_key_fails_in_one_line_with_its_exit_code(served: Served) -> None:
    path = served.folder / "open.key"
    path.write_text((served.folder / "robot.key").read_text())
    path.chmod(0o644)
    secret = path.read_text().strip().partition(":")[2]
    for options, code, said in (
        ({}, ExitCode.AUTHENTICATION, "the server wants a key"),
        ({"TENSORWIRE_KEY": f"nobody:{secret}"}, ExitCode.AUTHENTICATION, "key 'nobody'"),
        ({"TENSORWIRE_KEY_FILE": str(path)}, ExitCode.USAGE, f"chmod 600 {path}"),
        ({"TENSORWIRE_KEY": secret}, ExitCode.USAGE, "TENSORWIRE_KEY, line 1, cannot be read"),
        ({"TENSORWIRE_URL": f"tw://robot:{secret}@127.0.0.1"}, ExitCode.USAGE, "has a password"),
        ({"TENSORWIRE_URL": "tw://192.0.2.1"}, ExitCode.USAGE, "not on this machine"),
    ):
        done = tensorwire_command("models", **{"TENSORWIRE_URL": served.url, **options})
        assert done.returncode == code, done.stderr
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
        assert secret not in done.stdout + done.stderr
