"""`python -m bench`: run the works against the peers, interleaved, and write the table, JSON and plot."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import harness, report
from .works import WORKS

PEERS = ("raw_echo", "raw_echo_spin", "ours", "ours_sleeps", "ours_spin", "ours_pure", "grpc_aio")


def main() -> int:
    """Parse the arguments, run, report; exit status 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12, help="interleaved rounds of each work (default 12)")
    parser.add_argument("--works", default=",".join(WORKS), help="which works (default %(default)s)")
    parser.add_argument("--peers", default=",".join(PEERS), help="which peers (default %(default)s)")
    parser.add_argument("--out", type=Path, default=harness.ROOT / "bench" / "results", help="where the results go")
    arguments = parser.parse_args()
    works = {key: WORKS[key] for key in arguments.works.split(",")}
    modules = arguments.peers.split(",")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(harness.started(module)) for module in modules]
        progress = stack.enter_context(Progress(*columns, console=Console(stderr=True)))
        rows = {}
        for key, work in works.items():
            doing = [peer for peer in peers if key in peer.works]
            task = progress.add_task(f"{key}: {work.title}", total=arguments.rounds * len(doing))
            samples = harness.interleaved(doing, work, arguments.rounds, lambda task=task: progress.advance(task))  # type: ignore[misc]
            rows[key] = report.figures(work, samples)
        names = {peer.module: peer.name for peer in peers}
    results = {"machine": report.machine(), "rounds": arguments.rounds, "targets": report.targets(rows), "works": rows}
    print(report.write(results, works, names, arguments.out))
    missed = [text for text, _, met in results["targets"] if not met]
    for text in missed:
        print(f"target missed: {text}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
