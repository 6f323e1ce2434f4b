"""The service calls `$models`, `$describe` and `$health` (SPEC 16): what the server says about itself.

They are ordinary calls whose one tensor carries msgpack. A watch is a server stream: one message at once and one per
change, until the client cancels or the connection ends. Nothing here is on the hot path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ... import __version__
from ...codec import (
    CodecError,
    DescribeRequest,
    Description,
    Encoder,
    Health,
    HealthReport,
    HealthRequest,
    ImageHints,
    Kind,
    ModelEntry,
    ModelList,
    Ready,
    State,
    unpack_service,
)
from ...codec.errors import shown
from ...codec.strict_msgpack import Fields
from ...protocol import Status, pack_extension
from ...protocol.header import END_STREAM
from ..engine.redaction import without_folders
from .calls import body_length_text

if TYPE_CHECKING:
    from ...codec import Resolved
    from ..engine.spec import ImageHint
    from ..registry import Served
    from .front import Front
    from .principals import Principal
    from .session import Session

WATCH_INTERVAL = 0.2
"""Seconds between looks at a watched model; a prober that wants it faster calls instead of watching."""

MAX_WATCHES = 16
"""Watches open on one connection: each looks at every model it asked for five times a second."""

PIXEL = 255.0
"""A model folder states mean and std in pixel units, the wire in units of full scale."""

_PAYLOAD = "payload"


class Packed(Protocol):
    """A reply that can be sent."""

    def pack(self) -> bytes:
        """Its msgpack."""


class BadRequest(Exception):  # noqa: N818 - an outcome: the caller gets `status` and the text
    """A service call that cannot be answered."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class Watch:
    """One open `$health` watch: looks at the models every WATCH_INTERVAL and sends what changed."""

    __slots__ = ("_last", "_models", "_services", "_session", "_stream_id", "done")

    def __init__(self, services: Services, session: Session, stream_id: int, models: list[Served]) -> None:
        self._services = services
        self._session = session
        self._stream_id = stream_id
        self._models = models
        self._last: list[tuple[State, str]] = []
        self.done = False

    def expired(self, now: float) -> None:
        """Look again, tell the client if something changed, and ask to be called in WATCH_INTERVAL seconds."""
        self._services.front.deadlines.add(now + WATCH_INTERVAL, self)
        report = self._services.report(self._models, now)
        states = [(health.state, health.detail) for health in report.models]
        if states != self._last:
            self._last = states
            self._services.reply(self._session, self._stream_id, "$health", report, flags=0)
            self._session.flush()

    def stop(self) -> None:
        """The stream is over."""
        self.done = True
        self._services.front.deadlines.finished()


class Services:
    """Answers service calls from what the registry knows."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self._encoder = Encoder()
        self._handlers: dict[str, Callable[[Session, int, memoryview], Packed | None]] = {
            "$models": self._models,
            "$describe": self._describe,
            "$health": self._health,
        }

    def ready(self, principal: Principal) -> bytes:
        """The READY map (SPEC 9.8)."""
        limits = {"max_message": self.front.settings.message_limit, "max_streams": self.front.settings.max_streams}
        return Ready(
            principal.name,
            models=principal.scope.models,
            server_name="tensorwire",
            server_version=__version__,
            rate=principal.scope.rate,
            limits=limits,
        ).pack()

    def call(self, session: Session, stream_id: int, resolved: Resolved, body: memoryview) -> None:
        """Answer one service call, or end it with what was wrong."""
        try:
            handler = self._handlers.get(resolved.model)
            if handler is None:
                known = ", ".join(self._handlers)
                raise BadRequest(Status.NOT_FOUND, f"no service {shown(resolved.model)}; there are {known}")
            _check_payload(resolved, body)
            report = handler(session, stream_id, body)
            if report is not None:
                sent = self.reply(session, stream_id, resolved.model, report, END_STREAM)
                if self.front.audit is not None:
                    self.front.audit.service(session, stream_id, resolved.model, sent, len(body))
        except BadRequest as refusal:
            session.end(stream_id, refusal.status, str(refusal), asked=(resolved.model, ""))
        except CodecError as error:
            session.end(stream_id, Status.INVALID_ARGUMENT, str(error), asked=(resolved.model, ""))

    def reply(self, session: Session, stream_id: int, service: str, report: Packed, flags: int) -> int:
        """Queue one reply message; the caller flushes. The bytes of its body."""
        encoded = self._encoder.encode(service, "", {_PAYLOAD: np.frombuffer(report.pack(), np.uint8)})
        session.connection.send(
            stream_id, encoded.meta, pack_extension(dims=encoded.dims), encoded.buffers, encoded.body_length, flags
        )
        return encoded.body_length

    def report(self, models: list[Served], now: float) -> HealthReport:
        """The health of these models."""
        return HealthReport(tuple(_model_health(served, now, draining=self.front.draining) for served in models))

    # -- the calls -------------------------------------------------------------------------------------------------

    def _models(self, session: Session, _stream_id: int, body: memoryview) -> ModelList:
        Fields(unpack_service(body), "$models")  # a map of nothing that this version knows
        return ModelList(
            tuple(
                ModelEntry(served.spec.name, served.spec.version, State(served.engine.health().state.name.lower()))
                for served in self.front.registry.all(session.principal.sees)
            )
        )

    def _describe(self, session: Session, _stream_id: int, body: memoryview) -> Description:
        request = DescribeRequest.unpack(body)
        description = _description(self._find(session.principal, request.model, request.version))
        try:
            description.pack()
        except CodecError:  # more labels than a service message holds: they are a hint, the signature is not
            description = replace(description, labels=())
        return description

    def _health(self, session: Session, stream_id: int, body: memoryview) -> HealthReport | None:
        request = HealthRequest.unpack(body)
        principal = session.principal
        if request.model:
            models = [self._find(principal, request.model, "")]
        else:
            models = list(self.front.registry.all(principal.sees))
        if not request.watch:
            return self.report(models, monotonic())
        if len(session.watches) >= MAX_WATCHES:
            text = (
                f"{MAX_WATCHES} watches are open, as many as one connection may have; cancel one, or watch all models"
            )
            raise BadRequest(Status.RESOURCE_EXHAUSTED, text)
        watch = session.watches[stream_id] = Watch(self, session, stream_id, models)
        watch.expired(monotonic())
        return None

    def _find(self, principal: Principal, name: str, version: str) -> Served:
        served = self.front.registry.find(name, version, principal.sees)
        if served is None:
            raise BadRequest(Status.NOT_FOUND, self.front.registry.explain_missing(name, version, principal.sees))
        return served


def _check_payload(resolved: Resolved, body: memoryview) -> None:
    if len(body) != resolved.body_length:
        raise BadRequest(Status.INVALID_ARGUMENT, body_length_text(len(body), resolved.body_length))
    tensors = resolved.tensors
    if [(t.name, t.dtype.name, t.kind, len(t.shape)) for t in tensors] != [(_PAYLOAD, "uint8", Kind.DENSE, 1)]:
        sent = ", ".join(f"{shown(tensor.name)} {tensor}" for tensor in tensors[:4]) or "none"
        raise BadRequest(
            Status.INVALID_ARGUMENT, f"a service call carries one tensor, 'payload' uint8[-1] with msgpack; sent {sent}"
        )


def _model_health(served: Served, now: float, *, draining: bool) -> Health:
    health = served.engine.health()
    return Health(
        model=served.spec.name,
        version=served.spec.version,
        state=State(health.state.name.lower()),
        queue_depth=health.queue_depth,
        last_progress=max(0.0, now - health.last_progress) if health.last_progress else 0.0,
        effective_max_batch=served.engine.effective_max_batch,
        restarts=getattr(served.engine, "restarts", 0),
        detail="the server is draining" if draining else without_folders(health.detail)[:1024],
    )


def _description(served: Served) -> Description:
    spec = served.spec
    return Description(
        model=spec.name,
        version=spec.version,
        backend=spec.backend,
        engine=served.placement,
        device=spec.device,
        max_batch=spec.max_batch,
        inputs=spec.inputs,
        outputs=spec.outputs,
        images={image.input: _image_hints(image) for image in spec.images},
        labels=spec.labels,
    )


def _image_hints(image: ImageHint) -> ImageHints:
    return ImageHints(
        size=image.size,
        mean=tuple(value / PIXEL for value in image.mean),
        std=tuple(value / PIXEL for value in image.std),
        layout=image.layout,
        resize=image.resize,
    )
