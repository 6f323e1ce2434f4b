"""The interleaved run: within a work every peer is measured once a round, in an order shuffled anew each round.

Not here: how one round is measured (`measure`), what becomes of the samples (`figures`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from .harness import Peer
from .measure import MissingError, Sample
from .works import Work

#: calls of the first look at a peer's speed, and the seconds of the second
FIRST_CALLS, SECOND_LOOK = 64, 0.1
MOST_CALLS = 1_000_000
#: an open loop that answers less than this of what is offered is saturated: higher rates are not offered
KEEPS_UP = 0.75


@dataclass(slots=True)
class Outcome:
    """What a work gave: samples a peer in the order of the rounds, and why there are none."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    #: module -> why it was not measured
    reasons: dict[str, str] = field(default_factory=dict)


def calls_for(work: Work, sample: Sample, seconds: float) -> int:
    """Return how many calls fill the time, going by what was seen; a multiple of what is in flight."""
    least = max(3, work.in_flight)
    calls = int(sample.calls / sample.elapsed * seconds)
    return max(least, min(MOST_CALLS, calls // work.in_flight * work.in_flight))


def first_calls(work: Work) -> int:
    """Return the calls of the first look: few where each one is big."""
    return max(work.in_flight, 3 if work.request_bytes > 1 << 20 else FIRST_CALLS)


class Run:
    """Measures works one after the other; remembers which peer an open loop has saturated."""

    def __init__(self, peers: list[Peer], rounds: int, seconds: float, advance: Callable[[str], None]) -> None:
        self._peers, self._rounds, self._seconds, self._advance = peers, rounds, seconds, advance
        self._saturated: dict[str, float] = {}

    def rounds_of(self, work: Work) -> int:
        """Return how many rounds a work gets."""
        return max(1, self._rounds // work.sparse)

    def steps(self, work: Work) -> int:
        """Return how often ``advance`` will be called for a work, at most."""
        return self.rounds_of(work) * sum(peer.does(work) for peer in self._peers)

    def work(self, work: Work) -> Outcome:
        """Measure one work. A peer that fails is left out from then on, with the reason."""
        outcome, calls = Outcome(), dict[str, int]()
        for peer in self._peers:
            if reason := peer.reason(work):
                outcome.reasons[peer.module] = reason
            elif peer.does(work) and (rate := self._saturated.get(peer.module)) and work.kind == "open":
                outcome.reasons[peer.module] = f"saturated at {rate:,.0f} calls/s"
            elif peer.does(work):
                try:
                    calls[peer.module] = self._calls(peer, work)
                    outcome.samples[peer.module] = []
                except Exception as error:  # noqa: BLE001 - whatever ails one peer, the others are measured
                    outcome.reasons[peer.module] = explain(error)
        order = random.Random(work.key)
        for _ in range(self.rounds_of(work)):
            doing = [peer for peer in self._peers if peer.module in outcome.samples]
            for peer in order.sample(doing, len(doing)):
                self._advance(f"{work.key} {peer.name}")
                try:
                    outcome.samples[peer.module].append(peer.round(work, calls[peer.module], self._seconds))
                except Exception as error:  # noqa: BLE001 - as above
                    outcome.reasons[peer.module] = explain(error)
                    del outcome.samples[peer.module]
        if work.kind == "open":
            for module, samples in outcome.samples.items():
                rate = sorted(sample.calls / sample.elapsed for sample in samples)[len(samples) // 2]
                if rate < KEEPS_UP * work.rate:
                    self._saturated[module] = rate
        return outcome

    def _calls(self, peer: Peer, work: Work) -> int:
        """Look twice at a peer's speed, unrecorded: connections, caches and allocators are warm after that."""
        if work.kind in {"open", "memory"}:
            return first_calls(work)
        first = peer.round(work, first_calls(work), self._seconds)
        second = peer.round(work, calls_for(work, first, SECOND_LOOK), self._seconds)
        return calls_for(work, second, self._seconds)


def explain(error: Exception) -> str:
    """Return one line for the table."""
    text = str(error).strip().splitlines()
    kind = "missing" if isinstance(error, MissingError) else "failed"
    return f"{kind}: {text[-1] if text else type(error).__name__}"
