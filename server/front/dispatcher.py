"""When engines are stepped, and the way back from them: results to replies, and peers that hold up a model dropped.

What lives here: whose turn it is on the loop. What must not: what an engine does in its step (engine/), how a reply
looks (reply_encoder.py), when bytes leave (transport.py).
"""

from __future__ import annotations

import os
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, cast

from ..engine.api import BatchResult, Failure
from ..model import Model
from .busy_poll import BusyPoll
from .call import Call, ReplyTarget
from .connection_table import ConnectionTable
from .context import Context
from .ports import Outlet
from .reply_encoder import ReplyEncoder
from .timers import Timer

if TYPE_CHECKING:  # brings the backends, and torch with them
    from ..engine.inline import InlineEngine
    from ..engine.process import ProcessEngine

ALONE = 16
"""Reads in a row from one connection after which its calls do not wait for those that others may send in the turn."""

MEMORY_PRESSURE_TIMEOUT = 0.25
"""Seconds that a peer may let its replies wait while an engine waits for the memory they hold: else `write_timeout`,
which is long, would be the time that one who does not read can stop a model for everybody."""


class Dispatcher:
    """One loop's.

    reading: a connection is being read, and what it wakes is stepped when the read is over. woken: engines to step.
    reader, reader_since: which connection was read last, and since when it alone. forked: this is a child that a model
    made, which answers nobody.
    """

    def __init__(self, context: Context, connections: ConnectionTable, busy_poll: BusyPoll) -> None:
        self._timers = context.timers
        self._audit = context.audit
        self._connections = connections
        self._call_soon = context.loop.call_soon
        self.busy_poll = busy_poll
        self.forked = False
        self.reading = False
        self.woken: list[InlineEngine | ProcessEngine] = []
        self.reader: Outlet | None = None
        self.reader_since = 0.0
        self._last_reader: Outlet | None = None
        self._streak = 0
        self._turn_comes = False
        self._short: list[InlineEngine | ProcessEngine] = []  # of memory that replies hold
        self._pressure: Timer | None = None

    # -- whose turn it is ------------------------------------------------------------------------------------------

    def wake(self, engine: InlineEngine | ProcessEngine) -> None:
        """Step `engine` soon: when the read that woke it is over, or in the next turn of the loop."""
        self.woken.append(engine)
        if not self.reading:
            self._schedule()

    def read_over(self, reader: Outlet) -> None:
        """Step engines, or have it done: a read has brought work.

        What comes in one turn shares batches, so engines are stepped once all connections were read; only where one
        connection alone was heard of for a while there is nobody to wait for.
        """
        if reader is not self._last_reader:
            self._last_reader = reader
            self._streak = 0
        self._streak += 1
        if self._streak > ALONE:
            self._step()
        else:
            self._schedule()

    def _schedule(self) -> None:
        if not self._turn_comes:
            self._turn_comes = True
            self._call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_comes = False
        self._step()

    def _step(self) -> None:
        woken, self.woken = self.woken, []
        for engine in woken:
            try:
                engine.step()
            except BaseException:  # the others were promised their turn, and will not ask for it again
                if self.forked:  # Ctrl-C in a model's child: the loop, which it shares with its parent, must not see it
                    os._exit(1)
                self.woken = woken[woken.index(engine) + 1 :] + self.woken
                self._schedule()
                raise
            if engine.short_of_memory and engine not in self._short:
                self._short.append(engine)
                if self._pressure is None:
                    self._press(monotonic())

    # -- the way back ----------------------------------------------------------------------------------------------

    def attach(self, model: Model) -> None:
        """Deliver what the engine of `model` finishes: its sink is here from now on."""
        model.engine.sink = partial(self._complete, model, ReplyEncoder(model.spec.name, model.spec.version))

    def _complete(self, model: Model, encoder: ReplyEncoder, results: list[BatchResult | Failure]) -> None:
        """Queue the replies to what an engine finished, then write once per connection."""
        if self.forked:  # a model's child that came back from its call: the parent answers
            os._exit(1)
        now = monotonic()
        touched: set[ReplyTarget] = set()
        replied: list[Call] = []
        for result in results:
            if isinstance(result, BatchResult):
                before = len(replied)
                encoder.deliver(result, now, touched, replied)
                if self._audit is not None:
                    self._audit.replied(model, encoder, result, replied[before:], now)
            else:
                for call in cast("list[Call]", result.requests):
                    if not call.done:
                        call.target.fail(call, result.status, result.message, started=result.started)
                        touched.add(call.target)
        for target in touched:
            target.flush()
        model.count(results, replied, now)
        if model.own_process:
            self.busy_poll.stir()

    # -- peers that do not read ------------------------------------------------------------------------------------

    def _press(self, now: float) -> None:
        self._pressure = Timer(self._release)
        self._timers.add(now + MEMORY_PRESSURE_TIMEOUT, self._pressure)

    def _release(self, now: float) -> None:
        """Drop peers that let their replies wait, if an engine still waits for the memory of replies."""
        self._pressure = None
        self._short = [engine for engine in self._short if engine.short_of_memory]
        if self._short:
            self._connections.drop_stalled(now - MEMORY_PRESSURE_TIMEOUT)  # guard: unread-results
            self._press(now)
