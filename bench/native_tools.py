"""Load generators that are not Python: our own in C, compiled on demand, and h2load for HTTP/1.1 and gRPC.

Each makes a number of calls and prints what it measured; here that becomes a Sample. What a tool that is missing is
called and how to get it is in the error.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .measure import MissingError, Sample, named

ROOT = Path(__file__).resolve().parents[1]
SOURCES, BUILT = ROOT / "bench" / "peers", ROOT / "build" / "bench"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
TIMEOUT = 300.0


def build(name: str) -> Path:
    """Compile ``bench/peers/<name>.c`` where it is newer than its program; return the program."""
    source, program = SOURCES / f"{name}.c", BUILT / name
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    compiler = shutil.which("cc")
    if compiler is None:
        raise MissingError("no C compiler: install gcc or clang")
    BUILT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILT) as folder:  # two processes may compile at once
        made = Path(folder, name)
        subprocess.run([compiler, *FLAGS, "-o", str(made), str(source)], check=True)
        made.rename(program)
    return program


def run(command: list[str]) -> str:
    """Run a load generator; return what it printed. Raises RuntimeError with the last line of its complaint."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


def load(name: str, *arguments: object) -> Sample:
    """Run one of our own load generators, which prints JSON."""
    return run_json([str(build(name)), *map(str, arguments)])


def run_json(command: list[str]) -> Sample:
    """Run a load generator that prints one JSON object."""
    return from_json(json.loads(run(command)))


def from_json(found: dict[str, Any]) -> Sample:
    """Return a Sample of ``calls``, ``seconds`` and either ``latencies_us`` or percentiles (``p50`` or ``50``)."""
    if "latencies_us" in found and isinstance(found["latencies_us"], list):
        percentiles = named(found["latencies_us"])
    else:
        given = found.get("percentiles_us") or found.get("latency_us") or found
        percentiles = {
            name.lstrip("p"): float(value) for name, value in given.items() if re.fullmatch(r"p?(50|90|99|99\.9)", name)
        }
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
