"""`python -m bench.gpu`: the device path where there is a CUDA device. Prints and writes `results/gpu.md` and `.json`.

Without a device: one line that says what was looked for, exit status 3. `--device cpu` tries the benchmark itself.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

import tensorwire
from tensorwire.clients.cli.load import Schedule, run_calls, run_load
from tensorwire.gpu import SlabPool, cuda_problem, discover
from tensorwire.gpu.graphs import WARM_UP, GraphedModel
from tensorwire.gpu.pinned import PinError, Registration
from tensorwire.gpu.staging import BatchInput, CudaStager, HostStager, Stager

from . import harness, report
from .network import build

ROW, ROWS, SIZES = 784, 32, (602_112, 16 << 20)
TOML = """backend = "torch"\ndevice = "{device}"\nmax_batch = 32
inputs = [{{ name = "x", dtype = "float32", shape = [-1, 784] }}]
outputs = [{{ name = "y", dtype = "float32", shape = [-1, 10] }}]\n"""
Figure = tuple[str, float, str]


def median(device: str, calls: int, run: Callable[[], object]) -> float:
    """Microseconds of `run` until the device is done."""

    def whole() -> None:
        run()
        if device != "cpu":
            torch.cuda.current_stream(device).synchronize()

    run_calls(whole, 10)
    return run_calls(whole, calls).percentile(50) * 1e6


def copies(device: str, calls: int) -> Iterator[Figure]:
    """One large row from a pinned slab and from ordinary memory; many small rows, apart and side by side."""
    pool = SlabPool(64 << 20)

    def slab(nbytes: int) -> memoryview:
        made = pool.allocate(nbytes)
        if made is None:
            raise MemoryError(f"the pool has no {nbytes} bytes left")
        made.view[:] = bytes(nbytes)  # pages exist only once they were written to
        return made.view

    stager: Stager = HostStager(slab) if device == "cpu" else CudaStager(device)
    registration, kind = None, "slab that is not pinned"
    try:
        registration = None if device == "cpu" else Registration(pool, torch.device(device).index or 0)
        kind = "pinned slab" if registration else kind
    except PinError as error:
        print(f"slabs are not pinned: {error}", file=sys.stderr)
    for nbytes in SIZES:
        for where, view in ((kind, slab(nbytes)), ("ordinary memory", memoryview(bytearray(nbytes)))):
            batch = [BatchInput("x", "uint8", (nbytes,), [view])]
            yield (
                f"{nbytes:,} bytes to the device, {where}",
                median(device, calls, partial(stager.copy_in, batch, 1)),
                "us",
            )
    for where, runs in (("one slab each", [slab(4 * ROW) for _ in range(ROWS)]), ("one slab", [slab(4 * ROW * ROWS)])):
        batch = [BatchInput("rows", "float32", (ROW,), runs)]
        yield (
            f"{ROWS} rows of {4 * ROW:,} bytes, {where}",
            median(device, calls, partial(stager.copy_in, batch, ROWS)),
            "us",
        )
    stager.close()
    if registration:
        registration.close()


@torch.inference_mode()
def graphs(device: str, calls: int) -> Iterator[Figure]:
    """The network run kernel by kernel, and replayed."""
    network = build().to(device).eval()
    for rows in (1, ROWS):
        inputs = {"x": torch.ones((rows, ROW), device=device)}
        yield f"network, {rows} rows, eager", median(device, calls, partial(network, inputs["x"])), "us"
        if device != "cpu":
            graphed = GraphedModel(lambda tensors: network(tensors["x"]))
            for _ in range(WARM_UP + 1):
                graphed(inputs)
            how = "CUDA graph" if graphed.recorded else f"not recorded: {''.join(graphed.eager.values())}"
            yield f"network, {rows} rows, {how}", median(device, calls, partial(graphed, inputs)), "us"


async def load(url: str, callers: int, seconds: float) -> tuple[float, float]:
    """Calls per second and the median in microseconds, with so many in flight."""
    x = {"x": np.ones((1, ROW), np.float32)}
    async with await tensorwire.aio.connect(url) as client:
        schedule = Schedule(concurrency=callers, duration=seconds, warmup=seconds / 4)
        done = await run_load([lambda: client.infer("mlp", x)], schedule)
    return done.rate, done.percentile(50) * 1e6


def served(device: str, seconds: float) -> Iterator[Figure]:
    """What callers of `tensorwire serve` see: one call in flight, then as many as two batches hold."""
    with tempfile.TemporaryDirectory(prefix="tensorwire-bench-") as folder:
        version = Path(folder, "mlp", "1")
        version.mkdir(parents=True)
        (version / "model.py").write_text("from typing import Any\n\n\n" + inspect.getsource(build))
        (version / "model.toml").write_text(TOML.format(device=device))
        command = [sys.executable, "-m", "tensorwire", "serve", folder, "--insecure", "--port", "0", "--no-admin"]
        server = subprocess.Popen([*command, "--log-level", "warning"], stdout=subprocess.PIPE, text=True)
        try:
            url = harness.wait_listening(server, "bench.gpu")
            for callers in (1, 2 * ROWS):
                rate, p50 = asyncio.run(load(url, callers, seconds))
                yield f"served on {device}, {callers} in flight", rate, "calls/s"
                yield f"served on {device}, {callers} in flight, p50", p50, "us"
        finally:
            server.terminate()
            server.wait(timeout=60)


def main() -> int:
    """Measure the device, then the same server on the CPU."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--find", action="store_true", help="only say which device there is")
    parser.add_argument("--device", default="", help="default: the first CUDA device")
    parser.add_argument("--calls", type=int, default=1000, help="timed calls of each figure (default 1000)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load on each server (default 5)")
    parser.add_argument("--out", type=Path, default=harness.ROOT / "bench" / "results", help="where the results go")
    arguments = parser.parse_args()
    found = {device.label: device for device in discover()}
    name = arguments.device or next((label for label in found if label != "cpu"), "")
    if name not in found:
        print(f"no {name or 'CUDA'} device: {cuda_problem() or f'found {sorted(found)}'}", file=sys.stderr)
        return 3
    title = f"{name}: {found[name].name}"
    if arguments.find:
        print(title)
        return 0
    figures = [*copies(name, arguments.calls), *graphs(name, arguments.calls)]
    for device in dict.fromkeys((name, "cpu")):
        figures += served(device, arguments.seconds)
    rows = [f"| {what} | {value:,.1f} | {unit} |" for what, value, unit in figures]
    table = "\n".join(["# Device path", "", title, "", "| what | median | unit |", "|---|---:|---|", *rows, ""])
    about = {"machine": report.machine(), "device": asdict(found[name]), "figures": figures}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu.json").write_text(json.dumps(about, indent=1) + "\n")
    (arguments.out / "gpu.md").write_text(table)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
