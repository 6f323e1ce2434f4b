"""The interleaved run: every server is started several times, and within a start all works are run. Within a work every
peer is measured once a round, in an order shuffled anew each round.

One server of a program may be a third as fast as another for as long as it lives, and a machine may be slow for
minutes: both are in the spread of figures that were taken over several starts.

Not here: how one round is measured (`measure`), what becomes of the samples (`figures`).
"""

from __future__ import annotations

import math
import random
import statistics
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

    def leave_out(self, module: str, reason: str) -> None:
        """Forget what a peer gave: it fails, or cannot go on."""
        self.samples.pop(module, None)
        self.reasons[module] = reason


def calls_for(work: Work, sample: Sample, seconds: float) -> int:
    """Return how many calls fill the time, going by what was seen; a multiple of what is in flight."""
    least = max(3, work.in_flight)
    calls = int(sample.calls / sample.elapsed * seconds)
    return max(least, min(MOST_CALLS, calls // work.in_flight * work.in_flight))


def first_calls(work: Work) -> int:
    """Return the calls of the first look: few where each one is big."""
    return max(work.in_flight, 3 if work.request_bytes > 1 << 20 else FIRST_CALLS)


class Run:
    """Measures works, start after start; ``outcomes`` has all that was measured, by the work's key."""

    def __init__(self, seconds: float, advance: Callable[[str], None]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._seconds, self._advance = seconds, advance
        self._starts = 0
        #: (work, peer) -> what was seen of it in the start before
        self._seen: dict[tuple[str, str], Sample] = {}
        #: peer -> calls per second offered that it did not keep up with, and those it answered
        self._saturated: dict[str, tuple[float, float]] = {}

    def start(self, peers: list[Peer], works: list[Work], rounds: int) -> None:
        """Measure works with servers that were just started, memory first: the servers are fresh only once."""
        self._starts += 1
        for work in sorted(works, key=lambda work: work.kind != "memory"):
            self.work(work, peers, rounds)

    def work(self, work: Work, peers: list[Peer], rounds: int) -> Outcome:
        """Measure one work. A peer that fails is left out from then on, with the reason."""
        outcome, calls = self.outcomes.setdefault(work.key, Outcome()), dict[str, int]()
        for peer in peers:
            if reason := peer.reason(work):
                outcome.reasons[peer.module] = reason
            elif peer.does(work) and peer.module not in outcome.reasons and not self._left_out(work, peer, outcome):
                try:
                    calls[peer.module] = self._calls(peer, work)
                except Exception as error:  # noqa: BLE001 - whatever ails one peer, the others are measured
                    outcome.leave_out(peer.module, explain(error))
        order = random.Random(f"{work.key} {self._starts}")
        for _ in range(work.rounds_a_start(rounds)):
            doing = [peer for peer in peers if peer.module in calls]
            for peer in order.sample(doing, len(doing)):
                self._advance(f"{work.key} {peer.name}")
                try:
                    sample = peer.round(work, calls[peer.module], self._seconds)
                    outcome.samples.setdefault(peer.module, []).append(sample)
                    self._look_for_saturation(peer, work, sample)
                except Exception as error:  # noqa: BLE001 - as above
                    outcome.leave_out(peer.module, explain(error))
                    del calls[peer.module]
        return outcome

    def _left_out(self, work: Work, peer: Peer, outcome: Outcome) -> bool:
        """Whether an open loop offers more than a peer did not keep up with, in whichever start that was."""
        offered, answered = self._saturated.get(peer.module, (math.inf, 0.0))
        if work.kind != "open" or work.rate <= offered:
            return False
        outcome.leave_out(peer.module, f"saturated at {answered:,.0f} calls/s")
        return True

    def _look_for_saturation(self, peer: Peer, work: Work, sample: Sample) -> None:
        """Find out whether a peer keeps up with an open loop: a round that says no is asked twice more, unrecorded."""
        if work.kind != "open" or work.rate >= self._saturated.get(peer.module, (math.inf, 0.0))[0]:
            return
        rates = [sample.calls / sample.elapsed]
        while len(rates) < 3 and rates[0] < KEEPS_UP * work.rate:
            again = peer.round(work, first_calls(work), self._seconds)
            rates.append(again.calls / again.elapsed)
        if (answered := statistics.median(rates)) < KEEPS_UP * work.rate:
            self._saturated[peer.module] = (work.rate, answered)

    def _calls(self, peer: Peer, work: Work) -> int:
        """Look twice at a peer's speed, unrecorded: connections, caches and allocators are warm after that."""
        if work.kind in {"open", "memory"}:
            return first_calls(work)
        key = (work.key, peer.module)
        seen = self._seen.get(key) or peer.round(work, first_calls(work), self._seconds)
        self._seen[key] = peer.round(work, calls_for(work, seen, SECOND_LOOK), self._seconds)
        return calls_for(work, self._seen[key], self._seconds)


def explain(error: Exception) -> str:
    """Return one line for the table."""
    text = str(error).strip().splitlines()
    kind = "missing" if isinstance(error, MissingError) else "failed"
    return f"{kind}: {text[-1] if text else type(error).__name__}"
