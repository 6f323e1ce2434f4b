"""What moves the asyncio client: futures, one timer, and the task that dials.

One heap of deadlines with one armed timer; everything that one turn of the loop starts leaves in one write.

Not here: transports (``aio_wire``), the rules of calls, retries and deadlines (``core``).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..protocol.alarm import Alarm
from .aio_wire import Wire, WireOwner
from .calls import FOREVER, Call, ReplyQueue
from .capture import open_capture
from .core import ClientCore
from .errors import ConnectFailed, TensorwireError
from .fork_guard import check_fork, generation
from .link import CLOSED_UNDER, Link
from .options import ClientOptions
from .sockets import NEXT_ADDRESS, Found, explain, failures_of, in_turn, look_up, numeric
from .tls import refused
from .url import Address

GOODBYE_TIMEOUT = 1.0
"""Seconds that the end of TLS may take after the last word, before the socket is closed without."""

monotonic = time.monotonic


def resolve(call: Call) -> None:
    """Give the outcome to the future that is awaited: the core's ``notify``."""
    future: asyncio.Future[Any] = call.waiter
    if not future.done():
        if call.error is None or call.replies is not None:
            future.set_result(call.outcome)
        else:
            future.set_exception(call.error)


class Driver(WireOwner):
    """Carries the calls of one client. Belongs to the event loop it was made in; not thread-safe."""

    def __init__(
        self,
        address: Address,
        options: ClientOptions,
    ) -> None:
        super().__init__(asyncio.get_running_loop())
        self._address = address
        self._connect_timeout = options.timeout
        credentials = options.credentials(address)
        self._trust = options.trust(address)
        self._core = ClientCore(
            resolve,
            self.loop.create_future,
            address=str(address),
            credentials=credentials,
            wait_for_ready=options.wait_for_ready,
            max_reply=options.max_reply,
            capture=open_capture(options.capture),
        )
        self._wires: set[Wire] = set()
        self._wire: Wire | None = None
        """The connection that new calls go to, until it is lost or replaced."""
        self._dialling: asyncio.Task[None] | None = None
        self._alarm = Alarm(self.loop.call_later, monotonic, self._ring)
        self._tried: dict[Any, str] = {}
        """What came of each address of the last dial so far."""
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
        replies: ReplyQueue | None = None,
    ) -> Call:
        """Start a call; ``waiter`` is the future of its outcome. Errors as for ``ClientCore.infer``."""
        if self._generation != generation[0]:
            check_fork(self._generation)
        call = self._core.infer(model, inputs, version, deadline, timing, priority, monotonic(), replies)
        wire = self._wire
        if wire is not None and call.link is wire.link:
            if not wire.scheduled:
                wire.schedule()
        else:
            self._ensure_connection()
        if deadline is not None:
            self._core.watch(call)
            if call.deadline < self._alarm.moment:
                self._arm_timer()
        return call

    async def control(self, kind: int, deadline: float | None) -> Call:
        """Make a call without a stream; it is done when this returns."""
        check_fork(self._generation)
        call = self._core.control(kind, deadline, monotonic())
        self._core.watch(call)
        self._ensure_connection()
        self._arm_timer()
        if self._wire is not None:
            self._wire.schedule()
        try:
            await call.waiter
        except asyncio.CancelledError:
            self.cancel(call)
            raise
        return call

    async def news(self, call: Call) -> None:
        """Wait until a stream has another reply or is done."""
        await call.waiter
        call.waiter = self.loop.create_future()

    def cancel(self, call: Call) -> None:
        """Give ``call`` up and tell the server; nothing happens where it is done."""
        if not call.finished:
            call.waiter.cancel()
            self._core.cancel(call, monotonic())
            self._schedule_all()

    def let_go(self, call: Call, future: asyncio.Future[Any]) -> None:
        """Cancel ``call`` where its future, which is done, was cancelled."""
        if future.cancelled():
            self.cancel(call)

    async def close(self) -> None:
        """Say goodbye on every connection; calls under way fail. Nothing in a forked child, which has no connection
        (see ``fork_guard``), and whose loop may be the parent's, too.
        """
        if self._generation == generation[0]:
            await self._say_goodbye()
        if self._core.capture is not None:
            self._core.capture.close()

    async def _say_goodbye(self) -> None:
        now = monotonic()
        self._core.close(now)
        self._alarm.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
        wires = list(self._wires)
        for wire in wires:
            wire.link.close(CLOSED_UNDER, now)
            wire.flush()
        for wire in wires:
            await wire.gone

    # --- time --------------------------------------------------------------------------------------------------------

    def _arm_timer(self) -> None:
        """See to it that the loop wakes the core in time."""
        due = self._core.next_timer()
        if due < self._alarm.moment and not self._core.closed:
            self._alarm.set(due)

    def _ring(self, now: float) -> None:
        self._core.run_timers(now)
        self._schedule_all()
        self._ensure_connection()
        self._arm_timer()

    def _schedule_all(self) -> None:
        for wire in self._wires:
            wire.schedule()

    # --- connections -------------------------------------------------------------------------------------------------

    def _ensure_connection(self) -> None:
        """Dial where calls wait for a connection and none is being made."""
        if self._dialling is None and self._core.next_dial() != FOREVER:
            self._dialling = self.loop.create_task(self._dial())
            self._dialling.add_done_callback(self._dialled)

    def _dialled(self, task: asyncio.Task[None]) -> None:
        self._dialling = None
        if not task.cancelled():
            task.result()
            self._ensure_connection()

    async def _dial(self) -> None:
        core = self._core
        while (at := core.next_dial()) != FOREVER:
            delay = at - monotonic()
            if delay > 0.0:
                await asyncio.sleep(delay)
                continue
            try:
                await self._read_key()
                async with asyncio.timeout(self._connect_timeout):
                    await self._open_transport()
            except TensorwireError as error:
                core.key_failed(error, monotonic())
            except ssl.SSLError as error:
                core.key_failed(refused(error), monotonic())
            except OSError as error:
                if isinstance(error, TimeoutError) and self._tried:
                    error = TimeoutError(errno.ETIMEDOUT, "; ".join(self._tried.values()))
                core.dial_failed(explain(error, self._address), monotonic())

    async def _read_key(self) -> None:
        """Ask for the key; a function of the caller's must not hold up the loop."""
        core = self._core
        if not core.credentials.may_wait:
            core.read_key()
            return
        try:
            async with asyncio.timeout(self._connect_timeout):
                await asyncio.to_thread(core.read_key)
        except TimeoutError:
            raise ConnectFailed(f"the key's function took longer than {self._connect_timeout:g} s") from None

    async def _open_transport(self) -> None:
        address = self._address
        if address.is_unix:
            await self.loop.create_unix_connection(partial(Wire, self), address.path)
            return
        context = None if self._trust is None else self._trust.context()
        sock = await self._connect_first()
        try:
            if context is None:
                await self.loop.create_connection(partial(Wire, self), sock=sock)
            else:
                await self.loop.create_connection(
                    partial(Wire, self),
                    sock=sock,
                    ssl=context,
                    server_hostname=address.host,
                    ssl_shutdown_timeout=GOODBYE_TIMEOUT,
                )
        except BaseException:
            sock.close()
            raise

    async def _connect_first(self) -> socket.socket:
        """Connect a socket to whichever address of the name answers first, as ``sockets.connect_first`` does it:
        uvloop's ``create_connection`` has none of asyncio's ``happy_eyeballs_delay``.
        """
        self._tried = {}
        address = self._address
        until = monotonic() + self._connect_timeout
        found = numeric(address.host, address.port)
        if not found:
            # Not by the loop's getaddrinfo: its thread would hold up the end of the program.
            given_up: list[bool] = []
            asked = self.loop.run_in_executor(None, look_up, address.host, address.port, until, lambda: not given_up)
            try:
                found = await asked
            finally:
                given_up.append(True)
        left = in_turn(found)
        failures: list[OSError] = []
        trying: set[asyncio.Task[socket.socket]] = set()
        won: socket.socket | None = None
        try:
            while won is None and (left or trying):
                if left:
                    trying.add(self.loop.create_task(self._connect(left.pop(0))))
                wait = NEXT_ADDRESS if left else None
                done, trying = await asyncio.wait(trying, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if isinstance(error, OSError):
                        failures.append(error)
                    elif error is not None:
                        raise error
                    elif won is None:
                        won = task.result()
                    else:
                        task.result().close()
        finally:
            for task in trying:
                task.cancel()
        if won is None:
            raise failures_of(failures, list(self._tried.values()))
        return won

    async def _connect(self, found: Found) -> socket.socket:
        family, kind, protocol, _, where = found
        host = str(where[0])
        self._tried[where] = f"{host}: no answer"
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await self.loop.sock_connect(sock, where)
        except OSError as error:
            sock.close()
            code = error.errno or 0
            self._tried[where] = f"{host}: {os.strerror(code).lower()}"
            raise OSError(code, os.strerror(code)) from None
        except BaseException:
            sock.close()
            raise
        return sock

    # --- called by the wires -----------------------------------------------------------------------------------------

    def wire_made(self, wire: Wire, binding: bytes = b"") -> Link:
        """Return the link that a connected transport is to drive. ``binding`` as for ``ClientCore.dialled``."""
        self._wires.add(wire)
        self._wire = wire
        link = self._core.dialled(monotonic(), binding)
        self._arm_timer()
        return link

    def wire_lost(self, wire: Wire) -> None:
        """Forget a transport that is gone."""
        self._wires.discard(wire)
        if self._wire is wire:
            self._wire = None
        self._ensure_connection()

    def settle(self, wire: Wire) -> None:
        """Answer, keep time, reconnect, after bytes came in."""
        link = wire.link
        if link.has_output or link.finished:
            wire.schedule()
        if self._core.next_timer() < self._alarm.moment:
            self._arm_timer()
        if not link.ready:
            self._ensure_connection()
