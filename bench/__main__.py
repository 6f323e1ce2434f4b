"""`python -m bench`: run the works against the peers, interleaved, and write tables, JSON and plots.

`--compare OLD.json NEW.json` says figure by figure whether two runs agree.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import compare, figures, harness, native_tools, report, targets
from .peers import PEERS
from .rounds import Run
from .works import GROUPS, Work, chosen


def parse() -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds of each work (default 10)")
    parser.add_argument("--seconds", type=float, default=0.4, help="of each round of each peer (default 0.4)")
    works_help = f"letters or keys, such as A,B.native (default {','.join(GROUPS)})"
    parser.add_argument("--works", default=",".join(GROUPS), help=works_help)
    parser.add_argument("--peers", default=",".join(PEERS), help="which peers (default: all)")
    parser.add_argument("--out", type=Path, default=harness.ROOT / "bench" / "results", help="where the results go")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("OLD", "NEW"), help="compare two results.json")
    arguments = parser.parse_args()
    try:
        arguments.works = chosen(arguments.works)
    except ValueError as error:
        parser.error(str(error))
    arguments.peers = [peer for peer in PEERS if peer in arguments.peers.split(",")]
    if not arguments.peers:
        parser.error(f"no such peers: expected some of {', '.join(PEERS)}")
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return arguments


def measured(works: list[Work], modules: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Start the peers, run the works, return rows and what is missing."""
    columns = (TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    native_tools.prepare()
    missing: dict[str, str] = {}
    rows: dict[str, Any] = {}
    interrupted = False
    with (
        Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress,
        harness.started(modules, missing) as peers,
    ):
        bar = progress.add_task("")
        run = Run(peers, rounds, seconds, lambda what: progress.update(bar, advance=1, description=what))
        progress.update(bar, total=sum(run.steps(work) for work in works))
        try:
            for work in works:
                outcome = run.work(work)
                made = figures.rows(work, outcome.samples)
                reasons = outcome.reasons | {peer: f"missing: {why}" for peer, why in missing.items()}
                made |= {peer: {"reason": why} for peer, why in reasons.items()}
                rows[work.key] = {peer: made[peer] for peer in PEERS if peer in made}
        except KeyboardInterrupt:
            interrupted = True
            print(f"interrupted in {work.key}: what was measured before it is reported", file=sys.stderr)
        progress.update(bar, completed=sum(run.steps(work) for work in works), description="done")
    return {"works": rows, "missing": missing, "interrupted": interrupted}


def main() -> int:
    """Run or compare; exit status 1 when a target is missed or not measured, or two runs disagree or share nothing."""
    arguments = parse()
    if arguments.compare:
        lines = compare.compare(*(json.loads(path.read_text()) for path in arguments.compare))
        print(compare.table(lines))
        return 0 if lines and all(line["agrees"] for line in lines) else 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends servers and reports, as Ctrl-C does
    results = measured(arguments.works, arguments.peers, arguments.rounds, arguments.seconds)
    results = {
        "machine": report.machine(),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "targets": targets.judged(results["works"]),
        **results,
    }
    print(report.write(results, arguments.out))
    failed = targets.failed(results["targets"])
    for text in failed:
        print(f"target missed or not measured: {text}", file=sys.stderr)
    return 130 if results["interrupted"] else 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
