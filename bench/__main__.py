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

#: rounds until all servers are started anew
ROUNDS_A_START = 2


def parse() -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    rounds_help = f"interleaved rounds of each work (default 10); servers start anew after {ROUNDS_A_START} of them"
    parser.add_argument("--rounds", type=int, default=10, help=rounds_help)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each round of each peer (default 0.3)")
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


def rounds_of_starts(rounds: int) -> list[int]:
    """Return how many rounds each start of the servers gets."""
    return [ROUNDS_A_START] * (rounds // ROUNDS_A_START) + [1] * (rounds % ROUNDS_A_START)


def measured(works: list[Work], modules: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """Start the peers again and again, run the works each time, return rows and what is missing."""
    columns = (TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    native_tools.prepare()
    missing: dict[str, str] = {}
    starts = rounds_of_starts(rounds)
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        bar = progress.add_task("")
        run = Run(seconds, lambda what: progress.update(bar, advance=1, description=what))
        try:
            for number, each in enumerate(starts):
                progress.update(bar, description=f"starting the servers, {number + 1} of {len(starts)}")
                with harness.started(modules, missing) as peers:
                    steps = [sum(w.rounds_a_start(n) * sum(p.does(w) for p in peers) for w in works) for n in starts]
                    progress.update(bar, total=sum(steps), completed=sum(steps[:number]))
                    run.start(peers, works, each)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
            print("interrupted: what was measured before it is reported", file=sys.stderr)
        progress.update(bar, description="done")
    rows: dict[str, Any] = {}
    for work in works:
        if (outcome := run.outcomes.get(work.key)) is None:
            continue
        made = figures.rows(work, outcome.samples)
        made |= {peer: {"reason": f"missing: {why}"} for peer, why in missing.items()}
        made |= {peer: {"reason": why} for peer, why in outcome.reasons.items()}
        rows[work.key] = {peer: made[peer] for peer in PEERS if peer in made}
    return {"starts": len(starts), "works": rows, "missing": missing, "interrupted": interrupted}


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
