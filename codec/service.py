"""Service messages: msgpack with strict limits, and the typed forms of READY, $models, $describe and $health.

What lives here: bytes <-> plain values <-> frozen dataclasses. What must not: tensors, and anything on the hot path.
Readers ignore keys they do not know, so that a newer server can say more; a known key of a wrong type is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import msgpack

from .dtypes import dtype_by_name
from .errors import CodecError, shown
from .limits import MAX_SERVICE_BYTES, MAX_SERVICE_DEPTH, MAX_SERVICE_ITEMS
from .metadata import Kind, TensorSpec

T = TypeVar("T")


# ---- msgpack ----------------------------------------------------------------------------------------------------


def pack_service(value: Any, max_bytes: int = MAX_SERVICE_BYTES) -> bytes:
    """The msgpack of a plain value. CodecError if `unpack_service` would refuse it."""
    try:
        raw: bytes = msgpack.packb(value, use_bin_type=True, strict_types=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"service message: {error}") from None
    if len(raw) > max_bytes:
        raise CodecError(f"service message: {len(raw)} bytes, at most {max_bytes} are allowed")
    _check_plain(value)
    return raw


def unpack_service(
    raw: bytes | memoryview,
    max_bytes: int = MAX_SERVICE_BYTES,
    max_depth: int = MAX_SERVICE_DEPTH,
    max_items: int = MAX_SERVICE_ITEMS,
) -> Any:
    """The plain value in `raw`: None, bool, int, float, str, bytes, list, dict with str keys. CodecError on all else.

    Refused: more than `max_bytes`, deeper than `max_depth`, more than `max_items` values, extension types, duplicate or
    non-str keys, bad UTF-8, trailing bytes. Time is linear in the size.
    """
    if len(raw) > max_bytes:
        raise CodecError(f"service message: {len(raw)} bytes, at most {max_bytes} are allowed")
    try:
        value = msgpack.unpackb(raw, raw=False, strict_map_key=True, object_pairs_hook=_unique, ext_hook=_no_extension)
    except CodecError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise CodecError(f"service message: not the msgpack of one plain value ({type(error).__name__})") from None
    _check_plain(value, max_depth, max_items)
    return value


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise CodecError("service message: a map has the same key twice")
    return result


def _no_extension(code: int, data: bytes) -> Any:
    raise CodecError(f"service message: extension type {code}; none are allowed")


def _check_plain(value: Any, max_depth: int = MAX_SERVICE_DEPTH, max_items: int = MAX_SERVICE_ITEMS) -> None:
    """Walks the value level by level, so that depth costs no recursion. `type() is` because bool is an int to isinstance."""
    items, depth, level = 1, 0, [value]
    while level:
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                if not all(type(key) is str for key in node):
                    raise CodecError("service message: a map has a key that is not str")
                items += len(node)
                below.extend(node.values())
            elif type(node) is list:
                below.extend(node)
            elif node is not None and type(node) not in (bool, int, float, str, bytes):
                raise CodecError(f"service message: a value of type {type(node).__name__}; only plain ones are allowed")
        items += len(below)
        depth += bool(below)
        if items > max_items or depth > max_depth:
            raise CodecError(f"service message: more than {max_items} values or {max_depth} levels")
        level = below


# ---- reading maps -----------------------------------------------------------------------------------------------


class _Map:
    """A map under inspection: every getter names the field, what came and what was expected."""

    __slots__ = ("_value", "_where")

    def __init__(self, value: Any, where: str) -> None:
        if type(value) is not dict:
            raise CodecError(f"{where}: {type(value).__name__}, expected a map")
        self._value = value
        self._where = where

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of `key`, exactly of `kind` (an int also where a float is asked for). No default: required."""
        value = self._value.get(key)
        if value is None and default is not None:
            return default
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < 1 << 64 else value
        if type(value) is not kind:
            got = "nothing" if value is None else type(value).__name__
            raise CodecError(f"{self._where}.{key}: {got}, expected {kind.__name__}")
        return value

    def optional(self, key: str, kind: type[T]) -> T | None:
        """Like get, but None if the key is missing or nil."""
        return None if self._value.get(key) is None else self.get(key, kind)

    def items(self, key: str, read: Callable[[Any, str], T]) -> tuple[T, ...]:
        """A list, each item read by `read(item, where)`. Missing means empty."""
        values: list[Any] = self.get(key, list, [])
        return tuple(read(value, f"{self._where}.{key}[{index}]") for index, value in enumerate(values))

    def numbers(self, key: str) -> dict[str, int]:
        """A map of str to int. Missing means empty."""
        values: dict[str, Any] = self.get(key, dict, {})
        inner = _Map(values, f"{self._where}.{key}")
        return {name: inner.get(name, int) for name in values}


def _str(value: Any, where: str) -> str:
    if type(value) is not str:
        raise CodecError(f"{where}: {type(value).__name__}, expected str")
    return value


def _int(value: Any, where: str) -> int:
    if type(value) is not int:
        raise CodecError(f"{where}: {type(value).__name__}, expected int")
    return value


def _float(value: Any, where: str) -> float:
    return _Map({"value": value}, where).get("value", float)


def _choice(choices: type[T], value: str, where: str) -> T:
    try:
        return choices(value)  # type: ignore[call-arg]
    except ValueError:
        raise CodecError(f"{where}: {shown(value)}, expected one of {', '.join(map(str, choices))}") from None  # type: ignore[call-overload]


# ---- messages ---------------------------------------------------------------------------------------------------


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
        fields = _Map(unpack_service(raw), "READY")
        server = _Map(fields.get("server", dict, {}), "READY.server")
        return cls(
            principal=fields.get("principal", str),
            models=fields.items("models", _str),
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
        return cls(_Map(unpack_service(raw), "$models").items("models", _entry))


def _entry(value: Any, where: str) -> ModelEntry:
    fields = _Map(value, where)
    state = _choice(State, fields.get("state", str), f"{where}.state")
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
        fields = _Map(unpack_service(raw), "$describe")
        return cls(fields.get("model", str), fields.get("version", str, ""))


@dataclass(frozen=True, slots=True)
class ImageHints:
    """How a photo becomes this input: `size` (height, width) in pixels, then (x / 255 - mean) / std per channel.

    `layout` is "NCHW" or "NHWC".
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str = "NCHW"


@dataclass(frozen=True, slots=True)
class Description:
    """The reply of $describe. Shapes have -1 for the batch axis and free axes; `images` are hints by input name."""

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

    def pack(self) -> bytes:
        """msgpack, for the wire."""
        images = {
            name: {"size": list(hints.size), "mean": list(hints.mean), "std": list(hints.std), "layout": hints.layout}
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
            }
        )

    @classmethod
    def unpack(cls, raw: bytes | memoryview) -> Description:
        """From the wire. CodecError names the field that is wrong."""
        fields = _Map(unpack_service(raw), "$describe")
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
            labels=fields.items("labels", _str),
        )


def _pack_spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype.name, "shape": list(spec.shape), "kind": spec.kind.name.lower()}


def _unpack_spec(value: Any, where: str) -> TensorSpec:
    fields = _Map(value, where)
    kind = fields.get("kind", str, "dense")
    if kind.upper() not in Kind.__members__:
        raise CodecError(f"{where}.kind: {shown(kind)}, expected dense, string or ragged")
    dtype = dtype_by_name(fields.get("dtype", str))
    return TensorSpec(fields.get("name", str), dtype, fields.items("shape", _int), Kind[kind.upper()])


def _unpack_hints(value: Any, where: str) -> ImageHints:
    fields = _Map(value, where)
    size = fields.items("size", _int)
    if len(size) != 2:
        raise CodecError(f"{where}.size: {len(size)} numbers, expected height and width")
    mean, std = fields.items("mean", _float), fields.items("std", _float)
    return ImageHints((size[0], size[1]), mean, std, fields.get("layout", str, "NCHW"))


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
        fields = _Map(unpack_service(raw), "$health")
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
        return cls(_Map(unpack_service(raw), "$health").items("models", _unpack_health))


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
    fields = _Map(value, where)
    return Health(
        model=fields.get("model", str),
        version=fields.get("version", str),
        state=_choice(State, fields.get("state", str), f"{where}.state"),
        queue_depth=fields.get("queue_depth", int, 0),
        last_progress=fields.get("last_progress", float, 0.0),
        effective_max_batch=fields.get("effective_max_batch", int, 0),
        restarts=fields.get("restarts", int, 0),
        detail=fields.get("detail", str, ""),
    )
