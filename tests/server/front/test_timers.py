"""One heap, one timer: what is due is told once, what is done is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.protocol.alarm import GRAIN
from tensorwire.server.front.timers import SLACK, Timer, Timers
from tests.support.timers import WORST, Unruly


class FakeLoop:
    """A clock that stands still and timers that fire when told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[FakeTimer] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.now + delay, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in list(self.timers):
            if timer.when <= self.now:
                self.timers.remove(timer)
                if not timer.cancelled:
                    timer.callback()

    @property
    def armed(self) -> list[float]:
        return [timer.when for timer in self.timers if not timer.cancelled]


class FakeTimer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Target:
    def __init__(self, name: str = "", told: list[str] | None = None) -> None:
        self.name = name
        self.told = [] if told is None else told
        self.done = False

    def expired(self, now: float) -> None:
        self.done = True
        self.told.append(self.name)


def make() -> tuple[FakeLoop, Timers]:
    loop = FakeLoop()
    return loop, Timers(loop.call_later, lambda: loop.now)


def test_what_is_due_is_told_in_order_of_time() -> None:
    loop, timers = make()
    told: list[str] = []
    for name, moment in (("late", 103.0), ("early", 101.0), ("middle", 102.0)):
        timers.add(moment, Target(name, told))
    loop.advance(2.5)
    assert told == ["early", "middle"]
    loop.advance(1.0)
    assert told == ["early", "middle", "late"]


def test_only_one_timer_is_armed_and_it_is_for_the_earliest() -> None:
    loop, timers = make()
    for moment in (105.0, 103.0, 104.0):
        timers.add(moment, Target())
    assert loop.armed == [103.0]
    loop.advance(3.0)
    assert loop.armed == [104.0]


def test_a_call_that_is_done_is_not_told() -> None:
    loop, timers = make()
    target = Target()
    timers.add(101.0, target)
    target.done = True
    timers.finished()
    loop.advance(5.0)
    assert target.told == []
    assert len(timers) == 0


def test_a_timer_that_fires_early_is_armed_again() -> None:
    loop, timers = make()
    target = Target()
    timers.add(101.0, target)
    timer = loop.timers.pop()
    loop.now = 100.9995
    timer.callback()
    assert target.told == []
    assert loop.armed == [pytest.approx(101.0 + GRAIN)]


def test_dead_entries_do_not_pile_up() -> None:
    _, timers = make()
    alive = [Target() for _ in range(10)]
    for target in alive:
        timers.add(1000.0, target)
    for _ in range(20 * SLACK):
        target = Target()
        timers.add(500.0, target)
        target.done = True
        timers.finished()
    assert len(timers) <= SLACK + 2 * len(alive) + 1


def test_a_target_may_add_itself_again_while_it_expires() -> None:
    loop, timers = make()

    class Again(Target):
        def expired(self, now: float) -> None:
            self.told.append("tick")
            if len(self.told) < 3:
                timers.add(now + 1.0, self)

    again = Again()
    timers.add(101.0, again)
    for _ in range(5):
        loop.advance(1.0)
    assert again.told == ["tick"] * 3
    assert loop.armed == []


class Timed:
    """Notes when it was told."""

    def __init__(self, timers: Timers, moment: float) -> None:
        self.timers = timers
        self.moment = moment
        self.told: list[float] = []
        self.done = False
        timers.add(moment, self)

    def expired(self, now: float) -> None:
        self.done = True
        self.told.append(now)


@given(
    st.randoms(use_true_random=False),
    st.lists(st.tuples(st.floats(0.0, 0.01), st.floats(0.0, 0.05), st.booleans()), min_size=1, max_size=60),
)
def test_under_unruly_timers_each_is_told_once_and_in_time(
    random: Random, entries: list[tuple[float, float, bool]]
) -> None:
    loop = Unruly(random)
    timers = Timers(loop.call_later, loop.clock)
    targets = []
    for passes, delay, ends_early in entries:
        loop.run(passes)
        target = Timed(timers, loop.now + delay)
        targets.append(target)
        if ends_early:
            target.done = True
            timers.finished()
        assert loop.armed <= 1
    loop.run(1.0)
    for target, (_, _, ended_early) in zip(targets, entries, strict=True):
        if ended_early:
            assert target.told == []
        else:
            (told,) = target.told
            assert target.moment <= told <= target.moment + WORST
    assert loop.armed == len(timers) == 0
    assert loop.fires <= 8 * len(entries)


def test_one_that_raises_does_not_keep_the_others_waiting() -> None:
    loop, timers = make()

    class Broken(Target):
        def expired(self, now: float) -> None:
            raise RuntimeError("a fault")

    last = Target()
    timers.add(101.0, Broken())
    timers.add(102.0, last)
    with pytest.raises(RuntimeError):
        loop.advance(1.0)
    loop.advance(1.0)
    assert last.done


def test_ticks_under_unruly_timers_keep_their_interval_and_are_not_multiplied() -> None:
    loop = Unruly(Random(5))
    timers = Timers(loop.call_later, loop.clock)
    ticks: list[float] = []

    class Tick(Target):
        def expired(self, now: float) -> None:
            ticks.append(now)
            timers.add(now + 0.1, self)

    timers.add(loop.now + 0.1, Tick())
    loop.run(10.0)
    assert all(0.1 <= after - before <= 0.1 + WORST for before, after in pairwise(ticks))
    assert len(ticks) > 70
    assert loop.fires <= 6 * len(ticks)


def test_a_timer_fires_with_the_time_it_was_given() -> None:
    fired: list[float] = []
    timer = Timer(fired.append)
    timer.expired(3.0)
    assert (fired, timer.done) == ([3.0], True)
