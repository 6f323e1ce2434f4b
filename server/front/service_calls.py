"""The service calls `$models`, `$describe` and `$health` (SPEC 16): what the server says about itself.

They are ordinary calls whose one tensor carries msgpack. A watch is a server stream (health_watch.py). Nothing here is
on the hot path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Protocol

import numpy as np

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
    Resolved,
    State,
    unpack_service,
)
from ...codec.errors import shown
from ...codec.service import PAYLOAD
from ...codec.strict_msgpack import Fields
from ...protocol import Status, pack_extension
from ...protocol.header import END_STREAM
from ...version import __version__
from ..engine.redaction import without_folders
from ..engine.spec import ImageHint
from ..model import Model
from ..registry import Registry
from ..settings import Settings
from .audit import Audit
from .call import body_length_text
from .call_table import CallTable
from .health_watch import MAX_WATCHES, HealthWatches
from .principals import Principal

PIXEL = 255.0
"""A model folder states mean and std in pixel units, the wire in units of full scale."""


class Packed(Protocol):
    """A reply that can be sent."""

    def pack(self) -> bytes:
        """Make its msgpack."""


class Caller(Protocol):
    """The session that a service call came by."""

    @property
    def calls(self) -> CallTable:
        """Where answers go."""

    @property
    def watches(self) -> HealthWatches:
        """Its open watches."""

    @property
    def principal(self) -> Principal:
        """Who calls."""


class BadRequest(Exception):  # noqa: N818 - an outcome: the caller gets `status` and the text
    """A service call that cannot be answered."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class ServiceCalls:
    """Answers service calls from what the registry knows. `draining` is set when the server drains."""

    def __init__(self, settings: Settings, registry: Registry, audit: Audit | None) -> None:
        self._settings = settings
        self._registry = registry
        self._audit = audit
        self._encoder = Encoder()
        self.draining = False
        self._handlers: dict[str, Callable[[Caller, int, memoryview], Packed | None]] = {
            "$models": self._models,
            "$describe": self._describe,
            "$health": self._health,
        }

    def ready(self, principal: Principal) -> bytes:
        """Make the READY map (SPEC 9.8)."""
        limits = {"max_message": self._settings.message_limit, "max_streams": self._settings.max_streams}
        return Ready(
            principal.name,
            models=principal.scope.models,
            server_name="tensorwire",
            server_version=__version__,
            rate=principal.scope.rate,
            limits=limits,
        ).pack()

    def call(self, caller: Caller, stream_id: int, resolved: Resolved, body: memoryview) -> None:
        """Answer one service call, or end it with what was wrong."""
        calls = caller.calls
        try:
            handler = self._handlers.get(resolved.model)
            if handler is None:
                known = ", ".join(self._handlers)
                raise BadRequest(Status.NOT_FOUND, f"no service {shown(resolved.model)}; there are {known}")
            _check_payload(resolved, body)
            report = handler(caller, stream_id, body)
            if report is not None:
                sent = self._reply(calls, stream_id, resolved.model, report, END_STREAM)
                if self._audit is not None:
                    self._audit.service(calls.info, stream_id, resolved.model, sent, len(body))
        except BadRequest as refusal:
            calls.end(stream_id, refusal.status, str(refusal), asked=(resolved.model, ""))
        except CodecError as error:
            calls.end(stream_id, Status.INVALID_ARGUMENT, str(error), asked=(resolved.model, ""))

    def _reply(self, calls: CallTable, stream_id: int, service: str, report: Packed, flags: int) -> int:
        """Queue one reply message; the caller flushes. Returns the bytes of its body."""
        encoded = self._encoder.encode(service, "", {PAYLOAD: np.frombuffer(report.pack(), np.uint8)})
        calls.connection.send(
            stream_id, encoded.meta, pack_extension(dims=encoded.dims), encoded.buffers, encoded.body_length, flags
        )
        return encoded.body_length

    def _report(self, models: list[Model], now: float) -> HealthReport:
        """Report the health of what is served now by the names of these models."""
        current = [self._registry.current(model) for model in models]
        return HealthReport(tuple(_model_health(model, now, draining=self.draining) for model in current))

    # -- the calls -------------------------------------------------------------------------------------------------

    def _models(self, caller: Caller, _stream_id: int, body: memoryview) -> ModelList:
        Fields(unpack_service(body), "$models")  # a map of nothing that this version knows
        return ModelList(
            tuple(
                ModelEntry(model.spec.name, model.spec.version, State(model.engine.health().state.name.lower()))
                for model in self._registry.all(caller.principal.sees)
            )
        )

    def _describe(self, caller: Caller, _stream_id: int, body: memoryview) -> Description:
        request = DescribeRequest.unpack(body)
        description = _description(self._find(caller.principal, request.model, request.version))
        try:
            description.pack()
        except CodecError:  # more labels than a service message holds: they are a hint, the signature is not
            description = replace(description, labels=())
        return description

    def _health(self, caller: Caller, stream_id: int, body: memoryview) -> HealthReport | None:
        request = HealthRequest.unpack(body)
        principal, calls = caller.principal, caller.calls
        if request.model:
            models = [self._find(principal, request.model, "")]
        else:
            models = list(self._registry.all(principal.sees))
        if not request.watch:
            return self._report(models, monotonic())
        if len(caller.watches.open) >= MAX_WATCHES:  # guard: too-many-watches
            text = (
                f"{MAX_WATCHES} watches are open, as many as one connection may have; cancel one, or watch all models"
            )
            raise BadRequest(Status.RESOURCE_EXHAUSTED, text)

        def tell(report: HealthReport) -> None:
            self._reply(calls, stream_id, "$health", report, flags=0)
            calls.flush()

        caller.watches.add(stream_id, partial(self._report, models), tell)
        return None

    def _find(self, principal: Principal, name: str, version: str) -> Model:
        model = self._registry.find(name, version, principal.sees)
        if model is None:
            raise BadRequest(Status.NOT_FOUND, self._registry.explain_missing(name, version, principal.sees))
        return model


def _check_payload(resolved: Resolved, body: memoryview) -> None:
    if len(body) != resolved.body_length:
        raise BadRequest(Status.INVALID_ARGUMENT, body_length_text(len(body), resolved.body_length))
    tensors = resolved.tensors
    if [(t.name, t.dtype.name, t.kind, len(t.shape)) for t in tensors] != [(PAYLOAD, "uint8", Kind.DENSE, 1)]:
        sent = ", ".join(f"{shown(tensor.name)} {tensor}" for tensor in tensors[:4]) or "none"
        raise BadRequest(
            Status.INVALID_ARGUMENT, f"a service call carries one tensor, 'payload' uint8[-1] with msgpack; sent {sent}"
        )


def _model_health(model: Model, now: float, *, draining: bool) -> Health:
    health = model.engine.health()
    return Health(
        model=model.spec.name,
        version=model.spec.version,
        state=State(health.state.name.lower()),
        queue_depth=health.queue_depth,
        last_progress=max(0.0, now - health.last_progress) if health.last_progress else 0.0,
        effective_max_batch=model.engine.effective_max_batch,
        restarts=getattr(model.engine, "restarts", 0),
        detail="the server is draining" if draining else without_folders(health.detail)[:1024],
    )


def _description(model: Model) -> Description:
    spec = model.spec
    return Description(
        model=spec.name,
        version=spec.version,
        backend=spec.backend,
        engine=model.placement,
        device=spec.device,
        max_batch=spec.max_batch,
        inputs=spec.inputs,
        outputs=spec.outputs,
        images={image.input: _image_hints(image) for image in spec.images},
        labels=spec.labels or model.engine.labels,
        optional=spec.optional,
    )


def _image_hints(image: ImageHint) -> ImageHints:
    return ImageHints(
        size=image.size,
        mean=tuple(value / PIXEL for value in image.mean),
        std=tuple(value / PIXEL for value in image.std),
        layout=image.layout,
        resize=image.resize,
    )
