"""Whether two runs agree: figure by figure, do the intervals that each run states of itself overlap?"""

from __future__ import annotations

from typing import Any

from .peers import PEERS
from .report import with_interval

ENOUGH = 6
"""Rounds from which there is a 95% interval; with fewer the ranges are compared."""


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two closed intervals have a point in common."""
    return one[0] <= other[1] and other[0] <= one[1]


def compared_figure(row: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return what of a row travels between runs: its ratio to the reference; of the reference itself its value."""
    if "interval" not in row:
        return None
    return ("x ref", row["x_ref"]) if "x_ref" in row else ("value", row)


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a line a figure that both runs have: work, peer, what, both figures, whether they agree."""
    lines: list[dict[str, Any]] = []
    for key in old["works"].keys() & new["works"].keys():
        for peer, row in new["works"][key].items():
            before, after = compared_figure(old["works"][key].get(peer, {})), compared_figure(row)
            if before and after and before[0] == after[0]:
                agrees = overlap(before[1]["interval"], after[1]["interval"])
                lines.append(
                    {"work": key, "peer": peer, "what": after[0], "old": before[1], "new": after[1], "agrees": agrees}
                )
    order = {key: index for index, key in enumerate(new["works"])}
    return sorted(lines, key=lambda line: order[line["work"]])


def firm(line: dict[str, Any]) -> bool:
    """Whether both runs have a 95% interval of this figure."""
    return min(len(line["old"]["rounds"]), len(line["new"]["rounds"])) >= ENOUGH


def table(lines: list[dict[str, Any]]) -> str:
    """Return the comparison as a Markdown table with a sum at its end."""
    text = ["| work | peer | | old (95% interval) | new (95% interval) | new/old | |", "|---|---|---|---|---|---|---|"]
    for line in lines:
        old, new = line["old"], line["new"]
        change = f"{new['median'] / old['median']:.2f}" if old["median"] else "-"
        verdict = "agree" if line["agrees"] else "**apart**"
        text.append(
            f"| {line['work']} | {PEERS.get(line['peer'], line['peer'])} | {line['what']} | {with_interval(old)} "
            f"| {with_interval(new)} | {change} | {verdict} |"
        )
    said = []
    for words, chosen in (
        ("figures agree within their own 95% intervals", [line["agrees"] for line in lines if firm(line)]),
        (f"figures of fewer than {ENOUGH} rounds within their range", [x["agrees"] for x in lines if not firm(x)]),
    ):
        if chosen:
            said.append(f"{sum(chosen)} of {len(chosen)} {words}")
    return "\n".join([*text, "", "; ".join(said)])
