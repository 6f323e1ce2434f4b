"""The order of rounds, how many calls one has, and what becomes of a peer that fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from bench.__main__ import rounds_of_starts
from bench.measure import MissingError, Sample
from bench.rounds import MOST_CALLS, Outcome, Run, calls_for
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


def course() -> Run:
    return Run(0.5, lambda _what: None)


def run(work: str, peers: list[ScriptedPeer], rounds: int = 6) -> Outcome:
    untyped: list[Any] = list(peers)
    return course().work(WORKS[work], untyped, rounds)


def test_every_peer_is_measured_once_a_round_in_an_order_that_changes_and_is_the_same_again() -> None:
    orders = []
    for _ in range(2):
        log: list[str] = []
        outcome = run("A.python", [ScriptedPeer(name, log) for name in "abcd"], 8)
        assert {name: len(samples) for name, samples in outcome.samples.items()} == dict.fromkeys("abcd", 8)
        orders.append([tuple(log[i : i + 4]) for i in range(8, len(log), 4)])  # after two looks each
    assert all(sorted(order) == list("abcd") for order in orders[0])
    assert len(set(orders[0])) > 1
    assert orders[0] == orders[1]


def test_a_peer_that_fails_is_left_out_with_the_reason_and_the_others_are_measured() -> None:
    log: list[str] = []
    outcome = run("A.python", [ScriptedPeer("a", log), ScriptedPeer("b", log, fails_at=4)])
    assert list(outcome.samples) == ["a"]
    assert len(outcome.samples["a"]) == 6
    assert outcome.reasons == {"b": "failed: broke"}


def test_a_peer_that_lacks_something_is_missing_and_not_failed() -> None:
    peer = ScriptedPeer("a", [], fails_at=0, error=MissingError("no h2load: apt-get install nghttp2-client"))
    outcome = run("A.native", [peer])
    assert outcome.reasons == {"a": "missing: no h2load: apt-get install nghttp2-client"}


def test_a_peer_that_cannot_do_a_work_is_not_started_and_says_why() -> None:
    log: list[str] = []
    assert run("E.8x8", [ScriptedPeer("a", log, why="has no model")]).reasons == {"a": "has no model"}
    assert log == []


OFFERED = [WORKS[f"O.{rate}"] for rate in (1000, 2000, 4000)]


def start(course: Run, peer: ScriptedPeer, works: list[Work], rounds: int = 2) -> None:
    untyped: list[Any] = [peer]
    course.start(untyped, works, rounds)


def test_a_peer_that_no_longer_keeps_up_is_not_offered_more() -> None:
    peer, all_of_it = ScriptedPeer("a", [], rate=1200.0), course()
    start(all_of_it, peer, OFFERED)
    assert [list(all_of_it.outcomes[work.key].samples) for work in OFFERED] == [["a"], ["a"], []]
    assert all_of_it.outcomes["O.4000"].reasons == {"a": "saturated at 1,200 calls/s"}
    assert peer.rounds == 1 + 3  # the round that it did not keep up with was asked for twice more


def test_a_peer_that_is_slower_in_a_later_start_loses_the_higher_rates_it_had() -> None:
    peer, all_of_it = ScriptedPeer("a", [], rate=10_000.0), course()
    start(all_of_it, peer, OFFERED)
    peer.rate = 700.0
    start(all_of_it, peer, OFFERED)
    assert [len(all_of_it.outcomes[work.key].samples.get("a", [])) for work in OFFERED] == [2, 0, 0]


def test_one_slow_round_of_an_open_loop_does_not_end_a_peers_curve() -> None:
    class Stumbles(ScriptedPeer):
        def round(self, work: Work, calls: int, seconds: float) -> Sample:
            self.rate = 10.0 if self.rounds == 0 else 10_000.0
            return super().round(work, calls, seconds)

    peer, all_of_it = Stumbles("a", []), course()
    start(all_of_it, peer, OFFERED)
    assert all("a" in all_of_it.outcomes[work.key].samples for work in OFFERED)


def test_memory_comes_first_in_a_start_and_what_is_sparse_once() -> None:
    done: list[str] = []

    class Tells(ScriptedPeer):
        def round(self, work: Work, calls: int, seconds: float) -> Sample:
            done.append(work.key)
            return super().round(work, calls, seconds)

    start(course(), Tells("a", []), [WORKS["A.python"], WORKS["F"], WORKS["S.64"]])
    assert done == ["F", *["A.python"] * 4, *["S.64"] * 3]  # two looks each, unrecorded, but for memory


def test_starts_add_to_what_was_measured_and_who_failed_in_one_is_not_tried_in_the_next() -> None:
    both, log = course(), list[str]()
    good, bad = ScriptedPeer("a", log), ScriptedPeer("b", log, fails_at=3)
    for _ in range(3):
        untyped: list[Any] = [good, bad]
        both.start(untyped, [WORKS["A.python"]], 2)
    outcome = both.outcomes["A.python"]
    assert {peer: len(samples) for peer, samples in outcome.samples.items()} == {"a": 6}
    assert outcome.reasons == {"b": "failed: broke"}
    assert bad.rounds == 4
    assert good.rounds == 2 + 2 + 2 * (1 + 2)  # later starts take one look: how fast it is, is known


@pytest.mark.parametrize(("rounds", "starts"), [(10, [2] * 5), (3, [2, 1]), (1, [1])])
def test_rounds_are_shared_among_starts(rounds: int, starts: list[int]) -> None:
    assert rounds_of_starts(rounds) == starts


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
