"""The blocking client: :func:`connect`, :class:`Client`, :class:`Pending`.

Any number of threads may use one client. There is no thread of its own: whoever waits first reads for all (the
*leader*) and hands the outcomes out; the others sleep until theirs is there or the lead is passed to them. Everything
of the core happens under one lock, which nobody holds while waiting for the socket. A client must not be used across a
fork.

Here: sockets, threads, the lead. Not here: the rules of calls, retries and deadlines (``core``).
"""

from __future__ import annotations

import socket
import time
from _thread import LockType, allocate_lock, get_ident
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from ..codec import Description, HealthReport, ModelList
from . import services
from .calls import CONNECT, FOREVER, PING, STREAM, UNARY, Call, Result
from .capture import open_capture
from .core import MAX_REPLY, ClientCore
from .errors import ConnectFailed, DeadlineExceeded
from .forks import check_fork, generation
from .link import Link
from .sockets import Buffers, dial, explain, send_now, set_receive_timeout, wait_for
from .url import Address, parse_url

CONNECT_TIMEOUT = 10.0
"""Seconds for name lookup, connection and handshake."""
QUIET = 0.005
"""Seconds without reading after which a send first looks whether the server has said something, such as goodbye."""
SHORT_WAIT = 0.02
"""Below this many seconds a deadline is waited for with poll, which keeps time better than SO_RCVTIMEO."""
NAP = 0.05
"""Seconds slept at a time while there is no connection to wait on, so that ``close`` is noticed."""

monotonic = time.monotonic


def connect(
    url: str,
    *,
    wait_for_ready: bool = False,
    timeout: float = CONNECT_TIMEOUT,
    max_reply: int = MAX_REPLY,
    capture: str | Path | None = None,
) -> Client:
    """Connect to ``tw://host:port`` or ``tw+unix:///path`` and give back a :class:`Client`.

    ``timeout``: seconds for the connection and the handshake. ``wait_for_ready``: a server that is not there yet is
    tried again until ``timeout``, and later calls wait for a lost server until their deadline instead of failing at
    once. ``max_reply``: bytes of the largest reply that is taken. ``capture``: a file that records every byte, for
    ``tensorwire decode``. Raises :class:`InvalidURL`, :class:`ConnectFailed`.
    """
    client = Client(
        parse_url(url), wait_for_ready=wait_for_ready, timeout=timeout, max_reply=max_reply, capture=capture
    )
    try:
        client.wait_connected(timeout)
    except BaseException:
        client.close()
        raise
    return client


class Pending(Call):
    """A call under way: what :meth:`Client.submit` gives back."""

    __slots__ = ("client",)

    client: Client
    waiter: list[LockType] | None

    def done(self) -> bool:
        """True where the outcome is known. It becomes known only while some thread waits on the client."""
        return self.finished

    def result(self, timeout: float | None = None) -> Result:
        """The result, waiting for it at most ``timeout`` seconds; after that ``TimeoutError``, and the call goes on.

        Raises what the call failed with. May be asked again, and from any thread.
        """
        if not self.finished:
            self.client.wait_for(self, timeout)
        if self.error is not None:
            raise self.error
        return cast("Result", self.outcome)

    def cancel(self) -> bool:
        """Give the call up and tell the server. False where it was done already."""
        return self.client.cancel(self)

    def notify(self) -> None:
        """Wake who waits for it."""
        waiters = self.waiter
        if waiters is not None:
            self.waiter = None
            for waiter in waiters:
                waiter.release()


class Client:
    """A connection to one server, made again when it is lost. Made by :func:`connect`; a context manager."""

    def __init__(
        self,
        address: Address,
        *,
        wait_for_ready: bool = False,
        timeout: float = CONNECT_TIMEOUT,
        max_reply: int = MAX_REPLY,
        capture: str | Path | None = None,
    ) -> None:
        self._address = address
        self._connect_timeout = timeout
        self._capture = open_capture(capture)
        self._core = ClientCore(
            Pending,
            address=str(address),
            wait_for_ready=wait_for_ready,
            max_reply=max_reply,
            capture=self._capture,
        )
        self._lock = allocate_lock()
        self._leading = 0
        """The thread that reads for all, 0 for none."""
        self._followers: dict[LockType, Pending] = {}
        self._socket: socket.socket | None = None
        self._link: Link | None = None
        self._unsent: Buffers = []
        self._doomed: list[socket.socket] = []
        """Sockets that are shut down and that the leader may still be reading: closing waits for it."""
        self._read_at = 0.0
        self._receive_timeout = 0.0
        self._generation = generation[0]

    # --- verbs -------------------------------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str = "",
        deadline: float | None = None,
        timing: bool = False,
        priority: int = 0,
    ) -> Result:
        """Run ``model`` on ``inputs`` and wait for the result: output name -> read-only array.

        ``inputs``: name -> numpy array, anything with DLPack or the buffer protocol, nested lists, str,
        ``RaggedArray``. ``version``: "" for the one the server serves. ``deadline``: seconds from now for all of it,
        queueing included. ``timing``: ask where the time went. ``priority``: 0 is ordinary, up to 255, larger is more
        urgent. Raises :class:`TensorwireError`: see ``errors``.
        """
        call = self._start(model, inputs, version, deadline, timing, priority, UNARY)
        if not call.finished:
            self._wait(call)
        if call.error is not None:
            raise call.error
        return cast("Result", call.outcome)

    def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str = "",
        deadline: float | None = None,
        timing: bool = False,
        priority: int = 0,
    ) -> Pending:
        """Send a call and come back at once; arguments as for :meth:`infer`. Many may be under way.

        The arrays must not be changed until the call is done. Nothing is read until some thread waits on the client.
        """
        return self._start(model, inputs, version, deadline, timing, priority, UNARY)

    def ping(self, *, deadline: float | None = None) -> float:
        """Seconds to the server and back, without a model."""
        return self._control(PING, deadline)

    def models(self, *, deadline: float | None = None) -> ModelList:
        """What the server serves."""
        return services.read_models(self._service(services.MODELS, services.ask_models(), deadline))

    def describe(self, model: str, *, version: str = "", deadline: float | None = None) -> Description:
        """Inputs, outputs and limits of a model."""
        return services.read_description(
            self._service(services.DESCRIBE, services.ask_describe(model, version), deadline)
        )

    def health(self, model: str = "", *, deadline: float | None = None) -> HealthReport:
        """How a model is, or the server as a whole (""): with forward progress, not just that the process lives."""
        return services.read_health(self._service(services.HEALTH, services.ask_health(model, watch=False), deadline))

    def watch_health(self, model: str = "") -> Generator[HealthReport, None, None]:
        """The health now and whenever it changes; ends when the generator is closed."""
        call = self._start(services.HEALTH, services.ask_health(model, watch=True), "", None, False, 0, STREAM)
        try:
            while True:
                if call.replies:
                    yield services.read_health(call.replies.popleft())
                elif call.error is not None:
                    raise call.error
                elif call.finished:
                    return
                else:
                    self._wait(call)
        finally:
            call.cancel()

    def close(self) -> None:
        """Say goodbye and close the connection; calls under way fail with :class:`ClientClosed`. May be repeated."""
        if self._generation != generation[0]:
            # The parent's connection: only this process's descriptor of it goes.
            if self._socket is not None:
                self._socket.close()
            return
        with self._lock:
            now = monotonic()
            self._core.close(now)
            if self._link is not None:
                self._link.close("the client was closed under the call", now)
                self._flush(now)
            if self._capture is not None:
                self._capture.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- calls -------------------------------------------------------------------------------------------------------

    def wait_connected(self, timeout: float) -> None:
        """Wait until the handshake is done. Raises :class:`ConnectFailed`."""
        try:
            self._control(CONNECT, timeout)
        except DeadlineExceeded as error:
            raise ConnectFailed(f"cannot connect to {self._address}: {error}", not_started=True) from None

    def wait_for(self, call: Pending, timeout: float | None) -> None:
        """Wait until ``call`` is done; ``TimeoutError`` after ``timeout`` seconds. For :meth:`Pending.result`."""
        check_fork(self._generation)
        self._wait(call, FOREVER if timeout is None else monotonic() + timeout)
        if not call.finished:
            raise TimeoutError(f"no result within {timeout} s; the call goes on")

    def cancel(self, call: Pending) -> bool:
        """Give ``call`` up. For :meth:`Pending.cancel`."""
        check_fork(self._generation)
        with self._lock:
            if call.finished:
                return False
            now = monotonic()
            self._core.cancel(call, now)
            self._flush(now)
            return True

    def _start(
        self,
        model: str,
        inputs: Mapping[str, Any],
        version: str,
        deadline: float | None,
        timing: bool,
        priority: int,
        kind: int,
    ) -> Pending:
        if self._generation != generation[0]:
            check_fork(self._generation)
        now = monotonic()
        with self._lock:
            if now - self._read_at > QUIET:
                self._listen(now)
            call = self._core.infer(model, inputs, version, deadline, timing, priority, now, kind)
            call.client = self
            self._flush(now)
            if self._unsent or call.link is None:
                self._push(call)
        return call

    def _control(self, kind: int, deadline: float | None) -> float:
        check_fork(self._generation)
        with self._lock:
            now = monotonic()
            self._listen(now)
            call = self._core.control(kind, deadline, now)
            call.client = self
            self._flush(now)
        self._wait(call)
        if call.error is not None:
            raise call.error
        return call.finished_at - call.opened_at

    def _service(self, name: str, payload: Mapping[str, Any], deadline: float | None) -> Result:
        call = self._start(name, payload, "", deadline, False, 0, UNARY)
        return call.result()

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _wait(self, call: Pending, until: float = FOREVER) -> None:
        """Until ``call`` is done, or has a reply to take, or ``until``."""
        try:
            with self._lock:
                while not (call.finished or call.replies) and (until == FOREVER or monotonic() < until):
                    if self._leading:
                        self._follow(call, until)
                    else:
                        self._lead(call, until)
        except BaseException:
            # Interrupted (Ctrl-C): the caller will not ask again, so the server need not go on.
            if until == FOREVER and not call.finished:
                self.cancel(call)
            raise

    def _lead(self, call: Pending, until: float) -> None:
        """Read for all until the own call is done; then pass the lead on. The lock is held."""
        self._leading = get_ident()
        try:
            while not (call.finished or call.replies):
                now = monotonic()
                if now >= until:
                    break
                self._turn(now, until)
        finally:
            self._step_down()

    def _push(self, call: Pending) -> None:
        """Get a call out that the socket did not take whole or that has no connection yet. The lock is held."""
        while not call.finished and (self._unsent or (call.link is None and not self._leading)):
            if not self._leading:
                self._leading = get_ident()
                try:
                    self._turn(monotonic(), FOREVER)
                finally:
                    self._step_down()
            elif self._socket is not None:
                sock = self._socket
                self._lock.release()
                try:
                    wait_for(sock, read=False, write=True, timeout=NAP)
                finally:
                    self._lock.acquire()
                self._flush(monotonic())

    def _step_down(self) -> None:
        self._leading = 0
        while self._doomed:
            self._doomed.pop().close()
        for waiter, call in self._followers.items():
            if not call.finished and call.waiter is not None and waiter in call.waiter:
                call.waiter.remove(waiter)
                waiter.release()
                break

    def _follow(self, call: Pending, until: float) -> None:
        """Sleep until the own call is done or the lead is free. The lock is held."""
        waiter = allocate_lock()
        waiter.acquire()
        if call.waiter is None:
            call.waiter = []
        call.waiter.append(waiter)
        self._followers[waiter] = call
        due = min(until, call.deadline)
        timeout = -1.0 if due == FOREVER else max(0.0, due - monotonic())
        self._lock.release()
        try:
            woken = waiter.acquire(timeout=timeout)
        finally:
            self._lock.acquire()
            del self._followers[waiter]
        if not woken:
            if call.waiter is not None and waiter in call.waiter:
                call.waiter.remove(waiter)
            now = monotonic()
            self._core.run_timers(now)
            self._flush(now)

    # --- the socket; the lock is held on entry and exit --------------------------------------------------------------

    def _turn(self, now: float, until: float) -> None:
        """The leader's step: wait for the one next thing and deal with it."""
        core = self._core
        due = core.next_timer()
        if due <= now:
            core.run_timers(now)
            self._flush(now)
            return
        if until != FOREVER:
            due = min(due, until)
        link, sock = self._link, self._socket
        if link is None or sock is None:
            self._turn_without_connection(now, due)
        elif self._unsent:
            self._turn_writing(link, sock, due - now)
        elif due - now < SHORT_WAIT:
            self._wait_and_read(link, sock, due - now)
        else:
            if due != FOREVER or self._receive_timeout:
                self._limit_read(sock, due - now)
            self._read(link, sock)

    def _limit_read(self, sock: socket.socket, left: float) -> None:
        """The next read gives up before ``left`` seconds are over; down to half of them, the last setting will do."""
        if not left / 2 <= self._receive_timeout <= left:
            self._receive_timeout = 0.0 if left == FOREVER else left * 0.9
            set_receive_timeout(sock, self._receive_timeout)

    def _read(self, link: Link, sock: socket.socket) -> None:
        buffer = link.next_buffer()
        self._lock.release()
        try:
            n = sock.recv_into(buffer)
        except BlockingIOError:
            n = -1
        except OSError as error:
            n = self._broken(link, error)
        finally:
            self._lock.acquire()
        if n >= 0:
            self._arrived(link, n)

    def _broken(self, link: Link, error: OSError) -> int:
        """A read failed (the lock is not held): the same as the end, with a reason."""
        with self._lock:
            now = monotonic()
            link.lost(f"the connection to {self._address} broke: {error.strerror or error}", now)
            self._flush(now)
        return -1

    def _wait_and_read(self, link: Link, sock: socket.socket, timeout: float) -> None:
        self._lock.release()
        try:
            readable, _ = wait_for(sock, read=True, write=False, timeout=timeout)
        finally:
            self._lock.acquire()
        if readable:
            self._read_now(link, sock)

    def _turn_writing(self, link: Link, sock: socket.socket, timeout: float) -> None:
        """The socket did not take all: read while waiting to write, so that two full pipes cannot block each other."""
        self._lock.release()
        try:
            readable, writable = wait_for(sock, read=True, write=True, timeout=timeout)
        finally:
            self._lock.acquire()
        if readable:
            self._read_now(link, sock)
        if writable:
            self._flush(monotonic())

    def _read_now(self, link: Link, sock: socket.socket) -> bool:
        """Read once what is there without waiting; false where there was nothing."""
        if link.finished:
            return False
        try:
            n = sock.recv_into(link.next_buffer(), 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            now = monotonic()
            link.lost(f"the connection to {self._address} broke: {error.strerror or error}", now)
            self._flush(now)
            return False
        self._arrived(link, n)
        return n > 0

    def _arrived(self, link: Link, n: int) -> None:
        self._read_at = now = monotonic()
        if link.finished:
            return
        if n:
            link.received(n, now)
        else:
            link.eof(now)
        if link.has_output or link.finished:
            self._flush(now)

    def _listen(self, now: float) -> None:
        """Before a send after a quiet time: a server that said goodbye meanwhile is noticed before a call is lost to
        it.
        """
        link, sock = self._link, self._socket
        if link is not None and sock is not None and not self._leading:
            while self._read_now(link, sock):
                pass
        self._read_at = now

    def _flush(self, now: float) -> None:
        """Write until all is written or the socket takes no more (the rest stays in ``_unsent``); close what is
        finished.
        """
        link, sock = self._link, self._socket
        if link is None or sock is None:
            return
        buffers = self._unsent
        try:
            if not buffers and link.has_output:
                buffers = link.data_to_send(now)
            while buffers:
                buffers = send_now(sock, buffers)
                if buffers or not link.has_output:
                    break
                buffers = link.data_to_send(now)
        except OSError as error:
            buffers = []
            link.lost(f"the connection to {self._address} broke: {error.strerror or error}", now)
        self._unsent = buffers
        if link.finished:
            self._hang_up()

    def _hang_up(self) -> None:
        sock = self._socket
        self._socket = self._link = None
        self._unsent = []
        self._receive_timeout = 0.0
        if sock is None:
            return
        if self._leading in {0, get_ident()}:
            sock.close()
            return
        # Another thread may sit in recv on it: wake it, and let it close the descriptor, which must not be used again
        # before.
        self._doomed.append(sock)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    def _turn_without_connection(self, now: float, due: float) -> None:
        """Dial, or sleep until it is time to."""
        dial_at = self._core.next_dial()
        if dial_at <= now:
            self._dial(due - now)
            return
        self._lock.release()
        try:
            time.sleep(max(0.0, min(due - now, dial_at - now, NAP)))
        finally:
            self._lock.acquire()

    def _dial(self, timeout: float) -> None:
        core = self._core
        sock: socket.socket | None = None
        reason = ""
        self._lock.release()
        try:
            sock = dial(self._address, min(timeout, self._connect_timeout))
        except OSError as error:
            reason = explain(error, self._address)
        finally:
            self._lock.acquire()
        now = monotonic()
        if sock is None:
            core.dial_failed(reason, now)
        elif core.closed:
            sock.close()
        else:
            self._socket = sock
            self._link = core.dialled(now)
            self._flush(now)
