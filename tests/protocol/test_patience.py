"""Asking for what comes next goes on while it pays."""

from __future__ import annotations

import pytest

from tensorwire.protocol.patience import LONGEST_PAUSE, Patience


def usual() -> Patience:
    """One who learns."""
    return Patience(None, 1.0, 1.0)


def asked(patience: Patience, replies: int, *, paid: bool) -> int:
    """How many of the next ``replies`` are asked for, where asking pays or does not."""
    count = 0
    for _ in range(replies):
        if patience.asks():
            count += 1
            patience.learn(paid)
    return count


def test_asking_goes_on_while_it_pays() -> None:
    assert asked(usual(), 10_000, paid=True) == 10_000


def test_asking_that_does_not_pay_is_tried_ever_more_rarely() -> None:
    patience = usual()
    # tried at reply 0, 2, 6, 14 ... after pauses of 1, 3, 7 ... replies
    assert [asked(patience, 2**n, paid=False) for n in range(1, 10)] == [1] * 9
    assert asked(patience, 100 * (LONGEST_PAUSE + 1), paid=False) <= 101


def test_asking_that_pays_again_is_soon_done_always() -> None:
    patience = usual()
    asked(patience, 100_000, paid=False)
    asked(patience, LONGEST_PAUSE + 1, paid=True)
    assert asked(patience, 1000, paid=True) == 1000


def test_one_reply_that_took_long_costs_one_sleep() -> None:
    patience = usual()
    assert patience.asks()
    patience.learn(False)
    assert not patience.asks()
    assert asked(patience, 1000, paid=True) == 1000


@pytest.mark.parametrize(("seconds", "asks"), [(0.0, 0), (0.5, 1000)])
def test_what_the_caller_said_is_done_whether_it_pays_or_not(seconds: float, asks: int) -> None:
    assert asked(Patience(seconds, 1.0, 1.0), 1000, paid=False) == asks
