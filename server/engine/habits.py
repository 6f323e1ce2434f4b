"""What a model's code did to its process while it loaded and warmed up: a model with such habits keeps one of its own.

What lives here: looking before and after. What must not: what comes of it (model_loader.py).
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any

__all__ = ["Habits"]


class Habits:
    """Remembers how the process was; `seen()` says what has changed since, in words."""

    def __init__(self) -> None:
        self._handlers = _handlers()
        self._files = _files()
        self._threads = set(threading.enumerate())
        self._forks = 0
        os.register_at_fork(before=self._forked)

    def seen(self) -> list[str]:
        """In the words of "its code ..."; empty for most models."""
        habits = []
        if _handlers() != self._handlers:
            habits.append("sets signal handlers")
        if self._forks:
            habits.append("forks")
        if set(threading.enumerate()) - self._threads:
            habits.append("leaves threads running")
        if _files() != self._files:
            habits.append("changes standard descriptors")
        return habits

    def _forked(self) -> None:
        self._forks += 1


def _handlers() -> list[Any]:
    return [signal.getsignal(number) for number in sorted(signal.valid_signals())]


def _files() -> list[tuple[int, int] | None]:
    files: list[tuple[int, int] | None] = [None] * 3
    for descriptor in range(3):
        with suppress(OSError):
            status = os.fstat(descriptor)
            files[descriptor] = status.st_dev, status.st_ino
    return files
