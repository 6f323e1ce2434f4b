"""What a server and the processes it started have used of the processor."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def ended(process: psutil.Process) -> bool:
    """Return whether a process runs no more, collected by its parent or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_ended(processes: Iterable[psutil.Process], timeout: float) -> None:
    """Wait until all of them have ended, at most ``timeout`` seconds: a process that is killed goes a little later."""
    deadline = time.monotonic() + timeout
    while not all(map(ended, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    """Return user and system seconds so far of a process and its descendants, in steps of 10 ms."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
