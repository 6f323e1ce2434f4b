"""The server process: builds pool, models, front, listener and admin port, runs until told to stop, and drains.

Order matters and is all here: nobody may connect before every model is loaded, and nothing is taken down before the
last call is over. What each part does is in its own module.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop

from ..gpu import SlabPool
from ..protocol.capture import CaptureWriter
from ..protocol.safe_text import masked
from ..version import __version__
from .admin_pages import admin_pages
from .engine.api import HealthState
from .engine.fork_guard import leave_to_parent
from .front.admin import AdminServer
from .front.front import Front
from .front.key_watch import KeyWatch
from .front.listener import Listener, ListenError
from .front.listener_policy import ListenerPolicy, make_policy
from .front.timers import Timer, Timers
from .front.tls_layer import tls_connections
from .key_file import KeyFileError
from .keys import KeyStore
from .line_writer import CLOSE_TIMEOUT
from .logs import configure_logs, get_logger, tell_left_out
from .model_loader import ModelLoader, ModelLoadError, scan_models
from .registry import Registry
from .settings import Settings
from .signals import STOPPING, Signals
from .standard import StandardStreams, standard_streams
from .start_checks import StartError, check_access, open_audit
from .tls import CertificateError, Certificates

HOUSEKEEPING = 0.5
"""Seconds between looks at quiet engines, whose idle memory then goes back to the pool."""

LAST_WORDS = 0.2
"""Seconds that the log gets when a second signal ends the process."""

log = get_logger("server")


class Server:
    """One server: `start`, then `stop`; `addresses` and `admin_url` tell where it is."""

    def __init__(self, models_dir: Path, settings: Settings) -> None:
        self.settings = settings.from_here()
        self._models_dir = models_dir
        self.registry = Registry()
        self.chores: list[Callable[[], object]] = []
        """Done at every HOUSEKEEPING."""
        self.busy: Callable[[], AbstractContextManager[object]] = nullcontext
        """Around what keeps the loop for long."""
        self._key_watch: KeyWatch | None = None
        self.certificates: Certificates | None = None
        self.addresses: list[str] = []
        self.admin_url = ""

    async def start(self) -> None:
        """Load every model, then listen. Raises StartError."""
        settings = self.settings
        check_access(settings)
        self._loop = asyncio.get_running_loop()
        self._pool = SlabPool(int(settings.pool_bytes), keep=int(settings.pool_keep_bytes))
        try:
            self._capture = None if settings.capture is None else CaptureWriter(settings.capture)
        except OSError as error:
            raise StartError(
                f"capture: {error.filename!r}: {error.strerror}; give a file that can be written"
            ) from None
        try:
            keys = None if settings.keys is None else KeyStore(settings.keys)
        except KeyFileError as error:
            raise StartError(str(error)) from None
        self._keys = keys
        self._timers = timers = Timers(self._loop.call_later, monotonic)
        self._audit = open_audit(settings, timers, self._loop)
        self.front = front = Front(
            settings,
            self._loop,
            timers,
            self.registry,
            self._pool,
            audit=self._audit,
            capture=self._capture,
            keys=keys,
        )
        self._loader = ModelLoader(
            self._loop,
            self._pool,
            front.dispatcher.wake,
            front.metrics.model,
            front.dispatcher.attach,
            settings.load_timeout,
            self.busy,
            run_limit=settings.run_limit,
            result_bytes=settings.result_memory,
        )
        self._listeners: list[Listener] = []
        self._admin = AdminServer(admin_pages(front.metrics, front.connections, self.registry))
        self._keep_house(monotonic())
        try:
            for spec in scan_models(self._models_dir, settings.link_roots):
                self.registry.add(await self._loader.load(spec, settings.engine or spec.engine))
            await self._listen()
        except (ModelLoadError, CertificateError, ListenError, OSError) as error:
            await self.stop(0.0)
            raise StartError(str(error)) from error

    async def _listen(self) -> None:
        settings = self.settings
        guarded = self._keys is not None
        if settings.tcp:
            await self._behind(make_policy(settings, "tcp", keys=guarded)).listen_tcp(
                settings.host,
                settings.port,
                settings.backlog,
                settings.low_water,
                guarded=not settings.insecure,
            )
        await self._listen_tls()
        if settings.unix is not None:
            await self._behind(make_policy(settings, "unix", keys=guarded)).listen_unix(settings.unix, settings.backlog)
        self.addresses = [address for listener in self._listeners for address in listener.addresses]
        if not self.addresses:
            raise ListenError("nothing to listen on: TCP is off and there is no --unix PATH")
        if settings.admin:
            await self._admin.listen(settings.admin_host, settings.admin_port)
            self.admin_url = self._admin.url
        if self._keys is not None:
            self._key_watch = KeyWatch(self.front.context, self.front.connections, self._keys, monotonic())

    async def _listen_tls(self) -> None:
        settings = self.settings
        if settings.tls_port is None or settings.tls_cert is None or settings.tls_key is None:
            return
        self.certificates = certificates = Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        keys = self._keys is not None
        policy = make_policy(settings, "tls", certificates.binding, settings.tls_principals, keys=keys)
        listener = Listener(tls_connections(certificates, partial(self.front.make_protocol, policy)))
        self._listeners.append(listener)
        await listener.listen_tcp(
            settings.host,
            settings.tls_port,
            settings.backlog,
            settings.low_water,
            guarded=True,
            scheme="tws",
        )

    def _behind(self, policy: ListenerPolicy) -> Listener:
        """Make a listener to whose connections `policy` applies."""
        listener = Listener(partial(self.front.make_protocol, policy))
        self._listeners.append(listener)
        return listener

    def reload(self) -> None:
        """Read the files of keys and certificates again, whether they seem to have changed or not."""
        if self._key_watch is not None:
            self._key_watch.look(monotonic(), again=True)
        if self._audit is not None:
            self._audit.reopen()
        if self.certificates is not None:
            self.certificates.reload()

    async def stop(self, patience: float) -> bool:
        """Stop accepting, finish calls for at most `patience` seconds, unload. False if some were cut off."""
        for listener in self._listeners:
            listener.close()
        clean = await self.front.drain(patience)
        for model in list(self._loader.models):
            self._loader.unload(model)
        self._timers.close()
        self._admin.close()
        if self._capture is not None:
            with suppress(OSError):  # a full disk was told when it came
                self._capture.close()
        if self._audit is not None:
            self._audit.close()
        return clean

    async def give_up(self, starting: asyncio.Task[None]) -> None:
        """Stop while `start` is under way."""
        await asyncio.sleep(0)  # it has begun then: there is something to stop
        starting.cancel()
        with suppress(asyncio.CancelledError, StartError):
            await starting
        await self.stop(0.0)

    def descriptors(self) -> list[int]:
        """Return those of every socket of ours, for a model's child to leave alone."""
        listening = [descriptor for listener in self._listeners for descriptor in listener.descriptors()]
        return [*listening, *self._admin.descriptors(), *self.front.connections.descriptors()]

    def forked(self) -> None:
        """Be no server any more, but a model's child, whatever it comes back from."""
        self.front.dispatcher.forked = True

    def describe(self) -> str:
        """Say in one line, for people, where the server is and what it serves."""
        models = ", ".join(f"{s.spec.name}/{s.spec.version} ({s.placement})" for s in self.registry.all())
        admin = f", admin {self.admin_url}" if self.admin_url else ""
        return masked(f"tensorwire {__version__} ready on {' and '.join(self.addresses)}{admin}: {models}")

    def _keep_house(self, now: float) -> None:
        self._timers.add(now + HOUSEKEEPING, Timer(self._keep_house))
        if self.certificates is not None:
            self.certificates.reload_if_changed()
        for chore in self.chores:
            chore()
        for model in self.registry.all():
            if model.engine.health().state is HealthState.IDLE:
                model.engine.trim()


async def serve(models_dir: Path, settings: Settings, streams: StandardStreams) -> int:
    """Run until SIGTERM or SIGINT, then drain. Raises StartError.

    Returns the signal if it came before the server was ready, else 0.
    """
    stopping = asyncio.Event()
    told = 0

    def stop(number: int) -> None:
        nonlocal told
        if stopping.is_set():  # asked twice: no more patience
            streams.close(LAST_WORDS)
            os._exit(128 + number)
        told = number
        stopping.set()

    loop = asyncio.get_running_loop()
    server = Server(models_dir, settings)
    actions: dict[int, Callable[[], object]] = {number: partial(stop, number) for number in STOPPING}
    signals = Signals(loop, {**actions, signal.SIGHUP: server.reload})
    server.chores += [streams.tell, tell_left_out, signals.keep]
    loop.set_exception_handler(_told)
    server.busy = signals.by_default
    leave_to_parent(lambda: signals.handlers, server.descriptors, server.forked)
    starting = loop.create_task(server.start())
    waiting = loop.create_task(stopping.wait())
    await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        log.info("stopped before it was ready", signal=signal.Signals(told).name)
        await server.give_up(starting)
        return told
    try:
        starting.result()
    finally:
        waiting.cancel()
    gc.collect()
    gc.freeze()  # what start-up made stays: the collector need not look through it, for milliseconds, between two calls
    if not stopping.is_set():
        streams.out.write(server.describe() + "\n")
    await stopping.wait()
    log.info("draining", signal=signal.Signals(told).name, seconds=settings.drain_timeout)
    clean = await server.stop(settings.drain_timeout)
    log.info("stopped", clean=clean)
    return 0


def _told(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what the loop ran that raised; by itself it asks the standard library, which a model may have silenced."""
    log.error(context["message"], exc_info=context.get("exception"))


def run(models_dir: Path, settings: Settings) -> None:
    """Run a server in this process until it is told to stop. Raises StartError.

    A signal that comes before the server is ready ends the process, as it ends one that does not handle it.
    """
    with standard_streams(CLOSE_TIMEOUT) as streams:
        configure_logs(settings.log_format, settings.log_level, streams.log)  # guard: log-not-taken
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            number = runner.run(serve(models_dir, settings, streams))
        _end_children()
    if number:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _end_children() -> None:
    """Kill what models on the loop have started by multiprocessing: nobody else will, or at its own pace."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            child.kill()
