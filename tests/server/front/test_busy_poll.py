"""How long the loop looks for bytes before it sleeps: turns and seconds are given, nothing waits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tensorwire.server.front.busy_poll import LOST_TURN, SPIN, BusyPoll
from tests.server.front.harness import Client, Harness

TURN = 0.000_003  # seconds


class Loop:
    """Turns that each take some time; counts those that were asked for."""

    def __init__(self, seconds: float | None = None) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        self.apart = False
        self.spin = BusyPoll(seconds, self.soon.append, lambda: self.apart, lambda: self.now)

    def turn(self, seconds: float = TURN) -> None:
        assert len(self.soon) <= 1, "one turn is asked for at a time"
        self.now += seconds
        for callback in [self.soon.pop() for _ in self.soon]:
            callback()

    def idle(self, most: int = 10_000) -> int:
        """How many turns go by until the loop may sleep."""
        turns = 0
        while self.soon and turns < most:
            self.turn()
            turns += 1
        return turns

    def calls(self, count: int, gap: float) -> int:
        """Calls that come so many seconds after the last was dealt with; how many of them found the loop awake."""
        awake = 0
        for _ in range(count):
            self.spin.stir()
            due = self.now + gap
            while self.soon and self.now < due:
                self.turn()
            awake += bool(self.soon)
            self.now = max(self.now, due)
        return awake


def test_nothing_is_looked_for_before_anything_came() -> None:
    assert Loop().idle() == 0


def test_the_loop_stays_awake_for_a_moment_and_then_sleeps() -> None:
    loop = Loop()
    loop.spin.stir()
    turns = loop.idle()
    assert SPIN / TURN <= turns <= SPIN / TURN + 3
    assert loop.spin.spent == pytest.approx(SPIN, abs=3 * TURN)


def test_who_calls_again_at_once_always_finds_it_awake() -> None:
    assert Loop().calls(5000, gap=SPIN / 2) == 5000


def test_callers_that_take_their_time_soon_find_it_asleep_and_cost_next_to_nothing() -> None:
    loop = Loop()
    assert loop.calls(5000, gap=2 * SPIN) == 0
    assert loop.spin.spent < 30 * SPIN
    loop.calls(2000, gap=SPIN / 2)
    assert loop.calls(1000, gap=SPIN / 2) == 1000, "asking that pays again is soon done always"


def test_what_comes_within_turns_of_work_teaches_nothing_and_is_not_counted() -> None:
    loop = Loop()
    for _ in range(1000):
        loop.spin.stir()
        loop.turn(seconds=0.001)
    assert loop.spin.spent == 0.0
    assert loop.soon


def test_a_core_that_others_want_is_left_to_them() -> None:
    loop = Loop()
    loop.spin.stir()
    loop.turn()
    loop.turn()
    loop.turn(seconds=2 * LOST_TURN)
    assert not loop.soon
    loop.spin.stir()
    assert not loop.soon, "and the next time it sleeps at once"


@pytest.mark.parametrize(("seconds", "turns"), [(None, 1), (SPIN, SPIN / TURN)])
def test_while_models_work_in_other_processes_it_sleeps_unless_told_otherwise(
    seconds: float | None, turns: float
) -> None:
    loop = Loop(seconds)
    loop.apart = True
    loop.spin.stir()
    assert turns <= loop.idle() <= turns + 3


def test_what_the_operator_said_is_done_whether_it_pays_or_not() -> None:
    loop = Loop(0.001)
    for _ in range(10):
        loop.spin.stir()
        loop.turn()
        loop.turn(seconds=2 * LOST_TURN)
        assert loop.idle() >= 0.0009 / TURN


def test_zero_never_looks() -> None:
    loop = Loop(0.0)
    loop.spin.stir()
    assert not loop.soon


def test_strangers_do_not_keep_the_loop_awake() -> None:
    harness = Harness(("spin", "1"))
    client = Client(harness)
    client.write()
    assert not harness.loop.soon, "bytes came, but nobody has proved anything"
    client.connect()
    client.open("m")
    assert harness.loop.soon
