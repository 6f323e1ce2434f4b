"""What a fuzz target is, and what every input is held to: no stray error, 100 ms of CPU time, bounded allocation.

What lives here: the shape of a target and the two ways to run one input of it. What must not: atheris, which only
worker.py needs, so that a kept input can be replayed by any Python; rules of one layer, which its target states.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random

NAMES = ("header", "connection", "handshake", "signed", "verifier", "messages", "decode")
CPU_SECONDS = 0.1  # of one input, by the clock of the thread: other processes do not count
FUZZ = Path(__file__).resolve().parent

Havoc = Callable[[bytes, int], bytes]  # (data, most bytes) -> libFuzzer's own mutation of it


@dataclass(frozen=True, slots=True)
class Target:
    """One layer under test.

    check: runs one input; whatever it raises is a finding. seeds: inputs to begin with. dictionary: bytes worth
    inserting. max_bytes: the longest input. base_bytes, bytes_per_byte: an input of n bytes may allocate at most
    base_bytes + n * bytes_per_byte at once. mutate: (data, most bytes, random, havoc) -> a changed input that still
    has the target's structure; None leaves it to libFuzzer.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    dictionary: tuple[bytes, ...]
    max_bytes: int
    base_bytes: int
    bytes_per_byte: int
    mutate: Callable[[bytes, int, Random, Havoc], bytes] | None = None


class SlowInputError(Exception):
    """One input took more than CPU_SECONDS, three times in a row."""


class MemoryHungryInputError(Exception):
    """One input made more memory be allocated than its length and the caps explain, three times in a row."""


def load(name: str) -> Target:
    """The target called `name`, or the TARGET of a module given by its dotted name."""
    module = import_module(name if "." in name else f"fuzz.targets.{name}")
    target: Target = module.TARGET
    return target


def kept(name: str) -> list[Path]:
    """The committed inputs of a target, in order."""
    return sorted(path for path in (FUZZ / "corpus" / name).glob("*") if path.is_file())


def run_timed(target: Target, data: bytes) -> None:
    """Run one input; raises what it raises, or SlowInputError. Slow means every time: a page fault is no finding."""
    spent = _timed(target, data)
    if spent > CPU_SECONDS:
        spent = min(spent, _timed(target, data), _timed(target, data))
        if spent > CPU_SECONDS:
            raise SlowInputError(f"{spent * 1e3:.0f} ms for {len(data)} bytes; at most {CPU_SECONDS * 1e3:.0f}")


def run_traced(target: Target, data: bytes) -> None:
    """Run one input with every allocation counted; raises what it raises, or MemoryHungryInputError.

    Hungry means every time: the count is of the whole process, and what another of its threads takes is no finding.
    """
    allowed = target.base_bytes + len(data) * target.bytes_per_byte
    peak = _traced(target, data)
    if peak > allowed:
        peak = min(peak, _traced(target, data), _traced(target, data))
        if peak > allowed:
            raise MemoryHungryInputError(f"{peak} bytes allocated for {len(data)} of input; at most {allowed}")


def _timed(target: Target, data: bytes) -> float:
    began = time.thread_time()
    target.check(data)
    return time.thread_time() - began


def _traced(target: Target, data: bytes) -> int:
    tracemalloc.start()
    try:
        target.check(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
