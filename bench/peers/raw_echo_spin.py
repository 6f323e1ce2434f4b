"""The raw echo and a bare socket that asks for its reply without sleeping: the floor of a client that spins (A, C)."""

from __future__ import annotations

from bench.harness import Sample
from bench.works import Work

from .raw_echo import one_in_flight, serve

__all__ = ["NAME", "WORKS", "measure", "serve"]

NAME = "raw uvloop echo, client spins"
WORKS = "AC"


def measure(work: Work, address: str, calls: int) -> Sample:
    return one_in_flight(work, address, calls, spin=True)
