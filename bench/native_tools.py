"""Programs that are not Python: the load generators of clients/c/load, our epoll echo, and h2load for HTTP and gRPC.

Our own are built by `prepare`. Each load generator makes a number of calls and prints what it measured; here that
becomes a Sample. Where one is missing, the error says how to get it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .measure import MissingError, Sample, named

ROOT = Path(__file__).resolve().parents[1]
LOAD, BENCH = ROOT / "build" / "c", ROOT / "build" / "bench"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
TIMEOUT = 300.0
#: our names of percentiles -> those of our load generators
NAMES = {"50": "p50_us", "90": "p90_us", "99": "p99_us", "99.9": "p99_9_us"}


def prepare() -> None:
    """Build our programs where their sources are newer. What cannot be built is missed when it is asked for."""
    make, compiler = shutil.which("make"), shutil.which("cc")
    if make is None or compiler is None:
        return
    for folder in (LOAD, BENCH):
        folder.mkdir(parents=True, exist_ok=True)
    with (LOAD / ".lock").open("w") as lock:  # that of tests, which build in other processes meanwhile
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(make, compiler)


def _build(make: str, compiler: str) -> None:
    subprocess.run([make, "-s", "-C", str(ROOT / "clients" / "c"), "-f", "programs.mk", "load"], check=False)
    source, program = ROOT / "bench" / "peers" / "epoll_echo.c", BENCH / "epoll_echo"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run([compiler, *FLAGS, "-o", str(program), str(source)], check=False)


def built(program: Path) -> str:
    """Return the path of a program of ours. Raises MissingError."""
    if not program.exists():
        raise MissingError(
            f"no {program.relative_to(ROOT)}: it needs make and a C compiler, and is built by `make bench`"
        )
    return str(program)


def run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Run a load generator; return what it printed. Raises RuntimeError with the last line of its complaint."""
    env = os.environ | (environment or {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=env)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


def load(name: str, *options: object, environment: dict[str, str] | None = None) -> Sample:
    """Run one of our load generators. A call that failed is an error: rates of failures mean nothing."""
    return from_json(json.loads(run([built(LOAD / name), *map(str, options), "--json"], environment)))


def from_json(found: dict[str, Any]) -> Sample:
    """Return the Sample of what our load generators print."""
    if found["errors"]:
        raise RuntimeError(f"the load generator counted {found['errors']} errors")
    percentiles = {name: float(found[theirs]) for name, theirs in NAMES.items()}
    return Sample(int(found["calls"]), float(found["seconds"]), percentiles)


def h2load(url: str, body: bytes, calls: int, connections: int, streams: int, *options: str) -> Sample:
    """Post ``body`` with h2load: ``streams`` requests in flight on each connection."""
    program = shutil.which("h2load")
    if program is None:
        raise MissingError("no h2load: apt-get install nghttp2-client")
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder, "body"), Path(folder, "log")
        data.write_bytes(body)
        numbers = ["-t", "1", "-n", str(calls), "-c", str(min(connections, calls)), "-m", str(streams)]
        said = run([program, *numbers, *options, "-d", str(data), f"--log-file={log}", url])
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    good = [float(line[2]) for line in lines if line[1] == "200"]
    if len(good) < calls:
        raise RuntimeError(f"h2load: {len(good)} of {calls} calls succeeded")
    return Sample(calls, seconds_of(said), named(good))


def seconds_of(said: str) -> float:
    """Return the wall time that h2load printed."""
    found = re.search(r"finished in ([\d.]+)(us|ms|s|m)\b", said)
    if found is None:
        raise RuntimeError("h2load did not say how long it took")
    return float(found[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[found[2]]
