"""The server's signals, which models in its process may set, too.

What lives here: which signals are the server's, and that they stay so. What must not: what is done when they come.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Has `actions` called on `loop`, which must run, by signal. On the main thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, actions: Mapping[int, Callable[[], object]]) -> None:
        self._loop = loop
        self._actions = actions
        self.handlers: dict[int, Any] = {}
        """What the loop has set for each of them."""
        for number in actions:
            self._take(number)
        self._wake_up = signal.set_wakeup_fd(-1)
        self.keep()

    def keep(self) -> None:
        """Take back what a model has taken: a server that cannot be told to stop gets killed, with its calls."""
        signal.set_wakeup_fd(self._wake_up, warn_on_full_buffer=False)
        for number, handler in self.handlers.items():
            if signal.getsignal(number) != handler:
                self._take(number)
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # nobody would learn how an engine ended
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    @contextmanager
    def by_default(self) -> Iterator[None]:
        """Let signals that stop the server end the process at once meanwhile, whatever its thread is busy with."""
        for number in STOPPING:
            signal.signal(number, signal.SIG_DFL)
        try:
            yield
        finally:
            self.keep()

    def _take(self, number: int) -> None:
        self._loop.add_signal_handler(number, self._actions[number])
        self.handlers[number] = signal.getsignal(number)
