"""The works: what is sent, what comes back, how many calls are in flight. Each peer does the same ones."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """One work: a float32 tensor of ``shape`` in, one of ``reply_shape`` out."""

    key: str
    title: str
    model: str
    shape: tuple[int, ...]
    reply_shape: tuple[int, ...]
    in_flight: int
    #: calls of one round on every peer (the slow ones too, so a round stays short)
    calls: int
    #: the figure that is compared: "p50" in microseconds (lower is better) or "rate" in calls/s (higher is better)
    figure: str

    @property
    def request_bytes(self) -> int:
        """Tensor bytes of one request."""
        return 4 * math.prod(self.shape)

    @property
    def reply_bytes(self) -> int:
        """Tensor bytes of one reply."""
        return 4 * math.prod(self.reply_shape)


WORKS = {
    work.key: work
    for work in (
        Work("A", "float32 (1,16) echoed, one in flight", "echo", (1, 16), (1, 16), 1, 3000, "p50"),
        Work("B", "float32 (1,16) echoed, 64 in flight", "echo", (1, 16), (1, 16), 64, 24000, "rate"),
        Work(
            "C",
            "float32 (1,3,224,224) in, (1,1000) out, one in flight",
            "image",
            (1, 3, 224, 224),
            (1, 1000),
            1,
            600,
            "p50",
        ),
    )
}
