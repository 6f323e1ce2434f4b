"""A real server process with small models, for the commands that talk to one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PIXELS = """
backend = "python"
labels = "labels.txt"
engine = "inline"
max_batch = 4
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 3, 8, 8]
[inputs.image]
size = [8, 8]
[[outputs]]
name = "p"
dtype = "float32"
shape = [-1, 3]
"""
PIXELS_PY = """
def build():
    return lambda inputs: {"p": inputs["x"].mean(axis=(2, 3))}
"""
MOODS = """
backend = "python"
engine = "inline"
max_batch = 1
[[inputs]]
name = "x"
dtype = "int64"
shape = [-1]
[[inputs]]
name = "times"
dtype = "int64"
shape = [-1]
optional = true
[[outputs]]
name = "y"
dtype = "int64"
shape = [-1]
"""
MOODS_PY = """
import time

def build():
    def run(inputs):
        if inputs["x"][0] < 0:
            raise ValueError("negative numbers are beyond me")
        time.sleep(float(inputs["x"][0]) / 1000)
        return {"y": inputs["x"] * inputs.get("times", 2)}
    return run
"""


def _write_model(folder: Path, toml: str, code: str, labels: str = "") -> None:
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(toml)
    (folder / "model.py").write_text(code)
    if labels:
        (folder / "labels.txt").write_text(labels)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example `echo`, `pixels` (a photo's mean per channel, labelled) and `moods` (slow or failing;
    an optional input)."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "echo").symlink_to(ROOT / "examples" / "models" / "echo")
    _write_model(folder / "pixels" / "1", PIXELS, PIXELS_PY, labels="red\ngreen\nblue\n")
    _write_model(folder / "moods" / "1", MOODS, MOODS_PY)
    return folder


@contextmanager
def running_server(models: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server process over `models`: its URL and itself. Drained at the end, if it still runs."""
    command = [sys.executable, "-m", "tensorwire", "serve", str(models), "--insecure", "--port", "0", "--no-admin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        ready = re.search(r"ready on (tw://[^\s,:]+:\d+)", line)
        if ready is None:
            process.kill()
            pytest.fail(f"the server did not start: {line}{process.stderr.read()}")
        try:
            yield ready[1], process
        finally:
            process.terminate()
            process.communicate(timeout=20)


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[str]:
    """The URL of a server process over `models`."""
    with running_server(models) as (url, _):
        yield url
