"""tensorwire: a real `tensorwire serve` with inline plain-Python models; blocking client (A, C), asyncio client (B)."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import uvloop

import tensorwire
from bench.harness import Sample, closed_loop
from bench.works import WORKS, Work

NAME = "tensorwire"
PATH = "build/compiled"
SOURCES = {
    "echo": "def load():\n    return lambda inputs: {'y': inputs['x']}\n",
    "image": (
        "import numpy as np\n\n\n"
        "def load():\n"
        "    rows = np.zeros((32, 1000), np.float32)\n"
        "    return lambda inputs: {'y': rows[: len(inputs['x'])]}\n"
    ),
}


def write_models(folder: Path) -> None:
    """Write one model folder a work: plain Python, inline on the loop, as the peers' handlers are."""
    for work in WORKS.values():
        version = folder / work.model / "1"
        if version.exists():
            continue
        version.mkdir(parents=True)
        (version / "model.py").write_text(SOURCES[work.model])
        row = ", ".join(map(str, work.shape[1:]))
        out = ", ".join(map(str, work.reply_shape[1:]))
        (version / "model.toml").write_text(
            textwrap.dedent(f"""\
                backend = "python"
                file = "model.py"
                factory = "load"
                max_batch = 32
                engine = "inline"

                [[inputs]]
                name = "x"
                dtype = "float32"
                shape = [-1, {row}]

                [[outputs]]
                name = "y"
                dtype = "float32"
                shape = [-1, {out}]
                """)
        )


def serve() -> None:
    """Run `tensorwire serve` on a free port and hand its address to the harness."""
    folder = Path(tempfile.mkdtemp(prefix="tensorwire-bench-"))
    write_models(folder)
    command = [sys.executable, "-m", "tensorwire", "serve", str(folder), "--port", "0", "--no-admin"]
    os.execv(sys.executable, command)


async def many_in_flight(work: Work, address: str, calls: int) -> Sample:
    tensor = np.ones(work.shape, np.float32)
    latencies: list[float] = []
    clock = time.perf_counter
    async with await tensorwire.aio.connect(f"tw://{address}") as client:

        async def worker(count: int) -> None:
            for _ in range(count):
                before = clock()
                await client.infer(work.model, {"x": tensor})
                latencies.append(clock() - before)

        begin = clock()
        await asyncio.gather(*(worker(calls // work.in_flight) for _ in range(work.in_flight)))
        return Sample(latencies, clock() - begin)


def measure(work: Work, address: str, calls: int, spin: float | None = None) -> Sample:
    if work.in_flight > 1:
        return uvloop.run(many_in_flight(work, address, calls))
    tensor = np.ones(work.shape, np.float32)
    with tensorwire.connect(f"tw://{address}", spin=spin) as client:
        return closed_loop(lambda: client.infer(work.model, {"x": tensor}), calls, warmup=100)
