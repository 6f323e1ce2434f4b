"""What is to be reached, with MAC none and signed, as data, and whether a run reached it.

Stretch targets do not fail a run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .figures import Figure, ratio


@dataclass(frozen=True, slots=True)
class Target:
    """``peer`` in ``work``, divided by ``other`` (of ``other_work`` if given), is at most or at least ``bound``.

    Without ``other`` the figure itself is judged. ``field``: which part of the row, "" for the compared figure.
    """

    text: str
    work: str
    peer: str
    bound: float
    at_most: bool
    other: str = ""
    other_work: str = ""
    field: str = ""
    stretch: bool = False

    def chosen(self, results: dict[str, dict[str, Any]]) -> bool:
        """Whether its works were run with its peers."""
        pairs = [(self.work, self.peer), (self.other_work or self.work, self.other or self.peer)]
        return all(peer in results.get(work, {}) for work, peer in pairs)

    def measured(self, results: dict[str, dict[str, Any]]) -> Figure:
        """Return the judged figure. Raises KeyError with the reason where it was not measured."""
        mine = self._figure(results[self.work], self.peer)
        if not self.other:
            return mine
        return ratio(mine, self._figure(results[self.other_work or self.work], self.other))

    def _figure(self, rows: dict[str, Any], peer: str) -> Figure:
        found = rows[peer]
        if "reason" in found:
            raise KeyError(f"{peer}: {found['reason']}")
        figure: Figure = found[self.field] if self.field else found
        return figure

    def met(self, value: float) -> bool:
        """Whether ``value`` is good enough."""
        return value <= self.bound if self.at_most else value >= self.bound


def at_most(text: str, work: str, peer: str, bound: float, **options: Any) -> Target:
    """A figure that must not be larger."""
    return Target(f"{text} <= {bound:g}", work, peer, bound, at_most=True, **options)


def at_least(text: str, work: str, peer: str, bound: float, **options: Any) -> Target:
    """A figure that must not be smaller."""
    return Target(f"{text} >= {bound:g}", work, peer, bound, at_most=False, **options)


REF, WIDE, GRPC, OURS, HMAC, GMAC = "raw_echo", "raw_echo_wide", "grpc_aio", "ours", "ours_hmac", "ours_gmac"
TARGETS = (
    at_most("A p50, blocking client, x raw echo", "A.python", OURS, 1.15, other=REF),
    at_most("A p50, blocking client, x grpc.aio", "A.python", OURS, 0.25, other=GRPC),
    at_most("A p50, client spins, x raw echo", "A.python", "ours_spin", 1.0, other=REF, stretch=True),
    at_least("B native, 1 connection, x raw echo", "B.native.1", OURS, 0.40, other=REF),
    at_least("B native, 1 connection, x raw echo", "B.native.1", OURS, 0.50, other=REF, stretch=True),
    at_least("B native, 1 connection, pure Python server, x raw echo", "B.native.1", "ours_pure", 0.25, other=REF),
    at_least("B native, 1 connection, x grpc.aio", "B.native.1", OURS, 80, other=GRPC),
    at_least("B native, 8 connections, x raw echo", "B.native.8", OURS, 0.24, other=REF),
    at_least("B native, 8 connections, x raw echo", "B.native.8", OURS, 0.35, other=REF, stretch=True),
    at_least("B own Python client, x raw echo's", "B.python", OURS, 0.65, other=REF),
    at_least("B own Python client, x raw echo's", "B.python", OURS, 0.85, other=REF, stretch=True),
    at_least("B own Python client, x grpc.aio", "B.python", OURS, 20, other=GRPC),
    at_most("C p50, x raw echo", "C.python", OURS, 1.1, other=REF),
    at_most("C p50, x raw echo with a buffer of 256 KiB", "C.python", OURS, 1.1, other=WIDE, stretch=True),
    at_most("C p50, x pyzmq", "C.python", OURS, 1.0, other="zmq_router"),
    at_least("C req/s, x pyzmq", "C.rate", OURS, 1.0, other="zmq_router"),
    at_least("D MB/s, x raw echo", "D", OURS, 1.0, other=REF),
    at_least("D MB/s, x pyzmq", "D", OURS, 1.0, other="zmq_router", stretch=True),
    at_least("E, 8 connections, x in-process ceiling", "E.8x8", OURS, 0.65, other="in_process"),
    at_least("E, 8 connections, x in-process ceiling", "E.8x8", OURS, 0.80, other="in_process", stretch=True),
    at_least("E, 8 connections, x Mosec", "E.8x8", OURS, 2.0, other="mosec_server"),
    at_most("F, KiB per idle connection", "F", OURS, 4.0),
    at_most("B native, 8 connections, p99/p50", "B.native.8", OURS, 4.0, field="tail"),
    at_most("B native, 8 connections, p99/p50", "B.native.8", OURS, 2.5, field="tail", stretch=True),
    at_most("C native, 8 connections, p99/p50", "C.native.8", OURS, 4.0, field="tail"),
    at_most("C native, 8 connections, p99/p50", "C.native.8", OURS, 2.5, field="tail", stretch=True),
    at_least(
        "C native, req/s of 8 connections, x 1 connection", "C.native.8", OURS, 0.9, other=OURS, other_work="C.native.1"
    ),
    at_most("I, model's p99 under a flood, x alone", "I.flood", OURS, 3.0, other=OURS, other_work="I.alone"),
    at_most(
        "I, model's p99 under a flood, x alone", "I.flood", OURS, 1.5, other=OURS, other_work="I.alone", stretch=True
    ),
    at_most("HMAC, A p50, blocking client, x raw echo", "A.python", HMAC, 1.15, other=REF),
    at_most("HMAC, A p50, blocking client, x grpc.aio", "A.python", HMAC, 0.25, other=GRPC),
    at_least("HMAC, B native, 1 connection, x raw echo", "B.native.1", HMAC, 0.40, other=REF),
    at_least("HMAC, B native, 1 connection, x raw echo", "B.native.1", HMAC, 0.50, other=REF, stretch=True),
    at_least(
        "HMAC, B native, 1 connection, pure Python server, x raw echo", "B.native.1", "ours_pure_hmac", 0.25, other=REF
    ),
    at_least("HMAC, B native, 1 connection, x grpc.aio", "B.native.1", HMAC, 80, other=GRPC),
    at_least("HMAC, B native, 8 connections, x raw echo", "B.native.8", HMAC, 0.24, other=REF),
    at_least("HMAC, B native, 8 connections, x raw echo", "B.native.8", HMAC, 0.35, other=REF, stretch=True),
    at_least("HMAC, B own Python client, x raw echo's", "B.python", HMAC, 0.65, other=REF),
    at_least("HMAC, B own Python client, x raw echo's", "B.python", HMAC, 0.85, other=REF, stretch=True),
    at_least("HMAC, B own Python client, x grpc.aio", "B.python", HMAC, 20, other=GRPC),
    at_most("GMAC, C p50, x raw echo", "C.python", GMAC, 2.0, other=REF),
    at_most("GMAC, C p50, x raw echo with a buffer of 256 KiB", "C.python", GMAC, 2.0, other=WIDE, stretch=True),
    at_most("GMAC, C p50, x pyzmq unsigned", "C.python", GMAC, 1.0, other="zmq_router", stretch=True),
    at_least("GMAC, C req/s, x raw echo", "C.rate", GMAC, 0.5, other=REF),
    at_least("GMAC, C req/s, x raw echo with a buffer of 256 KiB", "C.rate", GMAC, 0.5, other=WIDE, stretch=True),
    at_least("GMAC, D MB/s, x raw echo", "D", GMAC, 0.6, other=REF),
    at_least("HMAC, D MB/s, x raw echo", "D", HMAC, 0.25, other=REF),
    at_least("HMAC, E, 8 connections, x in-process ceiling", "E.8x8", HMAC, 0.65, other="in_process"),
    at_least("HMAC, E, 8 connections, x in-process ceiling", "E.8x8", HMAC, 0.80, other="in_process", stretch=True),
    at_least("HMAC, E, 8 connections, x Mosec", "E.8x8", HMAC, 2.0, other="mosec_server"),
    at_most("HMAC, F, KiB per idle authenticated connection", "F", HMAC, 8.0),
    at_most("HMAC, B native, 8 connections, p99/p50", "B.native.8", HMAC, 4.0, field="tail"),
    at_most("HMAC, B native, 8 connections, p99/p50", "B.native.8", HMAC, 2.5, field="tail", stretch=True),
    at_most("GMAC, C native, 8 connections, p99/p50", "C.native.8", GMAC, 4.0, field="tail"),
    at_most("GMAC, C native, 8 connections, p99/p50", "C.native.8", GMAC, 2.5, field="tail", stretch=True),
    at_least(
        "GMAC, C native, req/s of 8 connections, x 1 connection",
        "C.native.8",
        GMAC,
        0.9,
        other=GMAC,
        other_work="C.native.1",
    ),
)


def judged(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every target whose works and peers were chosen: text, measured median and interval, met or not.

    ``met`` is None where a peer could not be measured; ``reason`` says why.
    """
    made: list[dict[str, Any]] = []
    for target in TARGETS:
        if not target.chosen(results):
            continue
        told: dict[str, Any] = {"text": target.text, "stretch": target.stretch, "met": None}
        try:
            figure = target.measured(results)
            told |= {"median": figure["median"], "interval": figure["interval"], "met": target.met(figure["median"])}
        except KeyError as error:
            told["reason"] = str(error.args[0])
        made.append(told)
    return made


def failed(targets: list[dict[str, Any]]) -> list[str]:
    """Return the texts of the targets that fail a run: missed or not measured, stretch targets aside."""
    return [target["text"] for target in targets if not target["met"] and not target["stretch"]]
