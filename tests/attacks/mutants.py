"""Takes each check of mutants.toml out, one at a time, and expects the test named beside it to go red.

How a check is found and taken out: guards.py. It is done in a scratch copy of the tree, never in place. First every
named test must be green as it is: a red one proves nothing. What survives, or cannot be applied, makes the exit code 1.
Run by `make mutants`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from time import monotonic, time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.attacks.guards import NoSuchPart, change, find_guards

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("src", "tensorwire")
LIST = Path(__file__).with_name("mutants.toml")
PAGE = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- mutants: begin -->\n", "<!-- mutants: end -->\n"
TIMEOUT = 240.0
"""Seconds for one test; a mutant that makes it hang that long is dead too."""
ALL_TIMEOUT = 1200.0
"""Seconds for all tests together, without a mutation."""
DEAD = ("failed", "hung")
_MOMENTS = count(int(time()))


@dataclass(frozen=True, slots=True)
class Mutant:
    """One check: its tag in the source, what stands in place of a part of it, and the test that must notice.

    `part` and `without` are those of guards.change.
    """

    attack: str
    guard: str
    without: str
    test: str
    part: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a test: `passed`, `failed`, `hung`, or why it says nothing."""

    what: str
    seconds: float
    output: str = ""


def read_list(words: list[str]) -> list[Mutant]:
    """The mutants whose attack, guard, test or file holds one of the words; all of them without words."""
    mutants = [Mutant(**entry) for entry in tomllib.loads(LIST.read_text(encoding="utf-8"))["mutant"]]
    if not words:
        return mutants
    files = {guard.tag: guard.file.relative_to(ROOT) for guard in find_guards(ROOT / PACKAGE)}
    said = {mutant: f"{mutant.attack} {mutant.guard} {mutant.test} {files.get(mutant.guard)}" for mutant in mutants}
    return [mutant for mutant in mutants if any(word in said[mutant] for word in words)]


def table(mutants: list[Mutant]) -> str:
    """The list as a table of Markdown: each attack, the tag of the check against it, and the test."""
    rows = ["| attack | guard | goes red without it |", "|---|---|---|"]
    for mutant in mutants:
        place = mutant.test.removeprefix("tests/").replace("::", " ").replace("|", "\\|")
        rows.append(f"| {mutant.attack} | `{mutant.guard}` | `{place}` |")
    return "\n".join(rows) + "\n"


def with_table(page: str, mutants: list[Mutant]) -> str:
    """The page with today's table between its two markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(mutants)}{END}{after}"


def copy_tree(target: Path) -> Path:
    """What git knows or would add, links as links."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        source, place = ROOT / name, target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            place.symlink_to(source.readlink())
        elif source.is_file():
            shutil.copy2(source, place)
    return target


def run_tests(tree: Path, *tests: str, timeout: float = TIMEOUT) -> Outcome:
    """pytest on these tests against the copy."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests]
    began = monotonic()
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return Outcome("hung", monotonic() - began)
    what = {0: "passed", 1: "failed"}.get(done.returncode, f"pytest ended with {done.returncode}")
    if "the server did not start" in done.stdout:
        what = "the server did not start"
    return Outcome(what, monotonic() - began, done.stdout)


def run_green(tree: Path, tests: list[str]) -> Outcome:
    """All tests without a mutation; those that fail once more, since other work on the machine can make one late."""
    whole = run_tests(tree, *tests, timeout=ALL_TIMEOUT)
    late = re.findall(r"^(?:FAILED|ERROR) (\S+)", whole.output, re.MULTILINE)
    return run_tests(tree, *late) if whole.what == "failed" and late else whole


def try_mutant(mutant: Mutant, tree: Path) -> Outcome:
    """Change the copy, run the test, change it back."""
    places = [guard for guard in find_guards(tree / PACKAGE) if guard.tag == mutant.guard]
    if len(places) != 1:
        return Outcome(f"the tag is {len(places)} times in the source, expected once", 0.0)
    path = places[0].file
    source = path.read_text(encoding="utf-8")
    try:
        changed = change(source, places[0].line, mutant.part, mutant.without)
        compile(changed, path.name, "exec")
    except (NoSuchPart, SyntaxError) as error:
        return Outcome(f"cannot be taken out: {error}", 0.0)
    _write(path, changed)
    try:
        return run_tests(tree, "-x", mutant.test)
    finally:
        _write(path, source)


def _write(path: Path, source: str) -> None:
    """Write, and make the time of the change one that no bytecode knows: it is told apart by whole seconds and size."""
    path.write_text(source, encoding="utf-8")
    moment = next(_MOMENTS)
    os.utime(path, (moment, moment))


def try_all(mutants: list[Mutant], trees: list[Path], console: Console) -> list[Outcome]:
    """Each mutant on whichever copy is free."""
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in trees:
        free.put(tree)
    columns = (TextColumn("{task.description}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar, ThreadPoolExecutor(len(trees)) as workers:
        task = bar.add_task("mutants", total=len(mutants))

        def one(mutant: Mutant) -> Outcome:
            tree = free.get()
            try:
                return try_mutant(mutant, tree)
            finally:
                free.put(tree)
                bar.advance(task)

        return list(workers.map(one, mutants))


def report(mutants: list[Mutant], outcomes: list[Outcome], console: Console) -> int:
    """The table; how many live."""
    table = Table("attack", "guard", "test", "outcome", "s", box=None, pad_edge=False)
    for mutant, outcome in zip(mutants, outcomes, strict=True):
        outcome_text = "dead" if outcome.what in DEAD else f"ALIVE: {outcome.what}"
        test = mutant.test.partition("::")[2] or mutant.test
        table.add_row(mutant.attack, mutant.guard, test, outcome_text, f"{outcome.seconds:.1f}")
    console.print(table, soft_wrap=True, markup=False)
    return sum(outcome.what not in DEAD for outcome in outcomes)


def main() -> int:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "words", nargs="*", help="only mutants whose attack, guard, test or file holds one of these words"
    )
    parser.add_argument("--table", action="store_true", help="write the table of docs/security.md, and end")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="copies worked on at a time")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), read_list([])), encoding="utf-8")
        return 0
    console = Console(width=200 if not sys.stdout.isatty() else None)
    mutants = read_list(arguments.words)
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        trees = [copy_tree(Path(scratch, str(number))) for number in range(arguments.jobs)]
        console.print(f"{len(mutants)} mutants; first their tests as they are ...")
        whole = run_green(trees[0], sorted({mutant.test for mutant in mutants}))
        if whole.what != "passed":
            console.print(whole.output[-4000:], markup=False)
            console.print(f"not green without any mutation ({whole.what}): nothing can be shown")
            return 1
        alive = report(mutants, try_all(mutants, trees, console), console)
    console.print(f"{len(mutants) - alive} of {len(mutants)} mutants are dead")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
