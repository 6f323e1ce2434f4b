"""Service messages: the typed forms of READY, $models, $describe and $health.

What lives here: plain values <-> frozen dataclasses. What must not: tensors, and anything on the hot path.
Readers ignore keys they do not know, so that a newer server can say more; a known key of a wrong type is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .dtypes import dtype_by_name
from .errors import CodecError, shown
from .limits import MAX_IMAGE_PIXELS
from .metadata import Kind, TensorSpec, check_spec
from .strict_msgpack import Fields, pack_service, read_choice, read_float, read_int, read_str, unpack_service

PAYLOAD = "payload"
"""Name of the one tensor of a service call and of its reply (SPEC 16.1)."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The payload of READY: who the server takes the client for, and what it may do.

    `models` are the name patterns it may call; `rate` is None while calls are not limited (tokens per second);
    `limits` are named integers (bytes, counts), for information.
    """

    principal: str
    models: tuple[str, ...] = ("*",)
    server_name: str = ""
    server_version: str = ""
    rate: float | None = None
    limits: Mapping[str, int] = field(default_factory=dict)

    def pack(self) -> bytes:
        """msgpack, for the wire."""
        return pack_service(
            {
                "principal": self.principal,
                "models": list(self.models),
                "server": {"name": self.server_name, "version": self.server_version},
                "rate": self.rate,
                "limits": dict(self.limits),
            }
        )

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> Ready:
        """From the wire. CodecError names the field that is wrong."""
        fields = Fields(unpack_service(raw), "READY")
        server = Fields(fields.get("server", dict, {}), "READY.server")
        return cls(
            principal=fields.get("principal", str),
            models=fields.items("models", read_str),
            server_name=server.get("name", str, ""),
            server_version=server.get("version", str, ""),
            rate=fields.optional("rate", float),
            limits=fields.numbers("limits"),
        )


class State(StrEnum):
    """What a model is doing. `stalled`: it has work and makes no progress."""

    IDLE = "idle"
    SERVING = "serving"
    STALLED = "stalled"
    LOADING = "loading"
    UNLOADED = "unloaded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One line of $models."""

    model: str
    version: str
    state: State


@dataclass(frozen=True, slots=True)
class ModelList:
    """The reply of $models: what this principal may call."""

    models: tuple[ModelEntry, ...]

    def pack(self) -> bytes:
        """msgpack, for the wire."""
        return pack_service(
            {"models": [{"model": m.model, "version": m.version, "state": m.state.value} for m in self.models]}
        )

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> ModelList:
        """From the wire. CodecError names the field that is wrong."""
        return cls(Fields(unpack_service(raw), "$models").items("models", _entry))


def _entry(value: Any, where: str) -> ModelEntry:
    fields = Fields(value, where)
    state = read_choice(State, fields.get("state", str), f"{where}.state")
    return ModelEntry(fields.get("model", str), fields.get("version", str), state)


@dataclass(frozen=True, slots=True)
class DescribeRequest:
    """The payload of a $describe call; an empty version means the one that serves."""

    model: str
    version: str = ""

    def pack(self) -> bytes:
        """msgpack, for the wire."""
        return pack_service({"model": self.model, "version": self.version})

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> DescribeRequest:
        """From the wire. CodecError names the field that is wrong."""
        fields = Fields(unpack_service(raw), "$describe")
        return cls(fields.get("model", str), fields.get("version", str, ""))


@dataclass(frozen=True, slots=True)
class ImageHints:
    """How a photo becomes this input: `size` (height, width) in pixels, then (x / 255 - mean) / std per channel.

    `size` is cut from the centre after the shorter side was scaled to `resize` pixels (0: to what just covers `size`).
    `layout` is "NCHW" or "NHWC".
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str = "NCHW"
    resize: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """The reply of $describe. Shapes have -1 for the batch axis and free axes; `images` are hints by input name.

    `inputs` is what a call sends, `optional` what it may send besides.
    """

    model: str
    version: str
    backend: str
    engine: str
    device: str
    max_batch: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    images: Mapping[str, ImageHints] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    optional: tuple[TensorSpec, ...] = ()

    def pack(self) -> bytes:
        """msgpack, for the wire."""
        images = {
            name: {
                "size": list(hints.size),
                "mean": list(hints.mean),
                "std": list(hints.std),
                "layout": hints.layout,
                "resize": hints.resize,
            }
            for name, hints in self.images.items()
        }
        return pack_service(
            {
                "model": self.model,
                "version": self.version,
                "backend": self.backend,
                "engine": self.engine,
                "device": self.device,
                "max_batch": self.max_batch,
                "inputs": [_pack_spec(spec) for spec in self.inputs],
                "outputs": [_pack_spec(spec) for spec in self.outputs],
                "images": images,
                "labels": list(self.labels),
                "optional": [_pack_spec(spec) for spec in self.optional],
            }
        )

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> Description:
        """From the wire. CodecError names the field that is wrong."""
        fields = Fields(unpack_service(raw), "$describe")
        images: dict[str, Any] = fields.get("images", dict, {})
        return cls(
            model=fields.get("model", str),
            version=fields.get("version", str),
            backend=fields.get("backend", str),
            engine=fields.get("engine", str),
            device=fields.get("device", str),
            max_batch=fields.get("max_batch", int),
            inputs=fields.items("inputs", _unpack_spec),
            outputs=fields.items("outputs", _unpack_spec),
            images={name: _unpack_hints(value, "$describe.images") for name, value in images.items()},
            labels=fields.items("labels", read_str),
            optional=fields.items("optional", _unpack_spec),
        )


def _pack_spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype.name, "shape": list(spec.shape), "kind": spec.kind.name.lower()}


def _unpack_spec(value: Any, where: str) -> TensorSpec:
    fields = Fields(value, where)
    kind = fields.get("kind", str, "dense")
    if kind.upper() not in Kind.__members__:
        raise CodecError(f"{where}.kind: {shown(kind)}, expected dense, string or ragged")
    dtype = dtype_by_name(fields.get("dtype", str))
    spec = TensorSpec(fields.get("name", str), dtype, fields.items("shape", read_int), Kind[kind.upper()])
    check_spec(spec)
    return spec


def _unpack_hints(value: Any, where: str) -> ImageHints:
    fields = Fields(value, where)
    size = fields.items("size", read_int)
    if len(size) != 2 or not all(1 <= pixels <= MAX_IMAGE_PIXELS for pixels in size):
        raise CodecError(
            f"{where}.size: {shown(str(size))}, expected height and width of 1 to {MAX_IMAGE_PIXELS} pixels"
        )
    mean, std = fields.items("mean", read_float), fields.items("std", read_float)
    layout, resize = fields.get("layout", str, "NCHW"), fields.get("resize", int, 0)
    return ImageHints((size[0], size[1]), mean, std, layout, resize)


@dataclass(frozen=True, slots=True)
class HealthRequest:
    """The payload of a $health call; an empty model means all of them; `watch` asks for a stream of replies."""

    model: str = ""
    watch: bool = False

    def pack(self) -> bytes:
        """msgpack, for the wire."""
        return pack_service({"model": self.model, "watch": self.watch})

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> HealthRequest:
        """From the wire. CodecError names the field that is wrong."""
        fields = Fields(unpack_service(raw), "$health")
        return cls(fields.get("model", str, ""), fields.get("watch", bool, False))


@dataclass(frozen=True, slots=True)
class Health:
    """One model's health. `last_progress` is the seconds since it last finished a batch (or became idle, or loaded)."""

    model: str
    version: str
    state: State
    queue_depth: int = 0
    last_progress: float = 0.0
    effective_max_batch: int = 0
    restarts: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The reply of $health: one entry per model that was asked about."""

    models: tuple[Health, ...]

    def pack(self) -> bytes:
        """msgpack, for the wire."""
        return pack_service({"models": [_pack_health(health) for health in self.models]})

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> HealthReport:
        """From the wire. CodecError names the field that is wrong."""
        return cls(Fields(unpack_service(raw), "$health").items("models", _unpack_health))


def _pack_health(health: Health) -> dict[str, Any]:
    return {
        "model": health.model,
        "version": health.version,
        "state": health.state.value,
        "queue_depth": health.queue_depth,
        "last_progress": health.last_progress,
        "effective_max_batch": health.effective_max_batch,
        "restarts": health.restarts,
        "detail": health.detail,
    }


def _unpack_health(value: Any, where: str) -> Health:
    fields = Fields(value, where)
    return Health(
        model=fields.get("model", str),
        version=fields.get("version", str),
        state=read_choice(State, fields.get("state", str), f"{where}.state"),
        queue_depth=fields.get("queue_depth", int, 0),
        last_progress=fields.get("last_progress", float, 0.0),
        effective_max_batch=fields.get("effective_max_batch", int, 0),
        restarts=fields.get("restarts", int, 0),
        detail=fields.get("detail", str, ""),
    )
