"""Runs peers in interleaved rounds: every server pinned to core 0, every client to core 1, in processes of their own.

A peer is a module of ``bench.peers`` with ``NAME``, ``serve()`` (blocks; calls ``announce(address)`` once it listens)
and ``measure(work, address, calls) -> Sample``; ``PATH`` says where tensorwire is imported from, ``WORKS`` which works
it does (default: all). Servers stay up and idle while others are measured.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from .works import WORKS, Work

SERVER_CORE, CLIENT_CORE = 0, 1
ROOT = Path(__file__).resolve().parents[1]
#: seconds a server may take until it listens
START_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one peer: seconds per call in order, the wall time, and the server's CPU seconds."""

    latencies: list[float]
    elapsed: float
    server_cpu: float = 0.0

    def figure(self, work: Work) -> float:
        """Return the compared figure: p50 in microseconds, or calls per second."""
        if work.figure == "p50":
            return percentile(self.latencies, 50) * 1e6
        return len(self.latencies) / self.elapsed


def percentile(values: list[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def client_process(core: int, path: str | None) -> None:
    """Prepare a client process: its core, and where its peer is imported from."""
    pin(core)
    if path is not None:
        sys.path.insert(0, str(ROOT / path))


def pin(core: int) -> None:
    """Pin this process to one core where the machine has it."""
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {available[core % len(available)]})


def announce(address: str) -> None:
    """Tell the harness where this server listens."""
    print(f"listening {address}", flush=True)


def closed_loop(call: Callable[[], object], calls: int, warmup: int) -> Sample:
    """Time ``calls`` calls, one after the other."""
    clock = time.perf_counter
    for _ in range(warmup):
        call()
    latencies = []
    begin = before = clock()
    for _ in range(calls):
        call()
        after = clock()
        latencies.append(after - before)
        before = after
    return Sample(latencies, clock() - begin)


@dataclass(slots=True)
class Running:
    """A peer whose server listens and whose client process waits."""

    name: str
    module: str
    works: str
    address: str
    server: subprocess.Popen[str]
    client: ProcessPoolExecutor

    def round(self, work: Work, calls: int) -> Sample:
        """Measure one round; the server's CPU time of the round goes with it."""
        before = cpu_seconds(self.server.pid)
        sample = self.client.submit(measure, self.module, work.key, self.address, calls).result(timeout=300)
        return Sample(sample.latencies, sample.elapsed, cpu_seconds(self.server.pid) - before)


def cpu_seconds(pid: int) -> float:
    """Return user plus system seconds of a process (proc(5): fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(module: str) -> ModuleType:
    """Import one peer."""
    return importlib.import_module(f"bench.peers.{module}")


def measure(module: str, key: str, address: str, calls: int) -> Sample:
    """Run in the client process: one round of one peer."""
    sample = load(module).measure(WORKS[key], address, calls)
    if not isinstance(sample, Sample):
        raise TypeError(f"bench.peers.{module}.measure gave {type(sample).__name__}, expected Sample")
    return sample


@contextlib.contextmanager
def started(module: str) -> Iterator[Running]:
    """Start the server and the client process of one peer; end them afterwards."""
    command = [
        sys.executable,
        "-c",
        f"from bench import harness; harness.pin({SERVER_CORE}); harness.load({module!r}).serve()",
    ]
    peer = load(module)
    path: str | None = getattr(peer, "PATH", None)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / path)} if path else None
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        address = wait_listening(server, module)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, initializer=client_process, initargs=(CLIENT_CORE, path)) as client:
            yield Running(peer.NAME, module, getattr(peer, "WORKS", "".join(WORKS)), address, server, client)
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_listening(server: subprocess.Popen[str], module: str) -> str:
    """Return the address the server announces."""
    if server.stdout is None:
        raise RuntimeError(f"the server of {module} was started without a pipe for its output")
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        line = server.stdout.readline()
        if found := re.search(r"(?:^listening | ready on tw://)(\d+\.\d+\.\d+\.\d+:\d+)", line):
            return found[1]
        if not line and server.poll() is not None:
            break
    raise RuntimeError(
        f"the server of {module} did not listen within {START_TIMEOUT:.0f} s (exit status {server.poll()})"
    )


def interleaved(peers: list[Running], work: Work, rounds: int, advance: Callable[[], None]) -> dict[str, list[Sample]]:
    """Measure every peer once per round, in an order shuffled anew each round (seeded)."""
    order = random.Random(work.key)
    samples: dict[str, list[Sample]] = {peer.module: [] for peer in peers}
    for peer in peers:  # one round unrecorded: connections, caches, allocators
        peer.round(work, max(200, work.calls // 10))
    for _ in range(rounds):
        for peer in order.sample(peers, len(peers)):
            samples[peer.module].append(peer.round(work, work.calls))
            advance()
    return samples
