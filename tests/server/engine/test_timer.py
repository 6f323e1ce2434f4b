"""The timer descriptor becomes readable when it fires, and not before or after."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from tensorwire.server.engine.timer import TimerDescriptor


@pytest.fixture
def timer() -> Iterator[TimerDescriptor]:
    made = TimerDescriptor()
    yield made
    made.close()


def fired(timer: TimerDescriptor, within: float) -> bool:
    return bool(select.select([timer.fileno()], [], [], within)[0])


def test_once_fires_once(timer: TimerDescriptor) -> None:
    timer.once(0.001)
    assert fired(timer, 5.0)
    timer.clear()
    assert not fired(timer, 0.01)


def test_every_fires_again(timer: TimerDescriptor) -> None:
    timer.every(0.001)
    for _ in range(3):
        assert fired(timer, 5.0)
        timer.clear()


def test_off_is_off(timer: TimerDescriptor) -> None:
    timer.once(0.005)
    timer.off()
    assert not fired(timer, 0.02)


def test_a_time_in_the_past_fires_at_once(timer: TimerDescriptor) -> None:
    timer.once(-1.0)
    assert fired(timer, 5.0)


def test_clear_without_having_fired_does_nothing(timer: TimerDescriptor) -> None:
    timer.clear()
