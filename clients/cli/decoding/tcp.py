"""One direction of a TCP connection put in order: retransmissions dropped, gaps waited for, lost bytes counted.

What lives here: sequence numbers. What must not: packets, files, frames. What waits behind a gap is bounded by the
caller, who says when to give the gap up.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

SEGMENT_COST = 256
"""Bytes that a segment which waits costs beside its payload."""


class Run(NamedTuple):
    """Bytes in order: `lost` bytes that the capture lacks, or `data`; `time_us` and `packet` are where they came."""

    lost: int
    data: bytes
    time_us: int
    packet: int


class _Waiting(NamedTuple):
    position: int
    packet: int
    data: bytes
    length: int
    time_us: int


class Direction:
    """The bytes that one side sent. Positions count from the first one seen; sequence numbers wrap, they do not."""

    __slots__ = ("_heap", "_position", "_seq", "started", "waiting")

    def __init__(self) -> None:
        self._seq: int | None = None  # sequence number of the byte at _position
        self._position = 0
        self._heap: list[_Waiting] = []
        self.waiting = 0  # bytes that wait behind a gap, at their cost
        self.started = False  # whether the first byte of the connection is at position 0

    def start(self, seq: int) -> None:
        """Note a SYN: its sequence number is that of the byte before the first."""
        if self._seq is None:
            self._seq = (seq + 1) & 0xFFFFFFFF
            self.started = True

    def add(self, seq: int, data: bytes, length: int, time_us: int, packet: int) -> list[Run]:
        """Take a segment of `length` bytes, of which `data` was captured; return what can be said now, in order."""
        if self._seq is None:
            self._seq = seq
        offset = (seq - self._seq) & 0xFFFFFFFF
        if offset >= 1 << 31:
            offset -= 1 << 32
        entry = _Waiting(self._position + offset, packet, data, length, time_us)
        if offset > 0:
            heapq.heappush(self._heap, entry)
            self.waiting += len(data) + SEGMENT_COST
            return []
        runs: list[Run] = []
        self._append(entry, runs)
        self._drain(runs)
        return runs

    def give_up(self) -> list[Run]:
        """Take the bytes of the first gap for lost, and go on behind it."""
        runs: list[Run] = []
        if self._heap:
            first = self._heap[0]
            runs.append(Run(first.position - self._position, b"", first.time_us, first.packet))
            self._advance(first.position - self._position)
            self._drain(runs)
        return runs

    def forget(self) -> None:
        """Drop what waits."""
        self._heap.clear()
        self.waiting = 0

    def _drain(self, runs: list[Run]) -> None:
        while self._heap and self._heap[0].position <= self._position:
            entry = heapq.heappop(self._heap)
            self.waiting -= len(entry.data) + SEGMENT_COST
            self._append(entry, runs)

    def _append(self, entry: _Waiting, runs: list[Run]) -> None:
        """Return what is new in a segment that begins at or before the position."""
        known = self._position - entry.position
        fresh = entry.length - known
        if fresh <= 0:
            return  # sent again
        data = entry.data[known:]
        if data:
            runs.append(Run(0, data, entry.time_us, entry.packet))
        if fresh > len(data):
            runs.append(Run(fresh - len(data), b"", entry.time_us, entry.packet))
        self._advance(fresh)

    def _advance(self, count: int) -> None:
        self._position += count
        self._seq = ((self._seq or 0) + count) & 0xFFFFFFFF


__all__ = ["SEGMENT_COST", "Direction", "Run"]
