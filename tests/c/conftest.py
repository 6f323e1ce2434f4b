"""The C programs under test, built once a session by clients/c/Makefile: plain, with sanitizers, without libcrypto."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "c"


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the built programs. Workers of pytest-xdist take turns: the second finds everything made."""
    if shutil.which("make") is None or shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.fail("the C client's tests need make and a C compiler: apt-get install make gcc g++")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for variant in (["test-programs"], ["test-programs-c", "CRYPTO=no", f"BUILD={BUILD / 'without-crypto'}"]):
            done = subprocess.run(
                ["make", "-j2", "-s", "-C", str(ROOT / "clients" / "c"), "library", *variant],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    return BUILD
