"""`python -m bench.micro.in_place`: a small call as it is, between two processes: latency, and the CPU time of both.

The server on one core, the client on the other; a client that sleeps for each reply, one that asks without sleeping,
and what `connect` does by itself. The share of the kernel is told apart.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import tensorwire
from bench.micro.callgrind import ROOT
from bench.micro.ends import MODELS, TOML

CORES = sorted(os.sched_getaffinity(0))
SPINS = {"sleeps": 0.0, "asks": 0.001, "by itself": None}
Times = tuple[float, float]
"""Seconds of CPU: own, and the kernel's for it."""


@contextmanager
def server() -> Iterator[tuple[str, int]]:
    """An echo on core 0: its URL and process id."""
    with tempfile.TemporaryDirectory(prefix="tensorwire-micro-") as folder:
        version = Path(folder, "echo", "1")
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODELS["echo"])
        (version / "model.toml").write_text('engine = "inline"\n' + TOML)
        command = [sys.executable, "-P", "-m", "tensorwire.server", folder, "--insecure", "--port", "0", "--no-admin"]
        process = subprocess.Popen([*command, "--log-level", "warning"], stdout=subprocess.PIPE, text=True)
        try:
            os.sched_setaffinity(process.pid, {CORES[0]})
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r"tw://[\d.]+:\d+", line)
            if found is None:
                raise RuntimeError(f"the server did not start: {line!r}")
            yield found[0], process.pid
        finally:
            process.terminate()
            process.wait(30)


def server_times(pid: int) -> Times:
    """What the server has used so far, to a hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[11]) / tick, int(fields[12]) / tick


def client_times() -> Times:
    """What this process has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime


def measure(url: str, pid: int, spin: float | None, calls: int) -> list[float]:
    """p50, then own and kernel CPU of client and server, all in microseconds per call."""
    x = {"x": np.ones((1, 16), np.float32)}
    with tensorwire.connect(url, spin=spin) as client:
        infer, clock = client.infer, time.perf_counter
        for _ in range(200):
            infer("echo", x)
        latencies = []
        before = (*client_times(), *server_times(pid))
        for _ in range(calls):
            begin = clock()
            infer("echo", x)
            latencies.append(clock() - begin)
        after = (*client_times(), *server_times(pid))
    used = [(b - a) / calls * 1e6 for a, b in zip(before, after, strict=True)]
    return [statistics.median(latencies) * 1e6, *used]


def main() -> int:
    """Measure what this process imports; once more with the compiled copy."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro.in_place", description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="calls of each kind (default %(default)s)")
    parser.add_argument("--compiled", type=Path, default=ROOT / "build" / "compiled", help="where the compiled copy is")
    parser.add_argument("--here", default="", help="measure what this process imports, under this name")
    arguments = parser.parse_args()
    if arguments.here:
        os.sched_setaffinity(0, {CORES[-1]})
        with server() as (url, pid):
            for name, spin in SPINS.items():
                figures = " | ".join(f"{value:.1f}" for value in measure(url, pid, spin, arguments.calls))
                print(f"| {arguments.here}, client {name} | {figures} |")
        return 0
    print("| us per call | p50 | client | its kernel | server | its kernel |\n|---|---|---|---|---|---|", flush=True)
    for build, path in (("interpreted", ROOT / "src"), ("compiled", arguments.compiled.resolve())):
        command = [sys.executable, "-P", "-m", "bench.micro.in_place", "--here", build]
        environment = os.environ | {"PYTHONPATH": f"{path}:{ROOT}"}
        subprocess.run([*command, "--calls", str(arguments.calls)], env=environment, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
