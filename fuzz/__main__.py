"""`python -m fuzz`: coverage-guided fuzzing of every target within a time budget, and a table of what came of it.

What lives here: planning runs, following them, telling the result. What must not: atheris (worker.py, a process per
target) and what is fuzzed (targets/). What a run finds new goes to build/fuzz/TARGET, and the next run begins there;
`--minimize` takes into fuzz/corpus what adds coverage.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .run import BUILD, Run
from .target import FUZZ, NAMES, kept, load, run_timed, run_traced

PROGRESS_SECONDS = 10.0
MAX_KEPT = 4096  # bytes of one input that --minimize takes; regressions are kept whatever their length
EVERY_TARGET = 200_000  # bytes of kept inputs of one target: all of them stay under 1 MiB


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and do it; exit status 1 if there is a finding."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="time for all targets together (default 600)")
    parser.add_argument("--target", default="", help=f"one of {', '.join(NAMES)}; default all")
    parser.add_argument("--runs", type=int, default=0, help="end a target after so many inputs, if time allows")
    parser.add_argument("--jobs", type=int, default=2, help="targets at the same time (default 2)")
    parser.add_argument("--replay", type=Path, help="run this one input of --target, without coverage, and end")
    parser.add_argument("--minimize", action="store_true", help="make fuzz/corpus anew of all that was found, and end")
    options = parser.parse_args(arguments)
    names = (options.target,) if options.target else NAMES
    if options.replay:
        return replay(options.target, options.replay)
    if options.minimize:
        for name in names:
            minimize(name)
        return 0
    rounds = math.ceil(len(names) / options.jobs)
    runs = [Run(name, options.seconds / rounds, options.runs) for name in names]
    follow(runs, options.jobs)
    return tell(runs)


def replay(name: str, path: Path) -> int:
    """Run one input twice, timed and with allocations counted; a finding is its traceback."""
    if not name:
        sys.exit("--replay needs --target: which target is this input for?")
    target, data = load(name), path.read_bytes()
    began = time.thread_time()
    run_timed(target, data)
    spent = time.thread_time() - began
    run_traced(target, data)
    print(f"{name}: {path} ({len(data)} bytes) is handled as documented, in {spent * 1e3:.1f} ms")
    return 0


def follow(runs: list[Run], jobs: int) -> None:
    """Keep `jobs` of them going until all have ended; a line for each from time to time."""
    waiting, going = list(runs), list[Run]()
    told = time.monotonic()
    try:
        while waiting or going:
            while waiting and len(going) < jobs:
                going.append(waiting.pop(0))
                going[-1].start()
            time.sleep(0.2)
            going = [run for run in going if not run.ended()]
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                for run in going:
                    print(run.progress(), flush=True)
    finally:
        for run in going:
            run.stop()


def tell(runs: list[Run]) -> int:
    """The table, and for each finding its input and how to run it again."""
    table = Table(title="fuzzing")
    for column in ("target", "executions", "exec/s", "features", "new inputs", "findings"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for run in runs:
        result = run.result()
        figures = (result.executions, result.per_second, result.features, result.new_inputs, len(result.findings))
        table.add_row(run.name, *(f"{figure:,}" for figure in figures))
    table.add_row("total", f"{sum(run.result().executions for run in runs):,}")
    Console().print(table)
    failed = [run for run in runs if run.failed]
    for run in failed:
        print(f"\n{run.name}: a finding, or the run failed; all it said is in {run.log}", file=sys.stderr)
        print(run.last_words(), file=sys.stderr)
        for path in run.result().findings:
            print(f"  input: {path}", file=sys.stderr)
            print(f"  again: {sys.executable} -m fuzz --target {run.name} --replay {path}", file=sys.stderr)
    return int(bool(failed))


def minimize(name: str) -> None:
    """Replace the kept inputs by the smallest set that covers as much, regressions aside; largest ones go first."""
    out = BUILD / f"{name}-minimized"
    shutil.rmtree(out, ignore_errors=True)
    folder = FUZZ / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    Run(name).merge(out)
    for path in kept(name):
        if not path.name.startswith("regression-"):
            path.unlink()
    left = EVERY_TARGET
    count = 0
    for path in sorted(out.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        left -= path.stat().st_size
        if path.stat().st_size > MAX_KEPT or left < 0:
            break
        shutil.copyfile(path, folder / path.name[:16])
        count += 1
    print(f"{name}: {count} of {len(list(out.iterdir()))} inputs kept, {EVERY_TARGET - max(left, 0):,} bytes")


if __name__ == "__main__":
    sys.exit(main())
