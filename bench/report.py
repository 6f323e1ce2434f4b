"""Turns rounds into figures: medians with their range, ratios per round with an interval, a table, JSON, a plot."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import math
import platform
import statistics
from pathlib import Path
from typing import Any

from .harness import Sample, percentile
from .works import Work

REFERENCE = "raw_echo"
PACKAGES = ("grpcio", "numpy", "uvloop")


def interval(values: list[float]) -> tuple[float, float]:
    """Return the interval of the median that covers at least 95% (order statistics, exact binomial)."""
    ordered, n = sorted(values), len(values)
    low, outside = 0, 2 / 2**n
    while low + 1 < n - 2 - low and outside + 2 * math.comb(n, low + 1) / 2**n <= 0.05:
        low += 1
        outside += 2 * math.comb(n, low) / 2**n
    return ordered[low], ordered[n - 1 - low]


def figures(work: Work, samples: dict[str, list[Sample]]) -> dict[str, Any]:
    """Return a row a peer: the figure's median and range, ratios to the reference and gRPC, percentiles, server CPU."""
    rows: dict[str, Any] = {}
    for peer, rounds in samples.items():
        values = [sample.figure(work) for sample in rounds]
        pooled = [latency for sample in rounds for latency in sample.latencies]
        row: dict[str, Any] = {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "server_cpu_us_per_call": 1e6 * sum(sample.server_cpu for sample in rounds) / len(pooled),
            "percentiles_us": {str(p): 1e6 * percentile(pooled, p) for p in (50, 90, 99, 99.9)},
        }
        for other, name in ((REFERENCE, "x_ref"), ("grpc_aio", "x_grpc")):
            if other in samples and other != peer:
                ratios = [value / sample.figure(work) for value, sample in zip(values, samples[other], strict=True)]
                row[name] = {"median": statistics.median(ratios), "interval": interval(ratios), "ratios": ratios}
        rows[peer] = row
    return rows


def machine() -> dict[str, Any]:
    """Return what the run ran on: CPU model, kernel, Python, package versions, date. No name of the machine."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    return {
        "cpu": model,
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def ratio(row: dict[str, Any], name: str) -> str:
    """Format one ratio with its interval."""
    if name not in row:
        return "-"
    low, high = row[name]["interval"]
    return f"{row[name]['median']:.2f} ({low:.2f}-{high:.2f})"


def markdown(results: dict[str, Any], works: dict[str, Work], names: dict[str, str]) -> str:
    """Return the tables, one a work."""
    about = results["machine"]
    lines = [
        "# Benchmark",
        "",
        f"{about['cpu']}, 2 cores (server on one, client on the other), Linux {about['kernel']}, "
        f"Python {about['python']}, {about['date']}; {results['rounds']} interleaved rounds, loopback, no MAC.",
        "Median of the rounds with min-max; ratios are taken round by round: median (95% interval). "
        "Only ratios travel between machines.",
        "",
    ]
    for key, rows in results["works"].items():
        work = works[key]
        unit = "p50, us" if work.figure == "p50" else "calls/s"
        lines += [
            f"## {key}: {work.title}",
            "",
            f"| peer | {unit} (min-max) | x raw echo | x grpc.aio | p99, us | server CPU, us/call |",
            "|---|---|---|---|---|---|",
        ]
        for peer, row in rows.items():
            spread = f"{row['median']:,.0f} ({row['min']:,.0f}-{row['max']:,.0f})"
            ratios = f"{ratio(row, 'x_ref')} | {ratio(row, 'x_grpc')}"
            rest = f"{row['percentiles_us']['99']:,.0f} | {row['server_cpu_us_per_call']:.1f}"
            lines.append(f"| {names[peer]} | {spread} | {ratios} | {rest} |")
        lines.append("")
    lines += ["## Targets", "", "| target | measured | met |", "|---|---|---|"]
    lines += [f"| {text} | {value:.2f} | {'yes' if met else '**no**'} |" for text, value, met in results["targets"]]
    return "\n".join(lines) + "\n"


def targets(figured: dict[str, Any]) -> list[tuple[str, float, bool]]:
    """Return each target with what was measured and whether it holds."""
    wanted = (
        ("A p50 <= 1.15 x raw echo", "A", "x_ref", 1.15, True),
        ("A p50 <= 0.25 x grpc.aio", "A", "x_grpc", 0.25, True),
        ("B >= 20 x grpc.aio, asyncio client", "B", "x_grpc", 20.0, False),
        ("C p50 <= 1.25 x raw echo", "C", "x_ref", 1.25, True),
    )
    rows = []
    for text, key, name, bound, lower in wanted:
        measured = figured.get(key, {}).get("ours", {}).get(name)
        if measured:
            value = measured["median"]
            rows.append((text, value, value <= bound if lower else value >= bound))
    return rows


def plot(results: dict[str, Any], names: dict[str, str], path: Path) -> None:
    """Draw the latency percentiles of every peer, one panel a work, logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "tensorwire"
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(results["works"]), figsize=(5 * len(results["works"]), 4), squeeze=False)
    for panel, (key, rows) in zip(panels[0], results["works"].items(), strict=True):
        for peer, row in rows.items():
            points = row["percentiles_us"]
            width = 2.5 if peer == "ours" else 1.2
            panel.plot(list(points), list(points.values()), marker="o", label=names[peer], linewidth=width)
        panel.set(title=f"{key}", xlabel="percentile", ylabel="latency, us", yscale="log")
        panel.grid(visible=True, which="both", alpha=0.3)
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def write(results: dict[str, Any], works: dict[str, Work], names: dict[str, str], folder: Path) -> str:
    """Write the JSON, the table and the plot; return the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    table = markdown(results, works, names)
    (folder / "README.md").write_text(table + "\n![latency percentiles](latency.svg)\n")
    plot(results, names, folder / "latency.svg")
    return table
