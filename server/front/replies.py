"""From the outcome of a batch to the replies of its calls: names and shapes encoded once, rows handed on as views.

No tensor byte is copied here. What stays the same from batch to batch (metadata, dims per number of rows, padding) is
kept per output signature; a call then costs a slice per output and one send.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, cast

from ...codec import FREE, BoundedCache, CodecError, TensorSpec, dtype_by_name, encode_metadata
from ...protocol import LocalError, ReplyForm, Status, pack_extension
from ...protocol.header import END_STREAM
from ...protocol.limits import INLINE_BODY
from .calls import microseconds

if TYPE_CHECKING:
    from ...codec import Encoded
    from ..engine.api import BatchResult, OutputSignature
    from .calls import Call
    from .session import Session

ALIGNMENT = 64  # each tensor starts at a multiple of it (SPEC 18.6)
MAX_FREE_DIMS = 100
"""Dims of one reply that travel in its extension, which has room for 124 beside a TIMING item and its own headers."""
MAX_PLANS = 1024
"""Output signatures remembered; a model has one, or one per shape it gives."""
MAX_SHAPES = 256
"""Numbers of rows remembered per signature; a call carries at most max_batch rows."""

LARGE = 64 << 10
"""Bytes of a reply after which the room for more is looked at."""

COPIED = 16 << 10
"""Bytes of a batch's output up to which it is copied once as a whole, and replies are slices of the copy: a slice of
bytes costs half of a slice of a view, and what is so small is joined into one write in any case."""

_PADDING = tuple(bytes(count) for count in range(ALIGNMENT))


class Shape:
    """The reply to a call of so many rows: `meta`, `ext` with its dims, `length` of its body, padding before outputs,
    and the `form` of all that fit in one frame.

    Every dimension is free and travels in `dims`, so that `meta` is the same for any number of rows; only of a model
    with more outputs than dims have room the shapes are fixed in `meta`.
    """

    __slots__ = ("dims", "ext", "form", "length", "meta", "padding")

    def __init__(self, model: str, version: str, rows: int, signature: OutputSignature) -> None:
        shapes = [(rows, *row_shape) for _, _, row_shape, _ in signature]
        sizes = [size for shape in shapes for size in shape]
        free = len(sizes) <= MAX_FREE_DIMS
        self.meta = encode_metadata(
            model,
            version,
            [
                TensorSpec(name, dtype_by_name(dtype), (FREE,) * len(shape) if free else shape)
                for (name, dtype, _, _), shape in zip(signature, shapes, strict=True)
            ],
        )
        self.dims = pack(f"<{len(sizes)}Q", *sizes) if free else b""
        self.length = 0
        self.padding: list[bytes] = []
        for _, _, _, row_bytes in signature:
            nbytes = rows * row_bytes
            gap = -self.length % ALIGNMENT if nbytes else 0  # an empty tensor takes no place
            self.padding.append(_PADDING[gap])
            self.length += gap + nbytes
        self.ext = pack_extension(dims=self.dims)
        self.form = ReplyForm(self.meta, self.ext, self.length) if self.length <= INLINE_BODY else None


class Plan:
    """What all replies of one output signature share: a Shape per number of rows."""

    __slots__ = ("_model", "_version", "row_bytes", "shapes", "signature")

    def __init__(self, model: str, version: str, signature: OutputSignature) -> None:
        self._model = model
        self._version = version
        self.shapes: dict[int, Shape] = {}
        self.signature = signature
        self.row_bytes = [row_bytes for _, _, _, row_bytes in signature]

    def add_shape(self, rows: int) -> Shape:
        """Work out the reply for `rows` rows. Raises CodecError for outputs that cannot be described."""
        if len(self.shapes) >= MAX_SHAPES:
            self.shapes.clear()
        shape = self.shapes[rows] = Shape(self._model, self._version, rows, self.signature)
        return shape


class Replies:
    """Queues the replies of one model's batches on their connections; the caller flushes those that were touched."""

    __slots__ = ("_last", "_model", "_plans", "_version")

    def __init__(self, model: str, version: str) -> None:
        self._model = model
        self._version = version
        self._last = Plan(model, version, ())
        self._plans: BoundedCache[OutputSignature, Plan] = BoundedCache(MAX_PLANS, MAX_PLANS)

    def deliver(self, result: BatchResult, now: float, touched: set[Session], replied: list[Call]) -> None:
        """Queue a reply per call of the batch that still waits; they go to `replied`, their sessions to `touched`."""
        if result.encoded is not None:
            self._deliver_alone(result, result.encoded, now, touched, replied)
            return
        plan = self._last
        if plan.signature is not result.signature:
            plan = self._last = self._plan(result.signature)
        outputs = result.outputs
        row_bytes = plan.row_bytes
        shapes = plan.shapes
        # Of small outputs a copy is made once: a slice of bytes is had for half of what a slice of a view costs.
        copied = outputs[0].tobytes() if len(outputs) == 1 and outputs[0].nbytes <= COPIED else b""
        start = 0
        last: Session | None = None
        for call in cast("list[Call]", result.requests):
            rows = call.rows
            first, start = start, start + rows
            if call.done:  # cancelled or expired while it ran
                continue
            session: Session = call.session
            if session is not last:
                touched.add(session)
                last = session
            if session.behind:
                _drop(call)
                continue
            try:
                shape = shapes.get(rows) or plan.add_shape(rows)
                body: list[memoryview | bytes]
                if copied:
                    size = row_bytes[0]
                    body = [copied[first * size : start * size]]
                elif len(outputs) == 1:
                    size = row_bytes[0]
                    body = [outputs[0][first * size : start * size]]
                else:
                    body = _gather(outputs, row_bytes, shape.padding, first, start)
                if shape.length > LARGE and rows < result.batch_rows and session.crowded():
                    body = [bytes(part) for part in body]  # a view would hold the whole batch until it is read
                form = shape.form
                if form is not None and not call.want_timing:
                    session.connection.reply(call.stream_id, form, body)
                else:
                    ext = _with_timing(shape.dims, call, result, now) if call.want_timing else shape.ext
                    session.connection.send(call.stream_id, shape.meta, ext, body, shape.length, END_STREAM)
            except (CodecError, LocalError, ValueError) as error:  # this reply only; the batch has others
                _cannot_send(call, error)
                continue
            session.replied(call)
            replied.append(call)
            if shape.length > LARGE:
                session.count_unread()

    def length(self, result: BatchResult, rows: int) -> int:
        """Bytes of the body of a reply of `rows` rows, of the result that was delivered last."""
        if result.encoded is not None:
            return result.encoded.body_length
        return (self._last.shapes.get(rows) or self._last.add_shape(rows)).length

    def _deliver_alone(
        self, result: BatchResult, encoded: Encoded, now: float, touched: set[Session], replied: list[Call]
    ) -> None:
        for call in cast("list[Call]", result.requests):
            if call.done:
                continue
            session: Session = call.session
            touched.add(session)
            if session.behind:
                _drop(call)
                continue
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
            session.replied(call)
            replied.append(call)
            if encoded.body_length > LARGE:
                session.count_unread()

    def _plan(self, signature: OutputSignature) -> Plan:
        plan = self._plans.get(signature)
        if plan is None or plan.signature is not signature:  # equal but another object: an engine started anew
            plan = Plan(self._model, self._version, signature)
            self._plans.put(signature, plan)
        return plan


def _gather(
    outputs: list[memoryview], row_bytes: list[int], padding: list[bytes], first: int, end: int
) -> list[memoryview | bytes]:
    body: list[memoryview | bytes] = []
    for data, size, gap in zip(outputs, row_bytes, padding, strict=True):
        if gap:
            body.append(gap)
        if size:
            body.append(data[first * size : end * size])
    return body


def _with_timing(dims: bytes, call: Call, result: BatchResult, now: float) -> bytes:
    """The extension with the TIMING item: where the call's time went, in microseconds (SPEC 14)."""
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


def _drop(call: Call) -> None:
    """Its caller does not read: nothing more is kept for it (memory is everybody's)."""
    text = "the reply was dropped: too many bytes of replies wait for this connection to read them; read them, or have"
    call.session.fail(call, Status.RESOURCE_EXHAUSTED, f"{text} fewer calls in flight", started=True)
