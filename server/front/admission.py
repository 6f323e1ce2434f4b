"""Whether a call is taken, and where it goes: the slow path behind the cache of known signatures.

Metadata is verified and decoded here once per signature, the model looked up, and its engine asked; the outcome is a
Route, kept per principal. What is refused is refused with a status and a text that names what was sent and what was
expected.
"""

from __future__ import annotations

from ...codec import CodecError, Metadata, Resolved, decode_metadata, metadata_cost, resolve
from ...protocol import Status, pack_extension, parse_extension
from ..registry import Registry
from .call import Call, Refuse, Route, microseconds
from .principals import Principal

ENTRY_COST = 2048
"""Bytes charged for one known signature beyond its key: the decoded metadata and the engine's plan for it."""

_BODY_LENGTH_ITEM = 10  # type, length and value of the BODY_LENGTH item


class Admission:
    """Decides about calls. One per loop."""

    __slots__ = ("_registry",)

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def route(self, principal: Principal, ext: bytes, meta: bytes, owner: bytes) -> Route | Resolved:
        """Find the route of a call whose signature is not in the cache; Resolved for a service call. Raises Refuse.

        owner: the connection that is answerable for what is remembered of it.
        """
        try:
            dims = parse_extension(ext).dims
            resolved = resolve(_decode(principal, meta, owner), dims)
        except CodecError as error:
            raise Refuse(Status.INVALID_ARGUMENT, f"tensor metadata: {error}") from None
        if resolved.model.startswith("$"):
            return resolved
        normal = pack_extension(dims=dims) if dims else b""
        routes = principal.routes
        route = routes.get((normal, meta))
        if route is None:
            route = self._make_route(principal, resolved, dims, meta)
            routes.add((normal, meta), route, len(normal) + len(meta) + ENTRY_COST, owner)
        if ext != normal and len(ext) <= len(normal) + _BODY_LENGTH_ITEM:
            # Nothing in it but dims and length: the same at every call, so that the next one finds it at once.
            routes.add((ext, meta), route, len(ext) + len(meta) + ENTRY_COST, owner)
        return route

    def _make_route(self, principal: Principal, resolved: Resolved, dims: bytes, meta: bytes) -> Route:
        model = self._registry.find(resolved.model, resolved.version, principal.sees)
        if model is None:
            text = self._registry.explain_missing(resolved.model, resolved.version, principal.sees)
            raise Refuse(Status.NOT_FOUND, text, asked=(resolved.model, resolved.version))
        try:
            return Route(model, model.engine.prepare(resolved, meta, dims))
        except CodecError as error:
            raise Refuse(Status.INVALID_ARGUMENT, f"model {resolved.model!r}: {error}", model) from None


def _decode(principal: Principal, meta: bytes, owner: bytes) -> Metadata:
    """Return the verified form of `meta`. Raises CodecError if it is malformed, and that is never kept."""
    found = principal.metadata.get(meta)
    if found is None:
        found = decode_metadata(meta)
        principal.metadata.add(meta, found, metadata_cost(meta, found), owner)
    return found


def certainly_late(call: Call) -> tuple[str, bytes] | None:
    """Return text and extension to refuse a call that cannot meet its deadline; None if it may, or nobody knows."""
    route = call.route
    if call.deadline - call.arrived > route.model.latency.mean * route.most_ahead:
        return None  # even a full queue would do: not worth asking how full it is
    engine = route.engine
    ahead = engine.queue_depth // max(1, engine.effective_max_batch)
    if not ahead:
        return None
    least = route.model.latency.least(ahead, call.arrived)
    if call.arrived + least <= call.deadline:
        return None
    allowed = (call.deadline - call.arrived) * 1e3
    text = f"would be late: {ahead} batches ahead take at least {least * 1e3:.1f} ms, the deadline is {allowed:.1f} ms"
    return text, pack_extension(retry_after=microseconds(least), queue_estimate=microseconds(least))
