"""No secret leaves a server by what it writes or says: its log, its pages, its audit log, its errors, its objects."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorwire
from tensorwire.clients.errors import TensorwireError
from tensorwire.server.key_file import Key, KeyFileError, parse_keys, secret_text
from tensorwire.server.settings import ENV_PREFIX, Settings, SettingsError, load_settings
from tests.server.front.harness import Client, Harness
from tests.support.server import running_server, write_model

SECRET = "Zm9v-_" * 7 + "A"
KEY = f"robot:{SECRET}"
OTHER = "Q" * 42 + "A"
"""The secret that callers of the server prove, which stands behind no id."""
X = np.ones((1, 4), np.float32)

TOML = """
backend = "python"
engine = "{engine}"
max_batch = 4
warmup = false
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 4]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 4]
"""
TELLING = """
import logging, os, sys, warnings

def build():
    key = os.environ["MODEL_KEY"]
    print("at load", key)
    def run(inputs):
        print("at run", key, "x" * 950, key)
        print("an error", key, file=sys.stderr)
        logging.getLogger("mine").warning("logged %s", key)
        warnings.warn(key)
        logging.getLogger("mine").error("of value", exc_info=ValueError(key))
        raise RuntimeError(f"{'-' * 480} {key}")
    run.close = lambda: os.environ[key]
    return run
"""
SHOWN = (
    "at load robot:***", "at run robot:***", "an error robot:***", "logged robot:***", "ValueError: robot:***",
    "model raised RuntimeError", "closing it raised KeyError", "key file not taken", '"model":"robot:***"',
)  # fmt: skip
"""What the log and the audit log hold in the end."""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    file.touch(0o600)
    file.write_text(f'[[keys]]\nid = "caller"\nsecret = "{OTHER}"\nprincipal = "all"\nmodels = ["*"]\n')
    return file


def test_a_running_server_shows_no_secret_at_any_level(tmp_path: Path, keys: Path) -> None:
    models, log, audit = tmp_path / "models", tmp_path / "log", tmp_path / f"audit-{KEY}"
    for engine in ("inline", "process"):
        write_model(models, engine, TELLING, TOML.format(engine=engine))
    flags = ["--log-level", "debug", "--keys", str(keys), "--audit", str(audit)]
    said = []
    with running_server(models, *flags, env={"TENSORWIRE_KEY": KEY, "MODEL_KEY": KEY}, log=log) as server:
        url = f"tw://{server.address[0]}:{server.address[1]}"
        with tensorwire.connect(url, key=f"caller:{OTHER}") as client:
            for model in ("inline", "process", KEY):
                with pytest.raises(TensorwireError) as caught:
                    client.infer(model, {"x": X})
                said.append(repr(caught.value))
            with pytest.raises(TensorwireError):
                client.infer("inline", {KEY: X})
        with pytest.raises(TensorwireError), tensorwire.connect(url, key=KEY) as client:
            client.infer("inline", {"x": X})
        keys.write_text(f'[[keys]]\nid = "{SECRET}"\nsecret = "robot"\nprincipal = "{KEY}"\n{KEY}\n')
        server.process.send_signal(signal.SIGHUP)
        said += [server.page(page) for page in ("/metrics", "/models", "/readyz", "/healthz")]
        server.terminate()
        assert server.process.stdout is not None
        said += [server.ready, server.process.stdout.read(), log.read_text(), audit.read_text()]
    text = "\n".join(said)
    for words in SHOWN:
        assert words in text.replace('\\"', '"'), words
    assert SECRET not in text
    assert SECRET[:20] not in text
    assert OTHER not in text


STARTS = [
    ["--keys", KEY], ["--host", KEY], ["--admin-host", KEY], ["--audit", f"/proc/nowhere/{KEY}"],
    ["--capture", f"/proc/nowhere/{KEY}"], ["--audit", "/dev/null", "--audit-salt", KEY], ["--penalty-exempt", KEY],
    ["--unix", f"/proc/nowhere/{KEY}"], ["--tls-port", "0", "--tls-cert", KEY, "--tls-key", KEY], ["--config", KEY],
]  # fmt: skip


@pytest.mark.parametrize("flags", STARTS, ids=lambda flags: flags[-2])
def test_a_server_that_does_not_start_shows_no_secret(tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / KEY).mkdir()
    access = [] if "--keys" in flags else ["--insecure"]
    command = [sys.executable, "-m", "tensorwire.server", str(tmp_path / KEY), *access, "--port", "0",
               "--admin-port", "0", "--log-level", "debug", *flags]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode not in (0, -9)
    assert SECRET not in done.stdout + done.stderr


def by_flag(name: str, _monkeypatch: pytest.MonkeyPatch, _path: Path) -> Settings:
    return load_settings(None, {name: KEY})


def by_environment(name: str, monkeypatch: pytest.MonkeyPatch, _path: Path) -> Settings:
    monkeypatch.setenv(ENV_PREFIX + name.upper(), KEY)
    return load_settings()


def by_file(name: str, _monkeypatch: pytest.MonkeyPatch, path: Path) -> Settings:
    (path / "settings.toml").write_text(f'{name} = "{KEY}"\n')
    return load_settings(path / "settings.toml")


@pytest.mark.parametrize("way", [by_flag, by_environment, by_file])
@pytest.mark.parametrize("name", [*Settings.model_fields])
def test_no_setting_repeats_a_key(
    way: Callable[[str, pytest.MonkeyPatch, Path], Settings], name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    try:
        settings = way(name, monkeypatch, tmp_path)
        shown = f"{settings!r} {settings} {settings.from_here()!r}"
    except SettingsError as error:
        shown = str(error)
    assert SECRET not in shown


def test_help_repeats_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(ENV_PREFIX + name.upper(), KEY)
    for name in ("KEY", "KEY_FILE", "URL"):
        monkeypatch.setenv(ENV_PREFIX + name, KEY)
    for command in (["serve"], ["ping"], ["keys"], ["keys", "new"], []):
        done = subprocess.run([sys.executable, "-m", "tensorwire", *command, "--help"], capture_output=True, check=True)
        assert SECRET.encode() not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "text",
    [
        f'[[keys]]\nid = "{SECRET}"\nsecret = "robot"\nprincipal = "p"\n',  # taken for one another
        f'[[keys]]\nid = "robot"\nsecret = "{SECRET}="\nprincipal = "p"\n',
        f'[[keys]]\nid = "{KEY}"\nsecret = ""\nprincipal = "p"\n',
        f'[[keys]]\nid = "robot"\nsecret = {SECRET}\nprincipal = "p"\n',
        f"{KEY}\n",
        f'[[keys]]\n"{KEY}" = 1\n',
        f'[[keys]]\n{SECRET} = "robot"\n',
        f'"{KEY}" = 1\n',
    ],
)
def test_a_key_file_that_is_refused_is_not_repeated(text: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        parse_keys(text, "keys.toml")
    assert SECRET[:16] not in str(caught.value)


def test_no_object_of_a_connection_shows_its_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tests.server.front.test_principals import Keyed

    secret = bytes(range(7, 39))
    key = Key("one", secret, "bidder")
    forms = (secret_text(secret), secret.hex(), repr(secret)[2:-1])
    with caplog.at_level(logging.DEBUG):
        harness: Harness = Keyed(tmp_path, keys=(key,))
        client = Client(harness, key=key).connect()
    client.open("m")
    looked: dict[str, Any] = {}
    for thing in gc.get_objects():
        if str(type(thing).__module__).startswith("tensorwire."):
            looked[type(thing).__qualname__] = thing
            shown = repr(thing)
            assert not any(form in shown for form in forms), type(thing)
    assert {"Key", "Config", "Front", "Connection", "Session"} <= looked.keys()
    assert not any(form in caplog.text for form in forms)
