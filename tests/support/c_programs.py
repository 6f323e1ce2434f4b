"""The C client and the programs on it, built once by clients/c/Makefile, and run."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
C = ROOT / "clients" / "c"
BUILD = ROOT / "build" / "c"


@functools.cache
def make(*arguments: str) -> None:
    """Run make in clients/c. Processes take turns: the second finds everything made."""
    if shutil.which("make") is None or shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.fail("the C client's tests need make and a C compiler: apt-get install make gcc g++")
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = subprocess.run(
            ["make", "-j2", "-s", "-C", str(C), "WERROR=-Werror", *arguments],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    assert made.returncode == 0, made.stderr


def build(target: str, *, sanitized: bool) -> Path:
    """Make ``target`` (``load`` or ``examples``); return the folder of the programs."""
    make(target, *(["SANITIZE=1"] if sanitized else []))
    return BUILD / "sanitized" if sanitized else BUILD


def run(program: Path, *arguments: object, timeout: float = 60, key: str = "") -> subprocess.CompletedProcess[str]:
    """Run one, with this key in its environment; what a sanitizer says is a failure, whatever the exit status."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env=os.environ | {"TENSORWIRE_KEY": key},
    )
    assert "Sanitizer" not in done.stderr, done.stderr
    assert "runtime error" not in done.stderr, done.stderr
    return done


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a load program printed with --json."""
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found
