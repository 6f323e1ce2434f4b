"""Servers and client processes of the peers: every server pinned to core 0, every client to core 1, each a process of
its own. Servers stay up, but stopped (SIGSTOP) while others are measured: some poll while nobody calls them.

Not here: what a peer is (`bench.peers`), what is measured (`measure`), in which order (`rounds`).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import psutil

from .measure import MissingError, Sample, Target, measure
from .peers import PEERS
from .processes import tree, wait_ended
from .works import Work

SERVER_CORE, CLIENT_CORE = 0, 1
ROOT = Path(__file__).resolve().parents[1]
#: seconds a server may take until it listens
START_TIMEOUT = 120.0
#: seconds one round of one peer may take
ROUND_TIMEOUT = 300.0
#: prctl(2): the signal that a process gets when its parent dies; kept across execve
PR_SET_PDEATHSIG = 1
#: what a server prints once it listens: our own line, or announce()'s
LISTENING = re.compile(r"(?:^listening | ready on )(\S+?)(?: and (\S+?))?:?(?=\s|,|$)")


def pin(core: int) -> None:
    """Pin this process to one core where the machine has it."""
    available = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {available[core % len(available)]})


def serve(module: str) -> None:
    """Run the server of one peer in this process: on its core, and no longer than the benchmark lives."""
    pin(SERVER_CORE)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # SIGTERM would not reach a server that is stopped
    load(module).serve()


def announce(address: str) -> None:
    """Tell the harness where this server listens."""
    print(f"listening {address}", flush=True)


def load(module: str) -> ModuleType:
    """Import one peer. Raises MissingError where what it needs is not installed."""
    try:
        return importlib.import_module(f"bench.peers.{module}")
    except ModuleNotFoundError as error:
        raise MissingError(f"no Python package {error.name!r}: `make bench` installs it") from error


@dataclass(frozen=True, slots=True)
class Server:
    """A server that listens."""

    process: subprocess.Popen[str]
    address: str

    def stop(self) -> None:
        """Take the processor from the server and what it started, until ``go_on``."""
        for process in tree(self.process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def go_on(self) -> None:
        """Undo ``stop``."""
        go_on(self.process.pid)


@contextlib.contextmanager
def serving(module: str) -> Iterator[Server]:
    """Start the server of one peer on core 0; end it and what it started afterwards. Raises MissingError."""
    code = f"from bench import harness; harness.serve({module!r})"
    path: str | None = getattr(load(module), "PATH", None)
    environment = dict(os.environ)
    if path:
        if not (ROOT / path / "tensorwire").is_dir():
            raise MissingError(f"no {path}/tensorwire: `make compiled` builds it")
        environment["PYTHONPATH"] = str(ROOT / path)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, tempfile.TemporaryFile("w+") as errors:
        environment["TMPDIR"] = folder  # sockets and model folders of servers that are killed go with it
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            yield Server(process, wait_listening(process, module, errors.fileno()))
        finally:
            end(process)


def go_on(pid: int) -> None:
    """Let a process and its descendants run, if they were stopped."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in tree(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def end(process: subprocess.Popen[str]) -> None:
    """End a server politely, then whatever is left of its session."""
    started = tree(process.pid) if process.poll() is None else []
    process.terminate()
    go_on(process.pid)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_ended(started, timeout=10)
    if process.stdout is not None:
        process.stdout.close()


def wait_listening(server: subprocess.Popen[str], module: str, errors: int | None = None) -> str:
    """Return the address the server announces, two of them with a comma; an error holds the last of ``errors``."""
    if server.stdout is None:
        raise RuntimeError(f"the server of {module} was started without a pipe for its output")
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        line = server.stdout.readline()
        if found := LISTENING.search(line):
            return f"{found[1]},{found[2]}" if found[2] else found[1]
        if not line:
            break
    said = os.pread(errors, 1 << 16, 0).decode(errors="replace").strip().splitlines() if errors is not None else []
    raise MissingError(f"the server of {module} did not start: {said[-1] if said else 'it said nothing'}")


def client_process(path: str | None) -> None:
    """Prepare a client process: its core, and where tensorwire is imported from."""
    pin(CLIENT_CORE)
    if path is not None:
        sys.path.insert(0, str(ROOT / path))


@dataclass(slots=True)
class Peer:
    """A peer whose server listens and whose client process waits."""

    module: str
    server_module: str
    works: tuple[str, ...]
    cannot: dict[str, str]
    server: Server
    client: ProcessPoolExecutor

    @property
    def name(self) -> str:
        """The name in tables."""
        return PEERS[self.module]

    def does(self, work: Work) -> bool:
        """Whether this peer is measured in this work."""
        return work.within(self.works) and not self.reason(work)

    def reason(self, work: Work) -> str:
        """Why it cannot do this work; empty where it can, or where it is not asked to."""
        return next((why for name, why in self.cannot.items() if work.within((name,))), "")

    def round(self, work: Work, calls: int, seconds: float) -> Sample:
        """Measure one round."""
        if work.kind == "memory" and self.server_module != self.module:
            with serving(self.server_module) as fresh:  # memory that another's calls freed would hide what is taken
                return self._measure(work, fresh, calls, seconds)
        self.server.go_on()
        try:
            return self._measure(work, self.server, calls, seconds)
        finally:
            self.server.stop()

    def _measure(self, work: Work, server: Server, calls: int, seconds: float) -> Sample:
        target = Target(work, server.address, server.process.pid, calls, seconds)
        return self.client.submit(measure, self.module, target).result(timeout=ROUND_TIMEOUT)


@contextlib.contextmanager
def client_of(module: str, path: str | None) -> Iterator[ProcessPoolExecutor]:
    """The client process of one peer; ended even in the middle of a round."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, spawn, initializer=client_process, initargs=(path,))
    try:
        yield pool
    finally:
        for process in list((pool._processes or {}).values()):  # noqa: SLF001 - no public way to end a stuck worker
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def started(modules: list[str], missing: dict[str, str]) -> Iterator[list[Peer]]:
    """Start the peers, one server for those that share it; why one cannot be started goes to ``missing``."""
    with contextlib.ExitStack() as stack:
        peers, servers = [], dict[str, Server]()
        for module in modules:
            try:
                code = load(module)
                name: str = getattr(code, "SERVER", module)
                if name not in servers:
                    servers[name] = stack.enter_context(serving(name))
                    servers[name].stop()
            except MissingError as error:
                missing[module] = str(error)
                continue
            client = stack.enter_context(client_of(module, getattr(load(name), "PATH", None)))
            works: tuple[str, ...] = code.WORKS
            cannot: dict[str, str] = getattr(code, "CANNOT", {})
            peers.append(Peer(module, name, works, cannot, servers[name], client))
        yield peers
