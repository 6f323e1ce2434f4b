"""Where memory is: the spans of addresses that buffers take. No checks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

Span = tuple[int, int]
"""First address, and the one after the last."""


def span(buffer: Any) -> Span:
    """Where a buffer's bytes are."""
    array = np.frombuffer(buffer, np.uint8)
    return array.ctypes.data, array.ctypes.data + array.nbytes


def covered(whole: Span, parts: Iterable[Span]) -> int:
    """How many bytes of ``whole`` lie in one of the parts."""
    at, total = whole[0], 0
    for start, end in sorted(parts):
        start, end = max(start, at), min(end, whole[1])
        if end > start:
            total += end - start
            at = end
    return total
