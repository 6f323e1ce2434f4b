"""What moves the blocking client: threads, the lead, waiting.

Any number of threads may use one client. There is no thread of its own: whoever waits first reads for all that wait on
the same connection (the *leader*) and hands the outcomes out; the others sleep until theirs is there or the lead is
passed to them. Everything of the core happens under one lock, which nobody holds while waiting. There is one connection
that new calls go to; one that the server drains is read until its last call is done.

An interrupt (Ctrl-C) cancels the call that the thread was in, wherever it strikes; where it may have lost count of
bytes, the connection goes with it.

Not here: sockets (``blocking_wire``), the rules of calls, retries and deadlines (``core``).
"""

from __future__ import annotations

import time
from _thread import allocate_lock, get_ident
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..protocol.patience import Patience
from .blocking_dialler import Dialler
from .blocking_wire import LOST_TURN, SPIN, Wire, ask
from .calls import FOREVER, Call
from .core import ClientCore
from .forks import check_fork, generation
from .lead import Lead
from .link import CLOSED_UNDER
from .sockets import wait_for
from .url import Address

if TYPE_CHECKING:
    from .tls import Trust

QUIET = 0.005
"""Seconds without reading after which a send first looks whether the server has said something, such as goodbye."""
SHORT_WAIT = 0.02
"""Below this many seconds a deadline is waited for with poll, which keeps time better than SO_RCVTIMEO."""
NAP = 0.05
"""Seconds slept at a time where nothing can wake the sleeper, so that ``close`` is noticed."""

monotonic = time.monotonic


class Driver:
    """Carries the calls of one client."""

    def __init__(
        self,
        core: ClientCore,
        address: Address,
        connect_timeout: float,
        spin: float | None = None,
        trust: Trust | None = None,
    ) -> None:
        self._core = core
        self._patience = Patience(spin, SPIN, LOST_TURN)
        self._lock = allocate_lock()
        self._dialler = Dialler(core, address, connect_timeout, self._lock, trust)
        self._wire: Wire | None = None
        """The connection that new calls go to."""
        self._draining: list[Wire] = []
        """Connections that take no new calls and have some left."""
        self._generation = generation[0]

    # --- what the client asks for ------------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        version: str,
        deadline: float | None,
        timing: bool,
        priority: int,
        kind: int,
        wait: bool,
    ) -> Call:
        """Start a call, get it out, and stay until it is done where ``wait``. Errors as for ``ClientCore.infer``."""
        if self._generation != generation[0]:
            check_fork(self._generation)
        now = monotonic()
        with self._lock:
            wire = self._wire
            if wire is not None and now - wire.read_at > QUIET:
                wire = self._listen(wire, now)
            call = self._core.infer(model, inputs, version, deadline, timing, priority, now, kind)
            try:
                if wire is not None and call.link is wire.link:
                    wire.flush(now)
                    if call.finished:
                        self._settle()
                if deadline is not None:
                    self._core.watch(call)
                if wire is None or wire.unsent or call.link is None:
                    self._push(call)
                elif wait and not wire.lead.holder:
                    self._read_for_all(wire, call, FOREVER)
                if wait and not call.finished:
                    self._until_done(call, FOREVER)
            except BaseException:
                self._give_up(call)
                raise
        return call

    def control(self, kind: int, deadline: float | None) -> Call:
        """A call without a stream, done when this returns."""
        check_fork(self._generation)
        with self._lock:
            now = monotonic()
            if self._wire is not None:
                self._listen(self._wire, now)
            call = self._core.control(kind, deadline, now)
            try:
                self._core.watch(call)
                self._flush_all(now)
                self._until_done(call, FOREVER)
            except BaseException:
                self._give_up(call)
                raise
        return call

    def wait(self, call: Call, timeout: float | None) -> None:
        """Until ``call`` is done or has a reply to take, or ``timeout`` seconds have passed."""
        check_fork(self._generation)
        until = FOREVER if timeout is None else monotonic() + timeout
        with self._lock:
            try:
                self._until_done(call, until)
            except BaseException:
                # The caller that had no timeout will not ask again, so the server need not go on.
                if timeout is None:
                    self._give_up(call)
                raise

    def cancel(self, call: Call) -> bool:
        """Give ``call`` up; false where it was done already."""
        check_fork(self._generation)
        with self._lock:
            return self._give_up(call)

    def close(self) -> bool:
        """Say goodbye on every connection; calls under way fail. False in a forked child, which has nothing to say."""
        if self._generation != generation[0]:
            # The parent's connections: only this process's descriptors of them go.
            for wire in self._wires():
                wire.sock.close()
            return False
        with self._lock:
            now = monotonic()
            wires = self._wires()
            self._core.close(now)
            for wire in wires:
                wire.link.close(CLOSED_UNDER, now)
                wire.flush(now)
            self._settle()
        return True

    # --- waiting; from here on the lock is held on entry and exit ----------------------------------------------------

    def _until_done(self, call: Call, until: float) -> None:
        """Until ``call`` is done, or has a reply to take, or ``until``: leading where nobody does, else following."""
        followed: Lead | None = None
        try:
            while not (call.finished or call.replies) and (until == FOREVER or monotonic() < until):
                wire = self._wire_of(call)
                if wire is None:
                    self._without_connection(call, until)
                elif wire.lead.holder:
                    followed = wire.lead
                    self._follow(followed, call, until)
                else:
                    self._read_for_all(wire, call, until)
        finally:
            # Woken to take the lead, but with no more use for it: somebody else must.
            if followed is not None and not followed.holder:
                followed.step_down()

    def _wire_of(self, call: Call) -> Wire | None:
        """The connection that brings news of ``call``; None where there is none yet."""
        wire, link = self._wire, call.link
        if link is None or (wire is not None and wire.link is link):
            return wire
        for wire in self._draining:
            if wire.link is link:
                return wire
        return self._wire

    def _read_for_all(self, wire: Wire, call: Call, until: float) -> None:
        """Lead on ``wire`` until the own call is done or no longer there; then pass the lead on."""
        link, lead = wire.link, wire.lead
        lead.holder = get_ident()
        try:
            while not (call.finished or call.replies or link.finished):
                self._turn(wire, until)
                if call.link is not link and self._wire is not wire:
                    break
                if until != FOREVER and monotonic() >= until:
                    break
        finally:
            if lead.followers or link.finished:
                wire.step_down()
            else:
                lead.holder = 0

    def _follow(self, lead: Lead, call: Call, until: float) -> None:
        """Sleep until there is something to do; the own deadline, and the own next try, are kept without the leader's
        help: it may sleep in a read that knows of neither.
        """
        due = call.deadline
        if call.link is None:
            due = min(due, self._core.next_timer())
        lead.follow(self._lock, call, min(until, due))
        if not call.finished and due != FOREVER:
            self._run_timers(monotonic())

    def _push(self, call: Call) -> None:
        """Get a call out that the socket did not take whole or that has no connection yet."""
        while not call.finished:
            wire = self._wire_of(call)
            if wire is None:
                self._without_connection(call, FOREVER)
            elif call.link is not None and not wire.unsent:
                return
            elif not wire.lead.holder:
                wire.lead.holder = get_ident()
                try:
                    self._turn(wire, FOREVER)
                finally:
                    wire.step_down()
            elif call.link is None:
                return  # the leader opens it
            else:
                self._poll(wire, NAP, read=False)

    # --- one step ----------------------------------------------------------------------------------------------------

    def _turn(self, wire: Wire, until: float) -> None:
        """The leader's step: wait for the one next thing and deal with it."""
        due = self._core.next_timer()
        if until != FOREVER:
            due = min(due, until)
        if not wire.unsent and self._patience.asks() and self._spin_read(wire, due):
            return
        if (due != FOREVER or wire.unsent or wire.receive_timeout) and not self._may_block(wire, due):
            return
        link, lock = wire.link, self._lock
        buffer = wire.next_buffer()
        # A short buffer may be the rest of a chunk, which is worth waiting for: that saves reads.
        flags = 0 if len(buffer) == wire.usual else wire.read_flags()
        try:
            lock.release()
            try:
                n = wire.sock.recv_into(buffer, 0, flags)
            finally:
                lock.acquire()
        except BlockingIOError:
            return
        except OSError as error:
            wire.broke(error)
        except BaseException:
            if flags:
                wire.lost("was interrupted within a large reply")
                self._settle()
            raise
        else:
            wire.arrived(n)
        if not link.ready:
            self._settle()

    def _spin_read(self, wire: Wire, due: float) -> bool:
        """Keep asking for bytes, never beyond ``due``; false where none came, so that the thread may sleep."""
        buffer = wire.next_buffer()
        if len(buffer) != wire.usual:
            return False
        self._lock.release()
        try:
            n = ask(wire.sock, buffer, due, self._patience)
        except OSError as error:
            self._lock.acquire()
            wire.broke(error)
        except BaseException:
            self._lock.acquire()
            raise
        else:
            self._lock.acquire()
            if n < 0:
                return False
            wire.arrived(n)
        if not wire.link.ready:
            self._settle()
        return True

    def _may_block(self, wire: Wire, due: float) -> bool:
        """See to timers and to what is unsent; true where nothing but a read is left, which then ends by ``due``."""
        now = monotonic()
        if due <= now:
            self._run_timers(now)
        elif wire.unsent or due - now < SHORT_WAIT:
            self._poll(wire, due - now, read=True)
        else:
            wire.limit_read(due - now)
            return True
        return False

    def _poll(self, wire: Wire, timeout: float, *, read: bool) -> None:
        """Write what is unsent as soon as the socket takes it; reading meanwhile, so that two full pipes cannot block
        each other.
        """
        descriptor, write = wire.sock.fileno(), bool(wire.unsent)
        self._lock.release()
        try:
            readable, writable = wait_for(descriptor, read=read, write=write, timeout=timeout)
        finally:
            self._lock.acquire()
        if readable and read:
            wire.read_now()
        if writable and not wire.link.finished:
            wire.flush(monotonic())
        self._settle()

    def _run_timers(self, now: float) -> None:
        self._core.run_timers(now)
        self._flush_all(now)

    def _flush_all(self, now: float) -> None:
        for wire in self._wires():
            wire.flush(now)
        self._settle()

    def _listen(self, wire: Wire, now: float) -> Wire | None:
        """Before a send after a quiet time: a server that said goodbye meanwhile is noticed before a call is lost to
        it. Gives back the connection that new calls go to.
        """
        if not wire.lead.holder:
            while wire.read_now():
                pass
        wire.read_at = now
        self._settle()
        return self._wire

    def _give_up(self, call: Call) -> bool:
        if call.finished:
            self._settle()  # it may have been lost with its connection
            return False
        now = monotonic()
        self._core.cancel(call, now)
        self._flush_all(now)
        return True

    # --- connections -------------------------------------------------------------------------------------------------

    def _wires(self) -> list[Wire]:
        return self._draining if self._wire is None else [self._wire, *self._draining]

    def _settle(self) -> None:
        """Follow the core: what it sends no new calls to is put aside, what is over is forgotten."""
        wire = self._wire
        if wire is not None and self._core.link is not wire.link:
            self._wire = None
            self._draining.append(wire)
        if self._draining:
            for wire in self._draining:
                wire.lead.wake_strays(wire.link)
            self._draining = [wire for wire in self._draining if not wire.link.finished]

    def _without_connection(self, call: Call, until: float) -> None:
        """Dial, or wait until somebody else has, or sleep until it is time to."""
        core, now = self._core, monotonic()
        timer, dial_at = core.next_timer(), core.next_dial()
        if timer <= now:
            self._run_timers(now)
        elif self._dialler.lead.holder:
            self._follow(self._dialler.lead, call, until)
        elif dial_at <= now:
            self._wire = self._dialler.dial(min(timer, until) - now)
            self._settle()
        else:
            self._lock.release()
            try:
                time.sleep(max(0.0, min(timer - now, dial_at - now, until - now, NAP)))
            finally:
                self._lock.acquire()
