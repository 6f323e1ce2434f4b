"""Looking for the next bytes for a moment before the loop sleeps until they come.

To fall asleep and be woken costs a lone caller more than the call itself, and the waking is paid by the writer. So when
all is done the loop takes turns without waiting for a moment, each of which asks the kernel once; `AdaptiveSpin` knows
whether that has paid. What the loop finds is dealt with as always: nothing is read here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ...protocol.adaptive_spin import AdaptiveSpin

SPIN: Final = 0.0001
"""Seconds to look for bytes: enough for a caller who slept for its reply, and calls again as soon as it is awake. Half
the client's own: it waits for a model too, we for a caller."""

LOST_TURN: Final = 0.000_05
"""Seconds that a turn without work stays well below, unless another process has the core meanwhile."""


class BusyPoll:
    """Keeps one loop awake. `call_soon` is the loop's; `works_apart` says whether engines in other processes work:
    they may want this core, so nothing is looked for while they are, unless the operator has said for how long
    (`seconds`). `clock` gives seconds.
    """

    __slots__ = (
        "_adaptive_spin",
        "_again",
        "_awake",
        "_call_soon",
        "_clock",
        "_idle_since",
        "_looked",
        "_stirred",
        "_until",
        "_works_apart",
        "spent",
    )  # fmt: skip

    def __init__(
        self,
        seconds: float | None,
        call_soon: Callable[[Callable[[], None]], object],
        works_apart: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._adaptive_spin = AdaptiveSpin(seconds, SPIN, LOST_TURN)
        self._call_soon = call_soon
        self._works_apart = works_apart
        self._clock = clock
        self._again: Callable[[], None] = self._turn
        self._awake = False
        self._stirred = False
        self._idle_since = 0.0
        self._looked = 0.0
        self._until = 0.0
        self.spent = 0.0
        """Seconds of turns without work."""

    def stir(self) -> None:
        """Stay awake for a moment: something was done, and more may follow soon."""
        self._stirred = True
        if not self._awake and self._adaptive_spin.should_spin():
            self._awake = True
            self._call_soon(self._again)

    def _turn(self) -> None:
        now = self._clock()
        spin = self._adaptive_spin
        if self._stirred:
            self._stirred = False
            if self._idle_since:
                self._rest(now, paid=True)
            if spin.learns and self._works_apart():
                self._awake = False
                return
            self._until = now + spin.seconds
        elif now >= self._until or (self._idle_since and now - self._looked > spin.turn):
            self._rest(now, paid=False)
            self._awake = False
            return
        elif not self._idle_since:
            self._idle_since = now
        self._looked = now
        self._call_soon(self._again)

    def _rest(self, now: float, *, paid: bool) -> None:
        if self._idle_since:
            self.spent += now - self._idle_since
            self._idle_since = 0.0
        self._adaptive_spin.learn(paid)
