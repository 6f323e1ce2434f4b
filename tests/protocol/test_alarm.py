"""An alarm rings once for each time it is set, never before its moment, however the loop's timers err."""

from __future__ import annotations

from math import inf
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tensorwire.protocol.alarm import GRAIN, Alarm
from tests.support.timers import WORST, Unruly


class Exact:
    """A loop whose timers fire when told to."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.cancelled = 0

    def call_later(self, delay: float, _callback: object) -> Exact:
        self.asked.append(delay)
        return self

    def cancel(self) -> None:
        self.cancelled += 1


def test_a_timer_that_was_early_is_set_again_for_what_is_left_and_a_grain() -> None:
    now = [100.0]
    rung: list[float] = []
    loop = Exact()
    alarm = Alarm(loop.call_later, lambda: now[0], rung.append)
    alarm.set(100.005)
    now[0] = 100.0045
    alarm._fired()
    assert rung == []
    assert [round(delay, 6) for delay in loop.asked] == [0.005, round(0.0005 + GRAIN, 6)]
    now[0] = 100.0055
    alarm._fired()
    assert rung == [100.0055]
    assert alarm.moment == inf


def test_what_is_set_for_the_same_moment_again_asks_for_no_second_timer() -> None:
    loop = Exact()
    alarm = Alarm(loop.call_later, lambda: 100.0, lambda now: None)
    for _ in range(5):
        alarm.set(100.5)
    assert loop.asked == [0.5]


def test_it_can_be_set_for_the_same_moment_after_it_rang() -> None:
    """Whoever fires says so: a fired timer is never taken for one that is set."""
    now = [100.0]
    loop = Exact()
    alarm = Alarm(loop.call_later, lambda: now[0], lambda now: None)
    alarm.set(100.5)
    now[0] = 100.5
    alarm._fired()
    alarm.set(100.5)
    assert loop.asked == [0.5, 0.0]


@given(st.randoms(use_true_random=False), st.lists(st.floats(0.0, 0.03), min_size=1, max_size=30))
def test_under_unruly_timers_it_rings_once_and_in_time(random: Random, delays: list[float]) -> None:
    loop = Unruly(random)
    rung: list[float] = []
    alarm = Alarm(loop.call_later, loop.clock, rung.append)
    for delay in delays:
        moment = loop.now + delay
        alarm.set(moment)
        loop.run(delay + WORST)
        assert alarm.moment == inf
        assert moment <= rung[-1] <= moment + WORST
    assert len(rung) == len(delays)
    assert loop.armed == 0
    assert loop.fires <= 8 * len(delays)


@given(st.randoms(use_true_random=False), st.lists(st.tuples(st.floats(0.0, 0.01), st.floats(0.0, 0.03)), max_size=30))
def test_what_is_set_anew_or_put_off_rings_at_the_last_moment_only(
    random: Random, changes: list[tuple[float, float]]
) -> None:
    loop = Unruly(random)
    rung: list[float] = []
    due: list[float] = [inf]

    def ring(now: float) -> None:
        assert now >= due[0]
        due[0] = inf
        rung.append(now)

    alarm = Alarm(loop.call_later, loop.clock, ring)
    for passes, delay in changes:
        loop.run(passes)
        due[0] = loop.now + delay
        alarm.set(due[0])
        assert loop.armed == 1
    alarm.cancel()
    due[0] = inf
    before = len(rung)
    loop.run(1.0)
    assert len(rung) == before
    assert loop.armed == 0
    assert loop.fires <= 8 * len(changes)
