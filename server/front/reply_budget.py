"""Memory of replies that their callers have not read: what all connections of one loop share of the pool.

What lives here: the sum, and who has too much. What must not: what is done about it (transport.py, reply_encoder.py).
"""

from __future__ import annotations


class ReplyBudget:
    """Bytes of replies that wait in connections above high water, `waiting` of at most `nbytes`.

    One connection may have half of them; from an eighth on each reply keeps no more memory than its own bytes.
    """

    __slots__ = ("nbytes", "waiting")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.waiting = 0

    def over(self) -> bool:
        """Tell whether a reply may keep no more memory than its own bytes."""
        return self.waiting > self.nbytes // 8

    def limit_reached(self, mine: int) -> bool:
        """Tell whether a connection of whose replies `mine` bytes wait may have no more."""
        return mine > self.nbytes // 2 or (mine > 0 and self.waiting > self.nbytes)  # guard: unread-replies
