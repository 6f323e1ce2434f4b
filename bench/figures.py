"""From samples to figures: medians with their range, ratios round by round, intervals. Arithmetic only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from .measure import Sample
from .works import Work

#: what else every figure is compared with
GRPC = "grpc_aio"
#: a figure: median, min, max, the interval of the median, and the rounds it was made of
Figure = dict[str, Any]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval of the median that covers at least 95% (order statistics, exact binomial).

    With fewer than six values no interval does; then it is the range.
    """
    ordered, n = sorted(values), len(values)
    low, outside = 0, 2 / 2**n
    while low + 1 < n - 2 - low and outside + 2 * math.comb(n, low + 1) / 2**n <= 0.05:
        low += 1
        outside += 2 * math.comb(n, low) / 2**n
    return ordered[low], ordered[n - 1 - low]


def summary(values: Sequence[float]) -> Figure:
    """Return median, range, interval and the values themselves."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "interval": list(interval(values)),
        "rounds": list(values),
    }


def ratio(these: Figure, those: Figure) -> Figure:
    """Return the summary of the ratios, taken round by round."""
    return summary([one / other for one, other in zip(these["rounds"], those["rounds"], strict=False)])


def row(work: Work, samples: Sequence[Sample]) -> dict[str, Any]:
    """Return what is known of one peer in one work."""
    made: dict[str, Any] = summary([sample.figure(work) for sample in samples])
    made["rate"] = summary([sample.calls / sample.elapsed for sample in samples])
    timed = [sample.percentiles for sample in samples if sample.percentiles]
    if timed:
        made["percentiles_us"] = {name: statistics.median(each[name] for each in timed) for name in timed[0]}
        made["tail"] = summary([each["99"] / each["50"] for each in timed])
    if work.kind != "memory":
        made["server_cpu_share"] = statistics.median(sample.server_cpu / sample.elapsed for sample in samples)
        made["server_cpu_us_per_call"] = statistics.median(1e6 * sample.server_cpu / sample.calls for sample in samples)
    return made


def rows(work: Work, samples: dict[str, list[Sample]]) -> dict[str, Any]:
    """Return a row a peer, with its ratios to the reference and to grpc.aio."""
    made = {peer: row(work, each) for peer, each in samples.items()}
    for name, other in (("x_ref", work.reference), ("x_grpc", GRPC)):
        for peer, each in made.items():
            if other in made and peer != other:
                each[name] = ratio(each, made[other])
    return made
