"""The Markdown tables, and what the run ran on. Not here: arithmetic (`figures`, `targets`) and drawing (`plots`)."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from .peers import NOT_FOR_ALL, PEERS
from .works import GROUPS, UNITS, WORKS, Work

PACKAGES = (
    "fastapi", "flatbuffers", "grpcio", "httptools", "litserve", "mosec", "msgpack", "mypy", "numpy", "protobuf",
    "pyarrow", "pyzmq", "torch", "uvicorn", "uvloop",
)  # fmt: skip
PLOTS = {"latency": "ABC", "offered_load": "O", "sizes": "S"}


def version(package: str) -> str:
    """Return the version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, Any]:
    """Return what the run ran on: CPU model, kernel, Python, package versions, date. No name of the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def number(value: float) -> str:
    """Format a figure: three digits at least."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(figure: dict[str, Any] | None, low: str = "min", high: str = "max") -> str:
    """Format a median with its range."""
    return f"{number(figure['median'])} ({number(figure[low])}-{number(figure[high])})" if figure else "-"


def with_interval(figure: dict[str, Any] | None) -> str:
    """Format a ratio with its interval."""
    if not figure:
        return "-"
    low, high = figure["interval"]
    return f"{figure['median']:.3g} ({low:.3g}-{high:.3g})"


def work_table(work: Work, rows: dict[str, Any]) -> list[str]:
    """Return the table of one work; peers without a figure are rows with the reason."""
    reference = PEERS[work.reference].split(",")[0]
    heads = [UNITS[work.unit][0] + " (min-max)", f"x {reference}", "x grpc.aio", "p99, us", "p99/p50", "server CPU"]
    lines = [f"### {work.key}: {work.title}", "", f"| peer | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for peer, row in rows.items():
        if "reason" in row:
            lines.append(f"| {PEERS[peer]} | {row['reason']} |{' |' * (len(heads) - 1)}")
            continue
        p99 = number(row["percentiles_us"]["99"]) if "percentiles_us" in row else "-"
        tail = f"{row['tail']['median']:.3g}" if "tail" in row else "-"
        cpu = f"{row['server_cpu_share']:.0%}" if "server_cpu_share" in row else "-"
        ratios = f"{with_interval(row.get('x_ref'))} | {with_interval(row.get('x_grpc'))}"
        lines.append(f"| {PEERS[peer]} | {spread(row)} | {ratios} | {p99} | {tail} | {cpu} |")
    return [*lines, ""]


def sweep_table(works: list[Work], results: dict[str, Any]) -> list[str]:
    """Return one table of a sweep: a column a peer, a row a step."""
    peers = [peer for peer in PEERS if any("median" in results[work.key].get(peer, {}) for work in works)]
    is_open = works[0].kind == "open"
    what = "answered per second; p50 / p99 in us from the intended send" if is_open else "MB/s one way (min-max)"
    lines = [f"{what}", "", f"| | {' | '.join(PEERS[peer] for peer in peers)} |", f"|---|{'---|' * len(peers)}"]
    for work in works:
        cells = []
        for peer in peers:
            row = results[work.key].get(peer, {"reason": "-"})
            if "reason" in row:
                cells.append(row["reason"])
            elif is_open:
                p50, p99 = (number(row["percentiles_us"][p]) for p in ("50", "99"))
                cells.append(f"{number(row['rate']['median'])}; {p50} / {p99}")
            else:
                cells.append(spread(row))
        lines.append(f"| {work.title} | {' | '.join(cells)} |")
    return [*lines, ""]


def target_table(targets: list[dict[str, Any]]) -> list[str]:
    """Return the table of targets."""
    title = "## Targets: MAC none where no MAC is named"
    lines = [title, "", "| target | measured (95% interval) | |", "|---|---|---|"]
    for target in targets:
        verdict = "met" if target["met"] else "not measured" if target["met"] is None else "**missed**"
        if target["stretch"]:
            verdict = f"stretch: {verdict.strip('*')}"
        lines.append(f"| {target['text']} | {target.get('reason') or with_interval(target)} | {verdict} |")
    return [*lines, ""]


def markdown(results: dict[str, Any]) -> str:
    """Return the whole report."""
    about, works = results["machine"], [WORKS[key] for key in results["works"]]
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    lines = [
        "# Benchmark",
        "",
        f"{about['cpu']}, {about['cores']} cores (server on one, client on another), Linux {about['kernel']}, "
        f"Python {about['python']}, {about['date']}; {results['rounds']} interleaved rounds of about "
        f"{results['seconds']:g} s over {results['starts']} starts of every server, loopback; "
        "MAC none where no MAC is named.",
        "Medians of the rounds with min-max; ratios are taken round by round: median (95% interval; "
        "of fewer than six rounds the range). "
        "Only ratios travel between machines, and differences under 1.3x are noise on a shared one. "
        "What each comparison favours: [bench/README.md](../README.md).",
        "",
        f"Packages: {packages}.",
        "",
        *target_table(results["targets"]),
    ]
    if results["missing"]:
        lines += [
            "Missing peers: " + "; ".join(f"{PEERS[peer]}: {why}" for peer, why in results["missing"].items()),
            "",
        ]
    for letter, title in GROUPS.items():
        group = [work for work in works if work.group == letter]
        if group:
            lines += [f"## {letter}: {title}", ""]
            lines += [NOT_FOR_ALL[letter], ""] if letter in NOT_FOR_ALL else []
        if letter in "OS" and group:
            lines += sweep_table(group, results["works"])
        else:
            for work in group:
                lines += work_table(work, results["works"][work.key])
    for name, letters in PLOTS.items():
        if any(work.group in letters for work in works):
            lines += [f"![{name.replace('_', ' ')}]({name}.svg)", ""]
    return "\n".join(lines)


def write(results: dict[str, Any], folder: Path) -> str:
    """Write the JSON, the tables and the plots; return the tables."""
    from . import plots

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    text = markdown(results)
    (folder / "README.md").write_text(text)
    plots.draw(results, folder)
    return text
