"""Work F: what an idle connection costs a server in memory, each after one call. A fresh server each time.

Memory is PSS (proc(5), smaps_rollup) of the server and the processes it started: shared pages count once. What the
kernel keeps for a socket is in nobody's figure.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import uvloop

from .measure import Sample, Target, check, each_once
from .processes import tree
from .works import Work

#: connections before the first look, so that what a server makes once is not counted
FIRST = 50


def pss(pid: int) -> int:
    """Return the proportional set size in bytes of a process and its descendants."""
    total = 0
    for process in tree(pid):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{process.pid}/smaps_rollup").read_text(), re.MULTILINE)
        total += int(found[1]) << 10 if found else 0
    return total


def idle_connections(peer: ModuleType, target: Target) -> Sample:
    """Return KiB per connection of ``target.work.connections`` idle ones."""
    count, began = target.work.connections, time.perf_counter()
    if hasattr(peer, "callers"):
        before, after = uvloop.run(_asyncio(peer, target, count))
    else:
        with each_once(peer, target.work, target.address, FIRST):
            before = pss(target.server_pid)
            with each_once(peer, target.work, target.address, count):
                after = pss(target.server_pid)
    return Sample(count, time.perf_counter() - began, value=(after - before) / 1024 / count)


async def _asyncio(peer: ModuleType, target: Target, count: int) -> tuple[int, int]:
    async def each(work: Work, sends: list[object]) -> None:
        for send in sends:
            check(peer, work, await send())  # type: ignore[operator]

    first = replace(target.work, connections=FIRST)
    async with peer.callers(first, target.address) as sends:
        await each(first, sends)
        before = pss(target.server_pid)
        async with peer.callers(target.work, target.address) as more:
            await each(target.work, more)
            return before, pss(target.server_pid)
