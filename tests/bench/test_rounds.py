"""The order of rounds, how many calls one has, and what becomes of a peer that fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from bench.measure import MissingError, Sample
from bench.rounds import MOST_CALLS, Run, calls_for
from bench.works import WORKS, Work


@dataclass
class ScriptedPeer:
    """Answers ``rate`` calls per second, and fails in the rounds it is told to."""

    module: str
    log: list[str]
    rate: float = 1000.0
    fails_at: int = 1 << 30
    error: Exception = field(default_factory=lambda: RuntimeError("line one\nbroke"))
    why: str = ""
    rounds: int = 0

    @property
    def name(self) -> str:
        return self.module

    def does(self, work: Work) -> bool:
        return not self.why

    def reason(self, work: Work) -> str:
        return self.why

    def round(self, work: Work, calls: int, seconds: float) -> Sample:
        self.log.append(self.module)
        self.rounds += 1
        if self.rounds > self.fails_at:
            raise self.error
        return Sample(calls, calls / self.rate, {"50": 1.0, "99": 2.0})


def run(peers: list[ScriptedPeer], rounds: int = 6) -> Run:
    untyped: list[Any] = list(peers)
    return Run(untyped, rounds, 0.5, lambda _what: None)


def test_every_peer_is_measured_once_a_round_in_an_order_that_changes_and_is_the_same_again() -> None:
    orders = []
    for _ in range(2):
        log: list[str] = []
        outcome = run([ScriptedPeer(name, log) for name in "abcd"], 8).work(WORKS["A.python"])
        assert {name: len(samples) for name, samples in outcome.samples.items()} == dict.fromkeys("abcd", 8)
        orders.append([tuple(log[i : i + 4]) for i in range(8, len(log), 4)])  # after two looks each
    assert all(sorted(order) == list("abcd") for order in orders[0])
    assert len(set(orders[0])) > 1
    assert orders[0] == orders[1]


def test_a_peer_that_fails_is_left_out_with_the_reason_and_the_others_are_measured() -> None:
    log: list[str] = []
    outcome = run([ScriptedPeer("a", log), ScriptedPeer("b", log, fails_at=4)]).work(WORKS["A.python"])
    assert list(outcome.samples) == ["a"]
    assert len(outcome.samples["a"]) == 6
    assert outcome.reasons == {"b": "failed: broke"}


def test_a_peer_that_lacks_something_is_missing_and_not_failed() -> None:
    peer = ScriptedPeer("a", [], fails_at=0, error=MissingError("no h2load: apt-get install nghttp2-client"))
    outcome = run([peer]).work(WORKS["A.native"])
    assert outcome.reasons == {"a": "missing: no h2load: apt-get install nghttp2-client"}


def test_a_peer_that_cannot_do_a_work_is_not_started_and_says_why() -> None:
    log: list[str] = []
    assert run([ScriptedPeer("a", log, why="has no model")]).work(WORKS["E.8x8"]).reasons == {"a": "has no model"}
    assert log == []


def test_a_peer_that_no_longer_keeps_up_is_not_offered_more() -> None:
    peer = ScriptedPeer("a", [], rate=1200.0)
    course = run([peer])
    assert "a" in course.work(WORKS["O.1000"]).samples
    assert "a" in course.work(WORKS["O.2000"]).samples
    assert course.work(WORKS["O.4000"]).reasons == {"a": "saturated at 1,200 calls/s"}


def test_sparse_works_have_fewer_rounds_but_at_least_one() -> None:
    assert run([], 10).rounds_of(WORKS["O.1000"]) == 3
    assert run([], 1).rounds_of(WORKS["F"]) == 1


@pytest.mark.parametrize(
    ("key", "rate", "calls"),
    [
        ("A.python", 10_000, 5000),
        ("B.python", 10_000, 4992),
        ("B.python", 1, 64),
        ("D", 1, 3),
        ("A.python", 1e9, MOST_CALLS),
    ],
)
def test_calls_fill_the_time_in_multiples_of_what_is_in_flight(key: str, rate: float, calls: int) -> None:
    assert calls_for(WORKS[key], Sample(100, 100 / rate), 0.5) == calls
