"""From the outcome of a batch to the replies of its calls: names and shapes encoded once, rows handed on as views.

No tensor byte is copied here. What stays the same from batch to batch (metadata, dims per number of rows, padding) is
kept per output signature; a call then costs a slice per output and one send.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, cast

from ...codec import FREE, BoundedCache, CodecError, TensorSpec, dtype_by_name, encode_metadata
from ...protocol import LocalError, Status, pack_extension
from ...protocol.header import END_STREAM
from .calls import microseconds

if TYPE_CHECKING:
    from ..engine.api import BatchResult, OutputArray
    from ..registry import Served
    from .calls import Call
    from .session import Session

ALIGNMENT = 64  # each tensor starts at a multiple of it (SPEC: tensors)
MAX_FREE_DIMS = 100
"""Dims of one reply that travel in its extension, which has room for 124 beside a TIMING item and its own headers."""
MAX_PLANS = 1024
"""Output signatures remembered; a model has one, or one per shape it gives."""
MAX_SHAPES = 256
"""Numbers of rows remembered per signature; a call carries at most max_batch rows."""

_PADDING = tuple(bytes(count) for count in range(ALIGNMENT))


class Shape:
    """The reply to a call of so many rows: `meta`, `ext` with its dims, `length` of its body, padding before outputs.

    Every dimension is free and travels in `dims`, so that `meta` is the same for any number of rows; only of a model
    with more outputs than dims have room the shapes are fixed in `meta`.
    """

    __slots__ = ("dims", "ext", "length", "meta", "padding")

    def __init__(self, served: Served, rows: int, outputs: tuple[OutputArray, ...]) -> None:
        shapes = [(rows, *output.row_shape) for output in outputs]
        sizes = [size for shape in shapes for size in shape]
        free = len(sizes) <= MAX_FREE_DIMS
        self.meta = encode_metadata(
            served.spec.name,
            served.spec.version,
            [
                TensorSpec(output.name, dtype_by_name(output.dtype), (FREE,) * len(shape) if free else shape)
                for output, shape in zip(outputs, shapes, strict=True)
            ],
        )
        self.dims = pack(f"<{len(sizes)}Q", *sizes) if free else b""
        self.ext = pack_extension(dims=self.dims)
        self.length = 0
        self.padding: list[bytes] = []
        for output in outputs:
            nbytes = rows * output.row_bytes
            gap = -self.length % ALIGNMENT if nbytes else 0  # an empty tensor takes no place
            self.padding.append(_PADDING[gap])
            self.length += gap + nbytes


class Plan:
    """What all replies of one output signature share: a Shape per number of rows."""

    __slots__ = ("_outputs", "_served", "_shapes")

    def __init__(self, served: Served, outputs: tuple[OutputArray, ...]) -> None:
        self._served = served
        self._outputs = tuple(_without_data(output) for output in outputs)
        self._shapes: dict[int, Shape] = {}

    def shape(self, rows: int) -> Shape:
        """The reply for `rows` rows. Raises CodecError for outputs that cannot be described."""
        shape = self._shapes.get(rows)
        if shape is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            shape = self._shapes[rows] = Shape(self._served, rows, self._outputs)
        return shape


class Replies:
    """Queues the replies of batches on their connections; the caller flushes the connections that were touched."""

    __slots__ = ("_plans",)

    def __init__(self) -> None:
        self._plans: BoundedCache[object, Plan] = BoundedCache(MAX_PLANS, MAX_PLANS)

    def clear(self) -> None:
        """Forget what is remembered of engines that are gone."""
        self._plans.clear()

    def deliver(self, served: Served, result: BatchResult, now: float, touched: set[Session]) -> None:
        """Queue one reply per call of the batch that still waits; `touched` gets their sessions."""
        served.stats.batch_done(result.batch_rows)
        served.estimate.batch_done(result.copied_out - result.planned, now)
        if result.encoded is not None:
            self._deliver_alone(result, now, touched)
            return
        outputs = result.outputs
        plan = self._plan(served, outputs)
        single = outputs[0] if len(outputs) == 1 else None
        start = 0
        for call in cast("list[Call]", result.requests):
            rows = call.rows
            first, start = start, start + rows
            if call.done:  # cancelled or expired while it ran
                continue
            session: Session = call.session
            touched.add(session)
            try:
                shape = plan.shape(rows)
                if single is not None:
                    size = single.row_bytes
                    body: list[memoryview | bytes] = [single.data[first * size : start * size]]
                else:
                    body = _gather(outputs, shape, first, start)
                ext = _with_timing(shape.dims, call, result, now) if call.want_timing else shape.ext
                session.connection.send(call.stream_id, shape.meta, ext, body, shape.length, END_STREAM)
            except (CodecError, LocalError, ValueError) as error:  # this reply only; the batch has others
                _cannot_send(call, error)
                continue
            session.replied(call, now)

    def _deliver_alone(self, result: BatchResult, now: float, touched: set[Session]) -> None:
        encoded = result.encoded
        for call in cast("list[Call]", result.requests):
            if call.done or encoded is None:
                continue
            session: Session = call.session
            touched.add(session)
            try:
                if call.want_timing:
                    ext = _with_timing(encoded.dims, call, result, now)
                else:
                    ext = pack_extension(dims=encoded.dims)
                session.connection.send(
                    call.stream_id, encoded.meta, ext, encoded.buffers, encoded.body_length, END_STREAM
                )
            except (LocalError, ValueError) as error:
                _cannot_send(call, error)
                continue
            session.replied(call, now)

    def _plan(self, served: Served, outputs: tuple[OutputArray, ...]) -> Plan:
        if len(outputs) == 1:
            key: object = (served, outputs[0].name, outputs[0].dtype, outputs[0].row_shape)
        else:
            key = (served, *((output.name, output.dtype, output.row_shape) for output in outputs))
        plan = self._plans.get(key)
        if plan is None:
            plan = Plan(served, outputs)
            self._plans.put(key, plan)
        return plan


def _gather(outputs: tuple[OutputArray, ...], shape: Shape, first: int, end: int) -> list[memoryview | bytes]:
    body: list[memoryview | bytes] = []
    for output, padding in zip(outputs, shape.padding, strict=True):
        size = output.row_bytes
        if padding:
            body.append(padding)
        if size:
            body.append(output.data[first * size : end * size])
    return body


def _with_timing(dims: bytes, call: Call, result: BatchResult, now: float) -> bytes:
    """The extension with the TIMING item: where the call's time went, in microseconds (SPEC: extension items)."""
    waited = max(0.0, result.planned - call.arrived)
    batch_wait = min(waited, call.route.engine.spec.max_wait)
    seconds = (
        call.arrived - call.first_byte,
        waited - batch_wait,
        batch_wait,
        result.copied_in - result.planned,
        result.computed - result.copied_in,
        result.copied_out - result.computed,
        now - call.first_byte,
    )
    return pack_extension(dims=dims, timing=tuple(microseconds(s) for s in seconds))


def _cannot_send(call: Call, error: Exception) -> None:
    """The model gave what the protocol cannot carry (too many outputs): its caller hears of it."""
    call.session.fail(call, Status.INTERNAL, f"the model's outputs cannot be sent: {error}", started=True)


def _without_data(output: OutputArray) -> OutputArray:
    """The same output with no batch's memory held."""
    return type(output)(output.name, output.dtype, output.row_shape, memoryview(b""), output.row_bytes)
