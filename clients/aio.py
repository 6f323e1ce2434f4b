"""The asyncio client: ``await tensorwire.aio.connect(url)``; the verbs of the blocking client, awaitable.

No task and no timer per call. Works on asyncio's own loop and on uvloop.

Here: the verbs. Not here: futures and time (``aio_driver``), transports (``aio_wire``), rules (``core``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from .aio_driver import Driver
from .arguments import check_inputs, of_call, seconds, text
from .calls import CONNECT, PING, Call, ReplyQueue
from .core import CONNECT_TIMEOUT, MAX_REPLY
from .keys import KeySource
from .options import DEFAULTS, ClientOptions
from .results import Result
from .url import Address, parse_url

if TYPE_CHECKING:
    from pathlib import Path

    from ..codec import Description, HealthReport, ModelList


async def connect(
    url: str | None = None,
    *,
    key: KeySource | None = None,
    mac: str | Sequence[str] | None = None,
    tls_ca: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    wait_for_ready: bool = False,
    timeout: float = CONNECT_TIMEOUT,  # noqa: ASYNC109 - covers the handshake, whose end is not this coroutine's alone
    max_reply: int = MAX_REPLY,
    capture: str | Path | None = None,
) -> Client:
    """Connect to ``tw://host:port``, ``tws://host:port`` or ``tw+unix:///path``; arguments and errors as for the
    blocking ``connect``.

    A function given as ``key`` runs in a thread, so that it may take its time (at most ``timeout``).
    """
    options = ClientOptions(
        key=key,
        mac=mac,
        tls_ca=tls_ca,
        tls_cert=tls_cert,
        tls_key=tls_key,
        wait_for_ready=wait_for_ready,
        timeout=timeout,
        max_reply=max_reply,
        capture=capture,
    )
    client = Client(parse_url(url), options)
    try:
        await client.wait_connected(timeout)
    except BaseException:
        await client.close()
        raise
    return client


class Client:
    """A connection to one server, made again when it is lost. Made by :func:`connect`; an async context manager.

    Belongs to the event loop it was made in; not thread-safe.
    """

    def __init__(self, address: Address, options: ClientOptions = DEFAULTS) -> None:
        self._driver = Driver(address, options)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str | None = "",
        deadline: float | None = None,
        timing: bool = False,
        priority: int = 0,
    ) -> Result:
        """Run ``model`` on ``inputs``: output name -> read-only array. Arguments and errors as for the blocking client.

        Cancelling the awaiting task cancels the call at the server.
        """
        if deadline is not None or timing is not False or type(priority) is not int:
            deadline, timing, priority = of_call(deadline, timing, priority)
        call = self._start(model, inputs, version, deadline, timing, priority)
        try:
            return cast("Result", await call.waiter)
        except asyncio.CancelledError:
            self._driver.cancel(call)
            raise

    def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str | None = "",
        deadline: float | None = None,
        timing: bool = False,
        priority: int = 0,
    ) -> asyncio.Future[Result]:
        """Start a call without a task for it; ``await`` the future now or later, or cancel it. Leaves with this turn of
        the loop.

        The arrays must not be changed until the call is done.
        """
        if deadline is not None or timing is not False or type(priority) is not int:
            deadline, timing, priority = of_call(deadline, timing, priority)
        call = self._start(model, inputs, version, deadline, timing, priority)
        future = cast("asyncio.Future[Result]", call.waiter)
        future.add_done_callback(partial(self._driver.let_go, call))
        return future

    def _start(
        self, model: str, inputs: Mapping[str, Any], version: str | None, deadline: Any, timing: bool, priority: int
    ) -> Call:
        if type(model) is not str or type(version) is not str:
            model, version = text("model", model), text("version", version)
        try:
            return self._driver.infer(model, inputs, version, deadline, timing, priority)
        except (TypeError, AttributeError):
            check_inputs(inputs)
            raise

    async def ping(self, *, deadline: float | None = None) -> float:
        """Seconds to the server and back, without a model."""
        call = await self._driver.control(PING, None if deadline is None else seconds("deadline", deadline))
        return call.finished_at - call.opened_at

    async def models(self, *, deadline: float | None = None) -> ModelList:
        """Return what the server serves."""
        from . import services

        return services.read_models(await self.infer(services.MODELS, services.ask_models(), deadline=deadline))

    async def describe(self, model: str, *, version: str | None = "", deadline: float | None = None) -> Description:
        """Return inputs, outputs and limits of a model."""
        from . import services

        question = services.ask_describe(text("model", model), text("version", version))
        return services.read_description(await self.infer(services.DESCRIBE, question, deadline=deadline))

    async def health(self, model: str = "", *, deadline: float | None = None) -> HealthReport:
        """How a model is, or the server as a whole (""): with forward progress, not just that the process lives."""
        from . import services

        question = services.ask_health(text("model", model), watch=False)
        return services.read_health(await self.infer(services.HEALTH, question, deadline=deadline))

    async def watch_health(self, model: str = "") -> AsyncGenerator[HealthReport, None]:
        """Yield the health now and whenever it changes; ends when the generator is closed."""
        from . import services

        driver, question = self._driver, services.ask_health(text("model", model), watch=True)
        replies = ReplyQueue()
        call = driver.infer(services.HEALTH, question, "", None, timing=False, priority=0, replies=replies)
        try:
            while True:
                reply = replies.take(call)
                if reply is not None:
                    yield services.read_health(reply)
                elif call.finished:
                    return
                else:
                    await driver.news(call)
        finally:
            driver.cancel(call)

    async def wait_connected(self, timeout: float) -> None:  # noqa: ASYNC109 - becomes the call's deadline
        """Wait until the handshake is done. Raises :class:`ConnectFailed`."""
        await self._driver.control(CONNECT, seconds("timeout", timeout))

    async def close(self) -> None:
        """Say goodbye and close the connection; calls under way fail with :class:`ClientClosed`. May be repeated."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
