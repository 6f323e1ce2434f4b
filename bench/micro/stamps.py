"""`python -m bench.micro.stamps`: one small call, stamped on its way through both processes, in microseconds.

Both clocks are the machine's monotonic one. What stamps is put around the socket of the client and around the protocol
and transport of the server, and adds some tenths of a microsecond to each step. The steps follow each other, so they
add up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import tensorwire
from bench.micro.callgrind import ROOT
from bench.micro.ends import MODELS, TOML
from tensorwire.clients import blocking_dialler
from tensorwire.clients.sockets import dial

CORES = sorted(os.sched_getaffinity(0))
clock = time.perf_counter
STEPS = (
    "client: `infer` until its send",
    "send, network, the server's loop awake",
    "server: read",
    "server: front and engine, until its write",
    "write, network, the client awake, its read",
    "client: reply until `infer` is back",
)
Stamps = dict[str, list[float]]


class StampedTransport:
    """A transport of the server whose writes are stamped."""

    def __init__(self, transport: Any, stamps: Stamps) -> None:
        self._transport = transport
        self._stamps = stamps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        begin = clock()
        self._transport.write(data)
        self._stamps["written"].append(clock())
        self._stamps["writes"].append(begin)


class StampedProtocol:
    """The server's protocol with its reads stamped; the stamps are written down when the connection ends."""

    def __init__(self, protocol: Any, file: Path) -> None:
        self._protocol = protocol
        self._file = file
        self._stamps: Stamps = {"asked": [], "read": [], "writes": [], "written": []}
        self.eof_received = protocol.eof_received
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing

    def connection_made(self, transport: Any) -> None:
        self._protocol.connection_made(StampedTransport(transport, self._stamps))

    def get_buffer(self, sizehint: int) -> memoryview:
        self._stamps["asked"].append(clock())
        return self._protocol.get_buffer(sizehint)  # type: ignore[no-any-return]

    def buffer_updated(self, nbytes: int) -> None:
        self._stamps["read"].append(clock())
        self._protocol.buffer_updated(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        self._file.write_text(json.dumps(self._stamps))
        self._protocol.connection_lost(exc)


class StampedSocket:
    """The client's socket; ``spin`` decides whether its reads sleep."""

    def __init__(self, sock: Any, stamps: Stamps) -> None:
        self._sock = sock
        self._stamps = stamps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendmsg(self, *arguments: Any) -> int:
        self._stamps["sends"].append(clock())
        size: int = self._sock.sendmsg(*arguments)
        self._stamps["sent"].append(clock())
        return size

    def recv_into(self, *arguments: Any) -> int:
        size: int = self._sock.recv_into(*arguments)
        self._stamps["received"].append(clock())
        return size


def serve(folder: str, file: Path) -> None:
    """A server whose connections are stamped."""
    from tensorwire.server import app
    from tensorwire.server.cli import serve as run
    from tensorwire.server.front.listener import Listener

    def listener(make_protocol: Callable[[], object]) -> Listener:
        return Listener(lambda: StampedProtocol(make_protocol(), file))

    with patch.object(app, "Listener", listener):
        run([folder, "--insecure", "--port", "0", "--no-admin", "--log-level", "warning"])


def measure(url: str, file: Path, spin: float | None, calls: int) -> list[float]:
    """Median microseconds of each step; then of the system calls that send and write, which lie within them."""
    x = {"x": np.ones((1, 16), np.float32)}
    stamps: Stamps = {"sends": [], "sent": [], "received": [], "begin": [], "end": []}

    def stamped_dial(*arguments: Any) -> Any:
        return StampedSocket(dial(*arguments), stamps)

    with patch.object(blocking_dialler, "dial", stamped_dial), tensorwire.connect(url, spin=spin) as client:
        for _ in range(calls):
            stamps["begin"].append(clock())
            client.infer("echo", x)
            stamps["end"].append(clock())
        sent = len(stamps["sends"])
        received = stamps["received"][-calls:]
        used = {name: np.array(stamps[name][sent - calls : sent]) for name in ("sends", "sent")}
    for _ in range(100):
        if file.exists():
            break
        time.sleep(0.05)
    server = {name: np.array(values) for name, values in json.loads(file.read_text()).items()}
    file.unlink()
    # The handshake comes before the calls and goodbye after them; each call is found by its send.
    first = np.searchsorted(server["asked"], used["sends"])
    asked, read = server["asked"][first], server["read"][first]
    writes = np.searchsorted(server["writes"], used["sends"])
    begin, end = np.array(stamps["begin"]), np.array(stamps["end"])
    points = (begin, used["sends"], asked, read, server["writes"][writes], np.array(received), end)
    steps = [later - earlier for earlier, later in pairwise(points)]
    inside = [used["sent"] - used["sends"], server["written"][writes] - server["writes"][writes]]
    warm = calls // 10
    return [float(statistics.median(step[warm:])) * 1e6 for step in (*steps, end - begin, *inside)]


def run_here(name: str, calls: int) -> None:
    """Measure what this process imports: sleeping, and asking."""
    os.sched_setaffinity(0, {CORES[-1]})
    with tempfile.TemporaryDirectory(prefix="tensorwire-micro-") as folder:
        version, file = Path(folder, "models", "echo", "1"), Path(folder, "stamps.json")
        version.mkdir(parents=True)
        (version / "model.py").write_text(MODELS["echo"])
        (version / "model.toml").write_text('engine = "inline"\n' + TOML)
        command = [sys.executable, "-P", "-m", "bench.micro.stamps", "--serve", f"{folder}/models", str(file)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            os.sched_setaffinity(process.pid, {CORES[0]})
            found = re.search(r"tw://[\d.]+:\d+", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise RuntimeError("the server did not start")
            print(json.dumps({f"{name}, {how}": measure(found[0], file, spin, calls) for how, spin in HOWS.items()}))
        finally:
            process.terminate()
            process.wait(30)


HOWS = {"sleeps": 0.0, "asks": 0.001}


def main() -> int:
    """Both builds in processes of their own, as one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro.stamps", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000, help="calls of each kind (default %(default)s)")
    parser.add_argument("--compiled", type=Path, default=ROOT / "build" / "compiled", help="where the compiled copy is")
    parser.add_argument("--here", default="", help="measure what this process imports, under this name")
    parser.add_argument("--serve", nargs=2, help="be the server: its models, and where stamps go")
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve[0], Path(arguments.serve[1]))
        return 0
    if arguments.here:
        run_here(arguments.here, arguments.calls)
        return 0
    columns: dict[str, list[float]] = {}
    for build, path in (("pure", ROOT / "src"), ("compiled", arguments.compiled.resolve())):
        command = [sys.executable, "-P", "-m", "bench.micro.stamps", "--here", build, "--calls", str(arguments.calls)]
        environment = os.environ | {"PYTHONPATH": f"{path}:{ROOT}"}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        columns |= json.loads(done.stdout)
    print(f"| us | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    rows = (*STEPS, "**whole call**", "within: `sendmsg`", "within: the server's write")
    for index, step in enumerate(rows):
        print(f"| {step} | {' | '.join(f'{values[index]:.1f}' for values in columns.values())} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
