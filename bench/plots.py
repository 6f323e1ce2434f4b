"""The plots, as SVG: latency percentiles up to p99.9, latency and rate versus offered load, bytes/s versus size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .peers import PEERS
from .works import WORKS, Work, size_text

LATENCY_WORKS = ("A.python", "B.native.1", "B.native.8", "C.python", "C.native.8")


def pyplot() -> Any:
    """Return pyplot for SVG files that are the same for the same figures."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "tensorwire"
    from matplotlib import pyplot as plt

    return plt


def save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot().close(figure)


def style(peer: str) -> dict[str, Any]:
    """Return how a peer's line looks: the same colour in every plot, ours thick."""
    index = list(PEERS).index(peer)
    ours = peer == "ours"
    return {
        "color": "black" if ours else f"C{index % 10}",
        "linewidth": 2.5 if ours else 1.2,
        "marker": "os^vD"[index % 5],
        "markersize": 4,
        "label": PEERS[peer],
    }


def latency(results: dict[str, Any], path: Path) -> None:
    """One panel a work: the percentiles of every peer, both axes logarithmic (the tail of 1 - p)."""
    keys = [key for key in LATENCY_WORKS if key in results]
    if not keys:
        return
    figure, panels = pyplot().subplots(1, len(keys), figsize=(5.2 * len(keys), 5.5), squeeze=False)
    for panel, key in zip(panels[0], keys, strict=True):
        for peer, row in results[key].items():
            if "percentiles_us" in row:
                points = row["percentiles_us"]
                panel.plot([100 / (100 - float(p)) for p in points], list(points.values()), **style(peer))
        panel.set(
            title=f"{key}: {WORKS[key].title}", xlabel="percentile", ylabel="latency, us", xscale="log", yscale="log"
        )
        panel.title.set_fontsize(8)
        panel.set_xticks([2, 10, 100, 1000], ["p50", "p90", "p99", "p99.9"])
        panel.grid(visible=True, which="major", alpha=0.3)
        panel.legend(fontsize=6)
    save(figure, path)


def sweep(results: dict[str, Any], letter: str) -> dict[str, list[tuple[Work, dict[str, Any]]]]:
    """Return peer -> the steps it was measured in."""
    lines: dict[str, list[tuple[Work, dict[str, Any]]]] = {}
    for key, rows in results.items():
        if WORKS[key].group == letter:
            for peer, row in rows.items():
                if "median" in row:
                    lines.setdefault(peer, []).append((WORKS[key], row))
    return lines


def offered_load(results: dict[str, Any], path: Path) -> None:
    """What was answered, and p50 and p99 from the intended send, versus what was offered."""
    lines = sweep(results, "O")
    if not lines:
        return
    figure, (rates, times) = pyplot().subplots(1, 2, figsize=(11, 4.5))
    for peer, steps in lines.items():
        offered = [work.rate for work, _ in steps]
        rates.plot(offered, [row["rate"]["median"] for _, row in steps], **style(peer))
        times.plot(offered, [row["percentiles_us"]["50"] for _, row in steps], **style(peer))
        tail = {**style(peer), "linestyle": "--", "label": f"{PEERS[peer]}, p99"}
        times.plot(offered, [row["percentiles_us"]["99"] for _, row in steps], **tail)
    rates.set(xlabel="offered, calls/s", ylabel="answered, calls/s", xscale="log", yscale="log")
    times.set(xlabel="offered, calls/s", ylabel="latency from the intended send, us", xscale="log", yscale="log")
    for panel in (rates, times):
        panel.grid(visible=True, which="major", alpha=0.3)
        panel.legend(fontsize=7)
    save(figure, path)


def sizes(results: dict[str, Any], path: Path) -> None:
    """Bytes per second of echoes, one in flight, versus the size of the tensor."""
    lines = sweep(results, "S")
    if not lines:
        return
    figure, panel = pyplot().subplots(figsize=(7, 4.5))
    steps = sorted({work.request_bytes for each in lines.values() for work, _ in each})
    for peer, each in lines.items():
        panel.plot([work.request_bytes for work, _ in each], [row["median"] * 1e6 for _, row in each], **style(peer))
    panel.set(xlabel="tensor", ylabel="bytes/s, one way", xscale="log", yscale="log")
    panel.set_xticks(steps, [size_text(step) for step in steps], rotation=30)
    panel.minorticks_off()
    panel.grid(visible=True, which="major", alpha=0.3)
    panel.legend(fontsize=7)
    save(figure, path)


def draw(results: dict[str, Any], folder: Path) -> None:
    """Draw what was measured."""
    latency(results["works"], folder / "latency.svg")
    offered_load(results["works"], folder / "offered_load.svg")
    sizes(results["works"], folder / "sizes.svg")
