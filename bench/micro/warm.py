"""`python -m bench.micro.warm`: the microseconds of the same cases, warm: over and over in one process, on one core.

The least of many rounds: what the code costs when nothing else is in the way. In a real call it costs more, since both
processes wake with cold caches (``in_place.py``).
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from bench.micro.callgrind import ROOT
from bench.micro.cases import CASES
from bench.micro.worker import stop_clocks

ROUNDS = 200


def measure(rounds: int) -> dict[str, float]:
    """Microseconds per call of each section, the least of so many rounds."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    clock, begin = time.perf_counter, 0.0
    stop_clocks()  # a busy machine shall not make the front read less at a time

    def end(name: str, calls: int) -> None:
        nonlocal begin
        now = clock()
        if name:
            found[name].append((now - begin) / calls * 1e6)
        begin = clock()

    for make in CASES.values():
        run = make()
        gc.collect()
        gc.freeze()
        for _ in range(rounds):
            run(end)
    return {name: min(values) for name, values in found.items()}


def main() -> int:
    """Measure here, or, without ``--here``, the interpreted and the compiled copy in processes of their own."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro.warm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each case (default %(default)s)")
    parser.add_argument("--compiled", type=Path, default=ROOT / "build" / "compiled", help="where the compiled copy is")
    parser.add_argument("--here", action="store_true", help="measure what this process imports")
    arguments = parser.parse_args()
    if arguments.here:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        for name, microseconds in measure(arguments.rounds).items():
            print(f"{name}\t{microseconds:.2f}")
        return 0
    columns = []
    for path in (ROOT / "src", arguments.compiled.resolve()):
        command = [sys.executable, "-P", "-m", "bench.micro.warm", "--here", "--rounds", str(arguments.rounds)]
        environment = os.environ | {"PYTHONPATH": f"{path}:{ROOT}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        columns.append(dict(line.rsplit("\t", 1) for line in done.stdout.splitlines()))
    print("| warm, least of many, us | interpreted | compiled |\n|---|---|---|")
    for name in columns[0]:
        print(f"| {name} | {columns[0][name]} | {columns[1][name]} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
