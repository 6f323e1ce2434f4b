"""The asyncio client: ``await tensorwire.aio.connect(url)``; the verbs of the blocking client, awaitable.

No task and no timer per call: one heap of deadlines with one armed timer, and everything that one turn of the loop
starts leaves in one write. Works on asyncio's own loop and on uvloop. On Python 3.11 without uvloop, the part of a big
body that the socket does not take at once is copied once by asyncio (at most a chunk at a time); elsewhere nothing is.

Here: transports and futures. Not here: the rules of calls, retries and deadlines (``core``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from functools import partial
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
from .sockets import explain, tune_tcp
from .url import Address, parse_url

CONNECT_TIMEOUT = 10.0
"""Seconds for name lookup, connection and handshake."""
JOIN = 65536
"""Bytes up to which the buffers of one write are joined: copying them costs less than handing over each."""
HIGH_WATER = 1 << 20
"""Unsent bytes in the transport above which no more are given to it."""

monotonic = time.monotonic


async def connect(
    url: str,
    *,
    wait_for_ready: bool = False,
    timeout: float = CONNECT_TIMEOUT,  # noqa: ASYNC109 - covers the handshake, whose end is not this coroutine's alone
    max_reply: int = MAX_REPLY,
    capture: str | Path | None = None,
) -> Client:
    """Connect to ``tw://host:port`` or ``tw+unix:///path``; arguments and errors as for the blocking ``connect``."""
    client = Client(
        parse_url(url), wait_for_ready=wait_for_ready, timeout=timeout, max_reply=max_reply, capture=capture
    )
    try:
        await client.wait_connected(timeout)
    except BaseException:
        await client.close()
        raise
    return client


class AsyncCall(Call):
    """A call with the future that its outcome goes to."""

    __slots__ = ()

    waiter: asyncio.Future[Result | None]

    def notify(self) -> None:
        """Wake who awaits it."""
        future = self.waiter
        if future is not None and not future.done():
            if self.error is None or self.kind == STREAM:
                future.set_result(self.outcome)
            else:
                future.set_exception(self.error)


class Client:
    """A connection to one server, made again when it is lost. Made by :func:`connect`; an async context manager.

    Belongs to the event loop it was made in; not thread-safe.
    """

    def __init__(
        self,
        address: Address,
        *,
        wait_for_ready: bool = False,
        timeout: float = CONNECT_TIMEOUT,
        max_reply: int = MAX_REPLY,
        capture: str | Path | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._address = address
        self._connect_timeout = timeout
        self._capture = open_capture(capture)
        self._core = ClientCore(
            AsyncCall,
            address=str(address),
            wait_for_ready=wait_for_ready,
            max_reply=max_reply,
            capture=self._capture,
        )
        self._wires: set[_Wire] = set()
        self._wire: _Wire | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = FOREVER
        self._generation = generation[0]

    # --- verbs -------------------------------------------------------------------------------------------------------

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str = "",
        deadline: float | None = None,
        timing: bool = False,
        priority: int = 0,
    ) -> Result:
        """Run ``model`` on ``inputs``: output name -> read-only array. Arguments and errors as for the blocking client.

        Cancelling the awaiting task cancels the call at the server.
        """
        call = self._start(model, inputs, version, deadline, timing, priority, UNARY)
        try:
            return await call.waiter  # type: ignore[return-value]  # a unary call's outcome is a Result
        except asyncio.CancelledError:
            self.cancel(call)
            raise

    def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str = "",
        deadline: float | None = None,
        timing: bool = False,
        priority: int = 0,
    ) -> asyncio.Future[Result]:
        """Start a call without a task for it; ``await`` the future now or later, or cancel it. Leaves with this turn of
        the loop.

        The arrays must not be changed until the call is done.
        """
        call = self._start(model, inputs, version, deadline, timing, priority, UNARY)
        future = cast("asyncio.Future[Result]", call.waiter)
        future.add_done_callback(partial(self._let_go, call))
        return future

    async def ping(self, *, deadline: float | None = None) -> float:
        """Seconds to the server and back, without a model."""
        return await self._control(PING, deadline)

    async def models(self, *, deadline: float | None = None) -> ModelList:
        """What the server serves."""
        return services.read_models(await self.infer(services.MODELS, services.ask_models(), deadline=deadline))

    async def describe(self, model: str, *, version: str = "", deadline: float | None = None) -> Description:
        """Inputs, outputs and limits of a model."""
        question = services.ask_describe(model, version)
        return services.read_description(await self.infer(services.DESCRIBE, question, deadline=deadline))

    async def health(self, model: str = "", *, deadline: float | None = None) -> HealthReport:
        """How a model is, or the server as a whole (""): with forward progress, not just that the process lives."""
        question = services.ask_health(model, watch=False)
        return services.read_health(await self.infer(services.HEALTH, question, deadline=deadline))

    async def watch_health(self, model: str = "") -> AsyncGenerator[HealthReport, None]:
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
                    await call.waiter
                    call.waiter = self.loop.create_future()
        finally:
            self.cancel(call)

    async def close(self) -> None:
        """Say goodbye and close the connection; calls under way fail with :class:`ClientClosed`. May be repeated."""
        now = monotonic()
        self._core.close(now)
        if self._timer is not None:
            self._timer.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
        wires = list(self._wires)
        for wire in wires:
            wire.link.close("the client was closed under the call", now)
            wire.flush()
        for wire in wires:
            await wire.gone
        if self._capture is not None:
            self._capture.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- calls -------------------------------------------------------------------------------------------------------

    async def wait_connected(self, timeout: float) -> None:  # noqa: ASYNC109 - becomes the call's deadline
        """Wait until the handshake is done. Raises :class:`ConnectFailed`."""
        try:
            await self._control(CONNECT, timeout)
        except DeadlineExceeded as error:
            raise ConnectFailed(f"cannot connect to {self._address}: {error}", not_started=True) from None

    def cancel(self, call: AsyncCall) -> None:
        """Give ``call`` up and tell the server; nothing happens where it is done."""
        if not call.finished:
            call.waiter.cancel()
            link = call.link
            self._core.cancel(call, monotonic())
            for wire in self._wires:
                if wire.link is link:
                    wire.schedule()

    def _let_go(self, call: AsyncCall, future: asyncio.Future[Result]) -> None:
        if future.cancelled():
            self.cancel(call)

    def _start(
        self,
        model: str,
        inputs: Mapping[str, Any],
        version: str,
        deadline: float | None,
        timing: bool,
        priority: int,
        kind: int,
    ) -> AsyncCall:
        if self._generation != generation[0]:
            check_fork(self._generation)
        call = self._core.infer(model, inputs, version, deadline, timing, priority, monotonic(), kind)
        call.waiter = self.loop.create_future()
        if call.finished:
            call.notify()
        wire = self._wire
        if wire is not None and call.link is wire.link:
            if not wire.scheduled:
                wire.schedule()
        else:
            self.ensure_connection()
        if deadline is not None and call.deadline < self._timer_at:
            self.arm_timer()
        return call

    async def _control(self, kind: int, deadline: float | None) -> float:
        check_fork(self._generation)
        call = self._core.control(kind, deadline, monotonic())
        call.waiter = self.loop.create_future()
        if call.finished:
            call.notify()
        self.ensure_connection()
        self.arm_timer()
        if self._wire is not None:
            self._wire.schedule()
        try:
            await call.waiter
        except asyncio.CancelledError:
            self.cancel(call)
            raise
        return call.finished_at - call.opened_at

    # --- time --------------------------------------------------------------------------------------------------------

    def arm_timer(self) -> None:
        """See to it that the loop wakes the core in time."""
        due = self._core.next_timer()
        if due < self._timer_at and not self._core.closed:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self.loop.call_later(max(0.0, due - monotonic()), self._ring)

    def _ring(self) -> None:
        self._timer_at = FOREVER
        self._timer = None
        self._core.run_timers(monotonic())
        for wire in list(self._wires):
            wire.schedule()
        self.ensure_connection()
        self.arm_timer()

    # --- connections -------------------------------------------------------------------------------------------------

    def ensure_connection(self) -> None:
        """Dial where calls wait for a connection and none is being made."""
        if self._dialling is None and self._core.next_dial() != FOREVER:
            self._dialling = self.loop.create_task(self._dial())
            self._dialling.add_done_callback(self._dialled)

    def _dialled(self, task: asyncio.Task[None]) -> None:
        self._dialling = None
        if not task.cancelled():
            task.result()
            self.ensure_connection()

    async def _dial(self) -> None:
        core = self._core
        while (at := core.next_dial()) != FOREVER:
            delay = at - monotonic()
            if delay > 0.0:
                await asyncio.sleep(delay)
                continue
            try:
                async with asyncio.timeout(self._connect_timeout):
                    await self._open_transport()
            except OSError as error:
                core.dial_failed(explain(error, self._address), monotonic())

    async def _open_transport(self) -> None:
        address = self._address
        if address.is_unix:
            await self.loop.create_unix_connection(partial(_Wire, self), address.path)
        else:
            await self.loop.create_connection(partial(_Wire, self), address.host, address.port)

    def wire_made(self, wire: _Wire) -> Link:
        """A transport is connected: the link it is to drive."""
        self._wires.add(wire)
        self._wire = wire
        link = self._core.dialled(monotonic())
        self.arm_timer()
        return link

    def wire_lost(self, wire: _Wire) -> None:
        """A transport is gone."""
        self._wires.discard(wire)
        if self._wire is wire:
            self._wire = None
        self.ensure_connection()

    def settle(self, wire: _Wire) -> None:
        """After bytes came in: answer, keep time, reconnect."""
        link = wire.link
        if link.has_output or link.finished:
            wire.schedule()
        if self._core.next_timer() < self._timer_at:
            self.arm_timer()
        if not link.ready:
            self.ensure_connection()


class _Wire(asyncio.BufferedProtocol):
    """One transport and the link it drives."""

    __slots__ = ("_client", "_joins", "_paused", "_transport", "gone", "link", "scheduled")

    link: Link
    _transport: asyncio.Transport

    def __init__(self, client: Client) -> None:
        self._client = client
        self._paused = False
        self._joins = sys.version_info < (3, 12) and not type(client.loop).__module__.startswith("uvloop")
        self.scheduled = False
        self.gone: asyncio.Future[None] = client.loop.create_future()

    # --- called by the transport -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        if transport.get_extra_info("peername") and not isinstance(transport.get_extra_info("peername"), (str, bytes)):
            tune_tcp(transport.get_extra_info("socket"))
        self.link = self._client.wire_made(self)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the core knows better
        return self.link.next_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.link.received(nbytes, monotonic())
        self._client.settle(self)

    def eof_received(self) -> bool:
        self.link.eof(monotonic())
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        reason = getattr(exc, "strerror", None) or (str(exc) if exc else "the server closed the connection")
        self.link.lost(reason, monotonic())
        self._client.wire_lost(self)
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    # --- writing -----------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Write at the end of this turn of the loop, together with whatever else it starts."""
        if not self.scheduled:
            self.scheduled = True
            self._client.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Give the transport what the link has to say, until one of them has enough."""
        self.scheduled = False
        link, transport, now = self.link, self._transport, monotonic()
        while not self._paused:
            buffers = link.data_to_send(now)
            if not buffers:
                if link.finished:
                    transport.close()
                return
            if len(buffers) == 1:
                transport.write(buffers[0])
            elif sum(map(len, buffers)) <= JOIN:
                transport.write(b"".join(buffers))
            elif self._joins:
                for buffer in buffers:
                    transport.write(buffer)
            else:
                transport.writelines(buffers)
