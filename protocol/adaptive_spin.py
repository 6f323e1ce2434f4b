"""Whether to keep asking for what comes next, or to sleep until it comes: asking goes on while it pays.

Both ends ask: the blocking client for its reply, the server for the next call. Each has its own way and time to do it;
what is learned from how it went is here. No clock: who asks looks at it.
"""

from __future__ import annotations

from math import inf
from typing import Final

LONGEST_PAUSE: Final = 1024
"""Things slept for, at most, before asking is tried again where it has not paid."""


class AdaptiveSpin:
    """How long to keep asking for the next thing before sleeping until it comes.

    Where nobody has said, it learns: asking goes on while it pays. Each time it did not, twice as many things are slept
    for before it is tried again, so that slow peers and machines without a spare core cost next to nothing. Losing the
    interpreter or the core while asking counts as not paid: others come first. (The first time is not judged: after a
    sleep everything is slow once.) usual, turn: `seconds` and `turn` of one who learns.
    """

    __slots__ = ("_pause", "_skip", "learns", "seconds", "turn")

    def __init__(self, seconds: float | None, usual: float, turn: float) -> None:
        self._pause = 0
        self._skip = 0
        self.learns = seconds is None
        """Whether nobody has said how long."""
        self.seconds = usual if seconds is None else seconds
        """Seconds to ask at most."""
        self.turn = turn if seconds is None else inf
        """Seconds that asking once may take, but for the first time; after more, asking ends."""

    def should_spin(self) -> bool:
        """Tell whether to ask for the next thing."""
        if self._skip:
            self._skip -= 1
            return False
        return self.seconds > 0.0

    def learn(self, paid: bool) -> None:
        """Take in whether it came while it was asked for."""
        if paid:
            self._pause //= 2
        elif self.learns:
            self._skip = self._pause = min(2 * self._pause + 1, LONGEST_PAUSE)
