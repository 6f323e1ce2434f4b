"""What moves the blocking client: threads, the lead, waiting.

Any number of threads may use one client. There is no thread of its own: whoever waits first reads for all that wait on
the same connection (the *leader*) and hands the outcomes out; the others sleep until theirs is there or the lead is
passed to them. Everything of the core happens under one lock, which nobody holds while waiting. There is one connection
that new calls go to; one that the server drains is read until its last call is done.

An interrupt (Ctrl-C) cancels the call that the thread was in, wherever it strikes; where it may have lost count of
bytes or left something half done, the connections go with it. A signal handler or a finalizer that uses the client in
the middle of a call of its own thread closes it or gives calls up at once or a little later; where it would have to
wait for that call it is refused (:class:`ClientInUse`).

Not here: sockets (``blocking_wire``), the rules of calls, retries and deadlines (``core``).
"""

from __future__ import annotations

import time
from _thread import get_ident
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from ..protocol.adaptive_spin import AdaptiveSpin
from .blocking_dialler import Dialler
from .blocking_wire import LOST_TURN, SPIN, Wire, ask
from .calls import FOREVER, Call, ReplyQueue
from .core import INTERRUPTED, ClientCore
from .errors import ClientInUse
from .fork_guard import check_fork, generation
from .leader_follower import LOOK_AROUND, Lead, Monitor
from .link import CLOSED_UNDER
from .sockets import wait_for
from .url import Address

if TYPE_CHECKING:
    from .results import Result
    from .tls import Trust

QUIET: Final = 0.005
"""Seconds without reading after which a send first looks whether the server has said something, such as goodbye."""
SHORT_WAIT: Final = 0.02
"""Below this many seconds a deadline is waited for with poll, which keeps time better than SO_RCVTIMEO."""
NAP: Final = 0.05
"""Seconds slept at a time where nothing can wake the sleeper, so that ``close`` is noticed."""

IN_USE: Final = (
    "this thread is in the middle of another call of this client, which a signal handler, a finalizer or an input's "
    "own code must not wait for: there, close() and cancel() may be used; for a call connect another client"
)

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
        self._adaptive_spin = AdaptiveSpin(spin, SPIN, LOST_TURN)
        self._monitor = Monitor(core)
        self._lock = self._monitor.lock
        self._late = self._monitor.late
        self._dialler = Dialler(core, address, connect_timeout, self._monitor, trust)
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
        wait: bool,
        replies: ReplyQueue | None = None,
    ) -> Call:
        """Start a call, get it out, and stay until it is done where ``wait``. Errors as for ``ClientCore.infer``, and
        :class:`ClientInUse`.
        """
        self._check_use()
        core, now = self._core, monotonic()
        call: Call | None = None
        try:
            with self._lock:
                try:
                    wire = self._wire
                    if wire is not None:
                        if wait and wire.lead.holder:
                            self._check_lead(wire.lead)
                        if now - wire.read_at > QUIET:
                            wire = self._listen(wire, now)
                    call = core.infer(model, inputs, version, deadline, timing, priority, now, replies)
                    if wire is not None and call.link is wire.link:
                        wire.flush(now)
                        if call.finished:
                            self._settle()
                    if deadline is not None:
                        core.watch(call)
                    if wire is None or wire.unsent or call.link is None:
                        self._push(call)
                    elif wait and not wire.lead.holder:
                        self._read_for_all(wire, call, FOREVER)
                    if wait and not call.finished:
                        self._until_done(call, FOREVER)
                    core.changing = False
                except BaseException:
                    self._broken_off(call)
                    raise
        finally:
            if self._late:
                self._catch_up()
        return call

    def run(
        self, model: str, inputs: Mapping[str, Any], version: str, deadline: float | None, timing: bool, priority: int
    ) -> Result:
        """Make a call and return its result, or raise what it failed with: all of it compiled."""
        call = self.infer(model, inputs, version, deadline, timing, priority, wait=True)
        if call.error is not None:
            raise call.error
        return cast("Result", call.outcome)

    def control(self, kind: int, deadline: float | None) -> Call:
        """Make a call without a stream; it is done when this returns. Raises :class:`ClientInUse`."""
        self._check_use()
        call: Call | None = None
        try:
            with self._lock:
                try:
                    now = monotonic()
                    if self._wire is not None:
                        self._check_lead(self._wire.lead)
                        self._listen(self._wire, now)
                    call = self._core.control(kind, deadline, now)
                    self._core.watch(call)
                    self._flush_all(now)
                    self._until_done(call, FOREVER)
                    self._core.changing = False
                except BaseException:
                    self._broken_off(call)
                    raise
        finally:
            if self._late:
                self._catch_up()
        return call

    def wait(self, call: Call, timeout: float | None) -> None:
        """Until ``call`` is done or has a reply to take, or ``timeout`` seconds have passed. Raises
        :class:`ClientInUse`.
        """
        self._check_use()
        until = FOREVER if timeout is None else monotonic() + timeout
        try:
            with self._lock:
                try:
                    self._core.changing = True
                    self._until_done(call, until)
                    self._core.changing = False
                except BaseException:
                    # The caller that had no timeout will not ask again, so the server need not go on.
                    self._broken_off(call if timeout is None else None)
                    raise
        finally:
            if self._late:
                self._catch_up()

    def cancel(self, call: Call) -> bool:
        """Give ``call`` up; false where it was done already."""
        check_fork(self._generation)
        if self._monitor.held_here():
            if not call.finished:
                self._late.append(call)
            return not call.finished
        try:
            with self._lock:
                try:
                    self._core.changing = True
                    given_up = self._give_up(call)
                    self._core.changing = False
                except BaseException:
                    self._broken_off(call)
                    raise
        finally:
            if self._late:
                self._catch_up()
        return given_up

    def close(self) -> None:
        """Say goodbye on every connection; calls under way fail. In a forked child, which has no connection (see
        ``fork_guard``), only descriptors go.
        """
        if self._generation != generation[0]:
            for wire in self._wires():
                wire.sock.close()
            return
        self._late.append(None)
        if not self._monitor.held_here():
            self._catch_up()

    # --- used again by the same thread, in the middle of something ---------------------------------------------------

    def _check_use(self) -> None:
        """Refuse a call in a forked child, or in the middle of this thread's own changes."""
        if self._generation != generation[0]:
            check_fork(self._generation)
        if self._monitor.held_here():
            raise ClientInUse(IN_USE)

    def _check_lead(self, lead: Lead) -> None:
        """Refuse to wait for what this very thread was about to read or to make, further down its stack."""
        if lead.holder == get_ident():
            self._core.changing = False
            raise ClientInUse(IN_USE)

    def _catch_up(self) -> None:
        """Do what was asked for late."""
        while self._late:
            with self._lock:
                try:
                    self._do_late()
                    self._core.changing = False
                except BaseException:
                    self._broken_off(None)
                    raise

    # --- from here on the lock is held on entry and exit -------------------------------------------------------------

    def _do_late(self) -> None:
        self._core.changing = True
        while self._late:
            call = self._late[-1]
            if call is None:
                self._say_goodbye()
            else:
                self._give_up(call)
            self._late.remove(call)

    def _say_goodbye(self) -> None:
        now = monotonic()
        wires = self._wires()
        self._core.close(now)
        for wire in wires:
            wire.link.close(CLOSED_UNDER, now)
            wire.flush(now)
        self._settle()
        if self._core.capture is not None:
            self._core.capture.close()

    def _broken_off(self, call: Call | None) -> None:
        """End what this thread did, after an exception such as a signal handler's: its ``call`` is given up, it leads
        nothing any more, and what it left half changed is not used again.
        """
        self._monitor.step_in()  # where the interrupt came just as the lock was to be taken again
        wires, ident = self._wires(), get_ident()
        if self._core.changing:
            for wire in wires:
                wire.lost(f"went: {INTERRUPTED}")
            self._core.interrupted(monotonic())
        for wire in wires:
            if wire.lead.holder == ident:
                wire.step_down()
        if self._dialler.lead.holder == ident:
            self._dialler.lead.step_down()
        self._settle()
        if call is not None:
            self._give_up(call)
        self._core.changing = False

    def _resume(self) -> None:
        """Do what came up during a wait; the lock is held again."""
        self._core.changing = True
        if self._late:
            self._do_late()

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _until_done(self, call: Call, until: float) -> None:
        """Until ``call`` is done, or has a reply to take, or ``until``: leading where nobody does, else following."""
        followed: Lead | None = None
        try:
            while not call.has_news and (until == FOREVER or monotonic() < until):
                wire = self._wire_of(call)
                if call.link is not None and call.link.finished:
                    self._core.strayed(call, monotonic())  # an interrupt struck between its link's end and its own
                elif wire is None:
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
        """Return the connection that brings news of ``call``; None where there is none yet."""
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
        try:
            lead.holder = get_ident()
            while not (call.has_news or link.finished):
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
        self._check_lead(lead)
        lead.follow(self._monitor, call, min(until, due))
        self._resume()
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
                try:
                    wire.lead.holder = get_ident()
                    self._turn(wire, FOREVER)
                finally:
                    wire.step_down()
            elif call.link is None or wire.lead.holder == get_ident():
                return  # the leader opens it; or this thread itself writes the rest, further down its stack
            else:
                self._poll(wire, NAP, read=False)

    # --- one step ----------------------------------------------------------------------------------------------------

    def _turn(self, wire: Wire, until: float) -> None:
        """Wait for the one next thing and deal with it: the leader's step."""
        due = self._core.next_timer()
        if until != FOREVER:
            due = min(due, until)
        if not wire.unsent and self._adaptive_spin.should_spin() and self._spin_read(wire, due):
            return
        if (due != FOREVER or wire.unsent or wire.receive_timeout < LOOK_AROUND) and not self._may_block(wire, due):
            return
        link, monitor = wire.link, self._monitor
        counts: list[int] = []
        buffer = wire.next_buffer()
        # A short buffer may be the rest of a chunk, which is worth waiting for: that saves reads.
        flags = 0 if len(buffer) == wire.usual else wire.read_flags()
        try:
            try:
                if monitor.step_out():
                    # In one step for the interpreter, so that no interrupt comes between a read and its count.
                    counts.extend(map(wire.sock.recv_into, (buffer,), (0,), (flags,)))
            finally:
                monitor.step_in()
            self._core.changing = True
        except BlockingIOError:
            self._resume()
            return
        except OSError as error:
            self._resume()
            wire.broke(error)
        except BaseException:
            monitor.step_in()
            self._core.changing = flags != 0 or bool(counts)
            if counts:
                wire.arrived(counts[0])
                self._core.changing = flags != 0  # within a large reply
            raise
        else:
            if counts:
                wire.arrived(counts[0])
            if self._late:
                self._do_late()
        if not link.ready:
            self._settle()

    def _spin_read(self, wire: Wire, due: float) -> bool:
        """Keep asking for bytes, never beyond ``due``; false where none came, so that the thread may sleep."""
        buffer = wire.next_buffer()
        if len(buffer) != wire.usual:
            return False
        monitor, n = self._monitor, -1
        try:
            try:
                if monitor.step_out():
                    n = ask(wire.sock, buffer, due, self._adaptive_spin)
            finally:
                monitor.step_in()
            self._core.changing = True
        except OSError as error:
            self._resume()
            wire.broke(error)
        except BaseException:
            monitor.step_in()
            self._core.changing = True  # perhaps it struck just after a read
            raise
        else:
            if n >= 0:
                wire.arrived(n)
            if self._late:
                self._do_late()
            elif n < 0:
                return False
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
        readable = writable = False
        try:
            if self._monitor.step_out():
                readable, writable = wait_for(descriptor, read=read, write=write, timeout=min(timeout, LOOK_AROUND))
        finally:
            self._monitor.step_in()
        self._resume()
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
        self._core.changing = True
        if not wire.lead.holder:
            while wire.read_now():
                pass
        wire.read_at = now
        self._settle()
        self._core.changing = False
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
            self._draining.append(wire)
            self._wire = None
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
            self._wire = self._dialler.dial(min(call.deadline, until) - now)  # others keep theirs themselves
            self._resume()
            self._settle()
        else:
            try:
                if self._monitor.step_out():
                    time.sleep(max(0.0, min(timer - now, dial_at - now, until - now, NAP)))
            finally:
                self._monitor.step_in()
            self._resume()
