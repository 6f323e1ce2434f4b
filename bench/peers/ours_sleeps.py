"""tensorwire with a blocking client that sleeps for every reply, as the raw echo's client does (A and C only)."""

from __future__ import annotations

from bench.harness import Sample
from bench.works import Work

from . import ours
from .ours import PATH, serve

__all__ = ["NAME", "PATH", "WORKS", "measure", "serve"]

NAME = "tensorwire, client sleeps"
WORKS = "AC"


def measure(work: Work, address: str, calls: int) -> Sample:
    return ours.measure(work, address, calls, 0.0)
