"""A server that is told to stop while its models load stops at once, wherever they load, with its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.integration.models import ECHO, flat
from tests.support.server import write_model

pytestmark = pytest.mark.timeout(120)

SLOW = """
import ctypes, os, time
open(os.environ["LOADING"], "w").close()
{wait}
"""
WAITS = {
    "in Python": "time.sleep(600)",
    "in C": "ctypes.CDLL(None).sleep(600)",
    "in C with the interpreter's lock": "ctypes.PyDLL(None).sleep(600)",
}


def start(tmp_path: Path, engine: str, code: str) -> subprocess.Popen[str]:
    """A server that loads a good model and then one whose loading does not end."""
    models = tmp_path / "models"
    write_model(models, "a", ECHO, flat(engine="process"))
    write_model(models, "slow", code + ECHO, flat(engine=engine, warmup=engine != "process"))
    loading = tmp_path / "loading"
    command = [sys.executable, "-m", "tensorwire.server", str(models), "--insecure", "--port", "0", "--no-admin"]
    environment = {**os.environ, "LOADING": str(loading)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    end = time.monotonic() + 60
    while not loading.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("how", WAITS)
@pytest.mark.parametrize("engine", ["inline", "process"])
def test_the_first_signal_ends_the_start(tmp_path: Path, engine: str, how: str, number: int) -> None:
    process = start(tmp_path, engine, SLOW.format(wait=WAITS[how]))
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == -number
    assert out == ""
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_model_that_ignores_the_signals_while_it_loads_has_them_back_for_the_server_afterwards(
    tmp_path: Path,
) -> None:
    process = start(tmp_path, "inline", SLOW.format(wait="import signal; signal.signal(15, signal.SIG_IGN)"))
    assert process.stdout is not None
    assert " ready on " in process.stdout.readline()
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0
