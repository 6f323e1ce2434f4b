"""Asking for what comes next goes on while it pays."""

from __future__ import annotations

import pytest

from tensorwire.protocol.adaptive_spin import LONGEST_PAUSE, AdaptiveSpin


def usual() -> AdaptiveSpin:
    """One who learns."""
    return AdaptiveSpin(None, 1.0, 1.0)


def asked(spin: AdaptiveSpin, replies: int, *, paid: bool) -> int:
    """How many of the next ``replies`` are asked for, where asking pays or does not."""
    count = 0
    for _ in range(replies):
        if spin.should_spin():
            count += 1
            spin.learn(paid)
    return count


def test_asking_goes_on_while_it_pays() -> None:
    assert asked(usual(), 10_000, paid=True) == 10_000


def test_asking_that_does_not_pay_is_tried_ever_more_rarely() -> None:
    spin = usual()
    # tried at reply 0, 2, 6, 14 ... after pauses of 1, 3, 7 ... replies
    assert [asked(spin, 2**n, paid=False) for n in range(1, 10)] == [1] * 9
    assert asked(spin, 100 * (LONGEST_PAUSE + 1), paid=False) <= 101


def test_asking_that_pays_again_is_soon_done_always() -> None:
    spin = usual()
    asked(spin, 100_000, paid=False)
    asked(spin, LONGEST_PAUSE + 1, paid=True)
    assert asked(spin, 1000, paid=True) == 1000


def test_one_reply_that_took_long_costs_one_sleep() -> None:
    spin = usual()
    assert spin.should_spin()
    spin.learn(False)
    assert not spin.should_spin()
    assert asked(spin, 1000, paid=True) == 1000


@pytest.mark.parametrize(("seconds", "asks"), [(0.0, 0), (0.5, 1000)])
def test_what_the_caller_said_is_done_whether_it_pays_or_not(seconds: float, asks: int) -> None:
    assert asked(AdaptiveSpin(seconds, 1.0, 1.0), 1000, paid=False) == asks
