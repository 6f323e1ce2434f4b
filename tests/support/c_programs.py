"""The programs on the C client (clients/c/programs.mk), built once, and run."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
C = ROOT / "clients" / "c"
#: one lock for all that the programs are built from: test processes run side by side
LOCK = ROOT / "build" / "c" / ".programs.lock"


@functools.cache
def build(target: str, *, sanitized: bool) -> Path:
    """Make ``target`` (``load`` or ``examples``); return the folder of the programs."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    command = ["make", "-s", "-C", str(C), "-f", "programs.mk", target, *(["SANITIZE=1"] if sanitized else [])]
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert made.returncode == 0, made.stderr
    return LOCK.parent / "sanitized" if sanitized else LOCK.parent


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
