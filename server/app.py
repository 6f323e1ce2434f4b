"""The server process: builds pool, models, front, listener and admin port, runs until told to stop, and drains.

Order matters and is all here: nobody may connect before every model is loaded, and nothing is taken down before the
last call is over. What each part does is in its own module.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from time import monotonic

import uvloop

from .. import __version__
from ..gpu import SlabPool
from ..protocol.capture import CaptureWriter
from ..protocol.masking import masked
from .engine.api import Engine, HealthState
from .engine.fork_guard import leave_to_parent
from .engine.spec import ModelSpec
from .front.admin import AdminServer, Page
from .front.audit import Audit
from .front.audit_file import AuditFile
from .front.calls import SessionTimer
from .front.doors import Door
from .front.front import Front
from .front.key_watch import KeyWatch
from .front.lines import CLOSE_TIMEOUT
from .front.listener import Listener, ListenError, check_address
from .front.logs import configure_logs, get_logger
from .front.mask import Mask, read_salt
from .front.tls_layer import tls_connections
from .key_file import KeyFileError
from .keys import KeyStore
from .placement import PlacementError, Placer
from .registry import Registry, RegistryError, Served, scan_models
from .settings import Settings
from .signals import STOPPING, Signals
from .standard import StandardStreams, standard_streams
from .tls import Certificates

HOUSEKEEPING = 0.5
"""Seconds between looks at quiet engines, whose idle memory then goes back to the pool."""

LAST_WORDS = 0.2
"""Seconds that the log gets when a second signal ends the process."""

log = get_logger("server")


class StartError(Exception):
    """The server cannot start; the message says why and what to do. A key given for something else is not shown."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


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
        self._loading: dict[tuple[str, str], Served] = {}
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
        self.front = Front(settings, self._loop, self.registry, self._pool, self._capture, keys)
        self._open_audit()
        self._placer = Placer(
            self._loop,
            self._pool,
            self.front.wake,
            settings.load_timeout,
            self.busy,
            run_limit=settings.run_limit,
            result_bytes=settings.result_memory,
        )
        self._listeners: list[Listener] = []
        self._admin = AdminServer(
            {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz, "/models": self._models}
        )
        self._keep_house(monotonic())
        try:
            for spec in scan_models(self._models_dir):
                await self._load(spec)
            await self._listen()
        except (RegistryError, ListenError, PlacementError, OSError) as error:
            await self.stop(0.0)
            raise StartError(str(error)) from error

    def _open_audit(self) -> None:
        settings, front = self.settings, self.front
        if settings.audit is None:
            return
        try:
            salt = b"" if settings.audit_salt is None else read_salt(settings.audit_salt)
            file = AuditFile(settings.audit)
        except OSError as error:
            raise StartError(
                f"audit log: {error.filename!r}: {error.strerror}; give a file that can be read or written"
            ) from None
        except ValueError as error:
            raise StartError(str(error)) from None
        front.audit = Audit(file, front.deadlines, self._loop.call_soon, Mask(settings.masked, salt))

    async def _load(self, spec: ModelSpec) -> None:
        began = monotonic()
        await self._placer.place(spec, self.settings.engine or spec.engine, partial(self._attach, spec))
        served = self._loading[spec.name, spec.version]
        self.registry.add(served)
        log.info(
            "model loaded",
            model=spec.name,
            version=spec.version,
            engine=served.placement,
            max_batch=served.engine.effective_max_batch,
            seconds=round(monotonic() - began, 3),
        )
        for remark in served.engine.remarks:
            log.warning(remark, model=spec.name, version=spec.version)

    def _attach(self, spec: ModelSpec, engine: Engine, placement: str) -> None:
        served = Served(spec, engine, placement, self.front.metrics.model(spec.name, spec.version))
        self._loading[spec.name, spec.version] = served
        engine.sink = partial(self.front.complete, served)

    async def _listen(self) -> None:
        settings = self.settings
        if settings.tcp:
            await self._behind(self.front.door("tcp")).listen_tcp(
                settings.host,
                settings.port,
                settings.backlog,
                settings.low_water,
                guarded=not settings.insecure,
            )
        await self._listen_tls()
        if settings.unix is not None:
            await self._behind(self.front.door("unix")).listen_unix(settings.unix, settings.backlog)
        self.addresses = [address for listener in self._listeners for address in listener.addresses]
        if not self.addresses:
            raise ListenError("nothing to listen on: TCP is off and there is no --unix PATH")
        if settings.admin:
            await self._admin.listen(settings.admin_host, settings.admin_port)
            self.admin_url = self._admin.url
        if self.front.keys is not None:
            self._key_watch = KeyWatch(self.front, self.front.keys, monotonic())

    async def _listen_tls(self) -> None:
        settings = self.settings
        if settings.tls_port is None or settings.tls_cert is None or settings.tls_key is None:
            return
        self.certificates = certificates = Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        door = self.front.door("tls", certificates.binding, settings.tls_principals)
        listener = Listener(tls_connections(certificates, partial(self.front.make_protocol, door)))
        self._listeners.append(listener)
        await listener.listen_tcp(
            settings.host,
            settings.tls_port,
            settings.backlog,
            settings.low_water,
            guarded=True,
            scheme="tws",
        )

    def _behind(self, door: Door) -> Listener:
        """A listener whose connections come by `door`."""
        listener = Listener(partial(self.front.make_protocol, door))
        self._listeners.append(listener)
        return listener

    def reload(self) -> None:
        """Read the files of keys and certificates again, whether they seem to have changed or not."""
        if self._key_watch is not None:
            self._key_watch.look(monotonic(), again=True)
        if self.front.audit is not None:
            self.front.audit.reopen()
        if self.certificates is not None:
            self.certificates.reload()

    async def stop(self, patience: float) -> bool:
        """Stop accepting, finish calls for at most `patience` seconds, unload. False if some were cut off."""
        for listener in self._listeners:
            listener.close()
        clean = await self.front.drain(patience)
        for served in self._loading.values():
            self._placer.remove(served.engine)
        self.front.deadlines.close()
        self._admin.close()
        if self._capture is not None:
            with suppress(OSError):  # a full disk was told when it came
                self._capture.close()
        if self.front.audit is not None:
            self.front.audit.close()
        return clean

    async def give_up(self, starting: asyncio.Task[None]) -> None:
        """Stop while `start` is under way."""
        await asyncio.sleep(0)  # it has begun then: there is something to stop
        starting.cancel()
        with suppress(asyncio.CancelledError, StartError):
            await starting
        await self.stop(0.0)

    def descriptors(self) -> list[int]:
        """Every socket of ours, for a model's child to leave alone."""
        listening = [descriptor for listener in self._listeners for descriptor in listener.descriptors()]
        return [*listening, *self._admin.descriptors(), *self.front.descriptors()]

    def forked(self) -> None:
        """This is a model's child now: whatever it comes back from, it is no server."""
        self.front.forked = True

    def describe(self) -> str:
        """One line for people: where the server is and what it serves."""
        models = ", ".join(f"{s.spec.name}/{s.spec.version} ({s.placement})" for s in self.registry.all())
        admin = f", admin {self.admin_url}" if self.admin_url else ""
        return masked(f"tensorwire {__version__} ready on {' and '.join(self.addresses)}{admin}: {models}")

    def _keep_house(self, now: float) -> None:
        self.front.deadlines.add(now + HOUSEKEEPING, SessionTimer(self._keep_house))
        if self.certificates is not None:
            self.certificates.reload_if_changed()
        for chore in self.chores:
            chore()
        for served in self.registry.all():
            if served.engine.health().state is HealthState.IDLE:
                served.engine.trim()

    # -- admin pages -----------------------------------------------------------------------------------------------

    def _metrics(self) -> Page:
        return Page(self.front.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")

    def _healthz(self) -> Page:
        return Page(b"ok\n")  # the loop answers: that is what this page is about

    def _readyz(self) -> Page:
        states = {f"{s.spec.name}/{s.spec.version}": s.engine.health() for s in self.registry.all()}
        ready = bool(states) and all(health.ready for health in states.values()) and not self.front.draining
        lines = [f"{name} {health.state.name.lower()}" for name, health in states.items()]
        if self.front.draining:
            lines.append("draining")
        return Page(("\n".join(lines) + "\n").encode(), status=200 if ready else 503)

    def _models(self) -> Page:
        models = [
            {
                "name": s.spec.name,
                "version": s.spec.version,
                "engine": s.placement,
                "device": s.spec.device,
                "state": s.engine.health().state.name.lower(),
                "queued": s.engine.queue_depth,
                "max_batch": s.spec.max_batch,
                "effective_max_batch": s.engine.effective_max_batch,
                "batch_with": s.engine.batch_with,
            }
            for s in self.registry.all()
        ]
        return Page(json.dumps(models, indent=2).encode() + b"\n", "application/json")


def check_access(settings: Settings) -> None:
    """Whether nobody can call who should not. Raises StartError that says what to do."""
    certified = settings.tls_principals and not settings.tcp and settings.unix is None
    if settings.keys is None and not settings.insecure and not certified:
        raise StartError(
            "there is no key file, so that nobody could call: make a key with `tensorwire keys new --principal NAME "
            "keys.toml` and add --keys keys.toml; or, for trying on this machine only, add --insecure"
        )
    if settings.insecure and settings.tcp:
        try:
            check_address(settings.host, guarded=False)
        except ListenError as error:
            raise StartError(f"--insecure: {error}") from None


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
    server.chores += [streams.tell, signals.keep]
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


def run(models_dir: Path, settings: Settings) -> None:
    """Run a server in this process until it is told to stop. Raises StartError.

    A signal that comes before the server is ready ends the process, as it ends one that does not handle it.
    """
    with standard_streams(CLOSE_TIMEOUT) as streams:
        configure_logs(settings.log_format, settings.log_level, streams.log)
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
