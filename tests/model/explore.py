"""Goes through every state of a scenario, breadth first, and says whether a goal breaks: python -m tests.model.explore

What lives here: the search and its report. What must not: the protocol.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from . import goals
from .machine import Client, Model, Scenario, State
from .rules import Rules

SCENARIOS = {
    "two": Scenario(),
    "wrong certificate": Scenario(
        clients=(Client(), Client("B", "another certificate", ("hmac-sha256", "none"))),
    ),
    "wide": Scenario(altered=2),
    "three": Scenario(
        clients=(Client(), Client(), Client("B", mac=("hmac-sha256", "none"))),
        servers=3,
        entries=("nonce", "mac", "key_id"),
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What a search found."""

    states: int
    complete: int
    """The most pairs of client and server that were open at once and took all of each other's records."""
    broken: str | None
    trace: tuple[str, ...]
    """How the broken state is reached, step by step."""


def explore(scenario: Scenario, without: Iterable[str] = (), watched: Collection[goals.Goal] = goals.GOALS) -> Outcome:
    """Every state that can be reached, or the shortest way to one in which a watched goal is broken."""
    model = Model(scenario, Rules(frozenset(without)))
    came_from: dict[State, State | None] = {model.start: None}
    queue = deque([model.start])
    most = 0
    while queue:
        state = queue.popleft()
        for index, reached in model.steps(state):
            if reached in came_from:
                continue
            came_from[reached] = state
            what = goals.broken(model, reached, reached[index], watched)
            if what:
                return Outcome(len(came_from), most, what, _trace(came_from, reached))
            most = max(most, goals.complete(model, reached))
            queue.append(reached)
    return Outcome(len(came_from), most, None, ())


def _trace(came_from: dict[State, State | None], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    before = came_from[state]
    while before is not None:
        steps += [repr(now) for now, then in zip(state, before, strict=True) if now is not then]
        state, before = before, came_from[before]
    return tuple(reversed(steps))


def main() -> int:
    """Explores one scenario and prints its figures; exit status 1 if a goal is broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.explore", description="Explore the handshake's model.")
    parser.add_argument("scenario", nargs="?", default="two", choices=SCENARIOS)
    parser.add_argument("--without", action="append", default=[], help="an ingredient to leave out (rules.INGREDIENTS)")
    arguments = parser.parse_args()
    began = time.monotonic()
    found = explore(SCENARIOS[arguments.scenario], arguments.without)
    print(f"{found.states} states, {time.monotonic() - began:.1f} s, {found.complete} sessions complete at once")
    print("every goal holds" if found.broken is None else "\n".join([f"BROKEN {found.broken}", *found.trace]))
    return found.broken is not None


if __name__ == "__main__":
    raise SystemExit(main())
