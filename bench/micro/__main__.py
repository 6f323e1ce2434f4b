"""`python -m bench.micro`: instructions per call against the committed baseline; exit status 1 where they grew.

Exit status 2: not comparable (another Python, compiler or library than the baseline's), or counting is not possible.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.micro.callgrind import ROOT, CallgrindError, Section, count, tool

HERE = Path(__file__).parent
BASELINE = HERE / "baseline.json"
BUILDS = {"interpreted": "src", "compiled": "build/compiled"}
GROWTH = 0.05
"""Share by which a benchmark may grow before the check fails."""
SPREAD = 0.005
"""Share by which two counts of the same code may differ in a baseline."""
TOP = 25

Counts = dict[str, dict[str, float]]
"""Build -> benchmark -> instructions per call."""


def main() -> int:
    """Count, compare, and say what grew."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument("--builds", default=",".join(BUILDS), help="which builds (default %(default)s)")
    parser.add_argument("--cases", default="", help="which cases of cases.py (default: all)")
    parser.add_argument("--compiled", type=Path, default=ROOT / BUILDS["compiled"], help="where the compiled copy is")
    parser.add_argument("--twice", action="store_true", help="count twice and show how far the two are apart")
    parser.add_argument("--write", action="store_true", help="count twice and write the baseline")
    parser.add_argument("--functions", action="store_true", help=f"show the {TOP} dearest functions of each benchmark")
    arguments = parser.parse_args()
    paths = {build: ROOT / path for build, path in BUILDS.items()} | {"compiled": arguments.compiled.resolve()}
    builds = {build: paths[build] for build in arguments.builds.split(",")}
    cases = arguments.cases.split(",") if arguments.cases else []
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        sections = {build: counted(build, path, cases, console) for build, path in builds.items()}
        counts = per_call(sections)
        if arguments.twice or arguments.write:
            again = per_call({build: counted(build, path, cases, console) for build, path in builds.items()})
            spread = furthest_apart(counts, again)
            console.print(f"two counts of the same code differ by {spread:.3%} at most")
            if spread > SPREAD:
                console.print(f"that is more than {SPREAD:.1%}: something here depends on time or chance")
                return 2
        if arguments.functions:
            for build in builds:
                show_functions(build, sections[build], console)
        if arguments.write:
            return write(counts, console)
        return check(counts, partly=bool(cases), console=console)
    except CallgrindError as error:
        console.print(str(error), markup=False)
        return 2


def counted(build: str, path: Path, cases: list[str], console: Console) -> list[Section]:
    """The sections of one build."""
    if not (path / "tensorwire").is_dir():
        raise CallgrindError(f"there is no {path}/tensorwire: make compiled makes it")
    with console.status(f"counting, {build} (some seconds) ..."):
        return count(HERE / "cases.py", path, cases)


def per_call(sections: dict[str, list[Section]]) -> Counts:
    """Instructions per call, less what ending a section costs."""
    counts: Counts = {}
    for build, counted_sections in sections.items():
        nothing = min(section.instructions for section in counted_sections if section.name == "nothing")
        counts[build] = {
            section.name: round((section.instructions - nothing) / section.calls, 1)
            for section in counted_sections
            if section.name != "nothing"
        }
    return counts


def furthest_apart(one: Counts, other: Counts) -> float:
    """The largest difference between two counts, as a share."""
    return max(abs(other[build][name] / value - 1.0) for build, values in one.items() for name, value in values.items())


def versions() -> dict[str, str]:
    """Everything whose change moves the counts without a change of ours."""
    first_line = subprocess.run([tool("valgrind"), "--version"], capture_output=True, text=True, check=True).stdout
    found = {
        "python": f"{platform.python_version()}, {platform.python_compiler()}",
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cc": subprocess.run(
            [tool("cc"), "-dumpfullversion"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "valgrind": first_line.strip(),
    }
    return found | {name: importlib.metadata.version(name) for name in ("numpy", "uvloop", "mypy")}


def write(counts: Counts, console: Console) -> int:
    """Make these counts the baseline."""
    baseline = {"versions": versions(), "instructions": counts}
    BASELINE.write_text(json.dumps(baseline, indent=2) + "\n")
    console.print(f"written: {BASELINE.relative_to(ROOT)}")
    return 0


def check(counts: Counts, *, partly: bool, console: Console) -> int:
    """Print the table; 1 where a benchmark grew or is gone, 2 where the baseline is another machine's."""
    if not BASELINE.exists():
        console.print("there is no baseline: make bench-baseline")
        return 2
    baseline = json.loads(BASELINE.read_text())
    grown: list[str] = []
    for build, now in counts.items():
        before: dict[str, float] = baseline["instructions"].get(build, {})
        table = Table("benchmark", title=f"instructions per call, {build}", title_justify="left")
        for column in ("baseline", "now", "change"):
            table.add_column(column, justify="right")
        for name in [*now, *(name for name in before if name not in now and not partly)]:
            was, new = before.get(name), now.get(name)
            change = "gone" if new is None else "new" if was is None else f"{new / was - 1.0:+.1%}"
            bad = new is None or (was is not None and new > was * (1.0 + GROWTH))
            if bad:
                grown.append(f"{build}: {name}: {change}")
            figures = ("" if value is None else f"{value:,.0f}" for value in (was, new))
            table.add_row(name, *figures, change, style="red" if bad else None)
        console.print(table)
    made_with, here = baseline["versions"], versions()
    other = [f"{name}: {made_with.get(name)}, here {here[name]}" for name in here if here[name] != made_with.get(name)]
    if other:
        console.print("the baseline was made with other versions, so the change is not ours alone:", *other, sep="\n  ")
        console.print("compare with the code before your change, then: make bench-baseline")
        return 2
    for line in grown:
        console.print(f"more than {GROWTH:.0%} above the baseline: {line}")
    if grown:
        console.print("mend it; or, where the cost is worth it, say so in the commit and run: make bench-baseline")
    return 1 if grown else 0


def show_functions(build: str, sections: list[Section], console: Console) -> None:
    """Where the instructions of each benchmark are."""
    for section in sections:
        if section.name == "nothing":
            continue
        table = Table("function", title=f"{section.name}, {build}", title_justify="left")
        table.add_column("instructions per call", justify="right")
        for name, cost in sorted(section.functions.items(), key=lambda item: -item[1])[:TOP]:
            table.add_row(name, f"{cost / section.calls:,.1f}")
        console.print(table, markup=False)


if __name__ == "__main__":
    sys.exit(main())
