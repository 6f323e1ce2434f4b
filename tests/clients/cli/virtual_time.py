"""An event loop whose clock jumps to the next timer instead of waiting for it: schedules of seconds run in no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the loop waits for something that never comes")
        # A poll costs something, as in life: a loop that spins gets on.
        self.now += timeout if timeout > 0 else 10e-6
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """``time()`` starts at 0 and is the clock to hand to the code under test."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(make: Any) -> Any:
    """Run ``make(clock)``, a coroutine, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        coroutine: Coroutine[Any, Any, Any] = make(runner.get_loop().time)
        return runner.run(coroutine)
