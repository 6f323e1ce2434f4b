"""tensorwire with a blocking client that asks for its reply without sleeping, which costs it a core (A and C only)."""

from __future__ import annotations

from bench.harness import Sample
from bench.works import Work

from . import ours
from .ours import PATH, serve

__all__ = ["NAME", "PATH", "WORKS", "measure", "serve"]

NAME = "tensorwire, client spins"
WORKS = "AC"
SPIN = 0.001


def measure(work: Work, address: str, calls: int) -> Sample:
    return ours.measure(work, address, calls, SPIN)
