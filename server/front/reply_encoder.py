"""From the outcome of a batch to the replies of its calls: names and shapes encoded once, rows handed on as views.

No tensor byte is copied here. What stays the same from batch to batch (metadata, dims per number of rows, padding) is
kept per output signature; a call then costs a slice per output and one send.
"""

from __future__ import annotations

from struct import pack
from typing import cast

from ...codec import FREE, BoundedCache, CodecError, Encoded, TensorSpec, dtype_by_name, encode_metadata
from ...codec.limits import ALIGNMENT
from ...protocol import LocalError, ReplyForm, Status, pack_extension
from ...protocol.limits import INLINE_BODY, RECORD_BATCH
from ..engine.api import BatchResult, OutputSignature
from .call import Call, ReplyTarget, microseconds

MAX_FREE_DIMS = 100
"""Dims of one reply that travel in its extension, which has room for 124 beside a TIMING item and its own headers."""
MAX_PLANS = 1024
"""Output signatures remembered; a model has one, or one per shape it gives."""
MAX_SHAPES = 256
"""Numbers of rows remembered per signature; a call carries at most max_batch rows."""

LARGE = 64 << 10
"""Bytes of a reply above which it is copied out of its batch where memory for replies is short."""

COPIED = 16 << 10
"""Bytes of a batch's output up to which it is copied once as a whole, and replies are slices of the copy: a slice of
bytes costs half of a slice of a view, and what is so small is joined into one write in any case."""

_PADDING = tuple(bytes(count) for count in range(ALIGNMENT))  # guard: uninitialised-padding


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


class ReplyEncoder:
    """Queues the replies of one model's batches at the targets of their calls; the caller flushes those touched."""

    __slots__ = ("_last", "_model", "_plans", "_version")

    def __init__(self, model: str, version: str) -> None:
        self._model = model
        self._version = version
        self._last = Plan(model, version, ())
        self._plans: BoundedCache[OutputSignature, Plan] = BoundedCache(MAX_PLANS, MAX_PLANS)

    def deliver(self, result: BatchResult, now: float, touched: set[ReplyTarget], replied: list[Call]) -> None:
        """Queue a reply per call of the batch that still waits; they go to `replied`, their targets to `touched`."""
        if result.encoded is not None:
            self._deliver_alone(result, result.encoded, now, touched, replied)
            return
        plan = self._last
        if plan.signature is not result.signature:
            plan = self._last = self._plan(result.signature)
        outputs = result.outputs
        # Of small outputs a copy is made once: a slice of bytes is had for half of what a slice of a view costs.
        copied = outputs[0].tobytes() if len(outputs) == 1 and outputs[0].nbytes <= COPIED else b""
        size = plan.row_bytes[0] if copied else 0
        target: ReplyTarget | None = None
        form: ReplyForm | None = None
        calls: list[Call] = []  # neighbours of one target and class, whose replies have one form: queued together
        stream_ids: list[int] = []
        frames: list[memoryview | bytes] = []
        rows = priority = left = start = 0
        for call in cast("list[Call]", result.requests):
            first = start
            start += call.rows
            if call.done:  # cancelled or expired while it ran
                continue
            if (  # guard: replies-of-session
                call.target is not target
                or call.rows != rows
                or call.priority != priority
                or not left
                or call.want_timing
            ):
                if form is not None:
                    _send_run(calls, stream_ids, form, frames, replied)
                    calls, stream_ids, frames = [], [], []
                touched.add(call.target)
                target = None
                form = self._form(call, plan)
                if form is None:
                    self._deliver_one(call, plan, first, result, now, replied)
                    continue
                # guard: replies-in-record
                target, rows, priority, left = (
                    call.target,
                    call.rows,
                    call.priority,
                    max(1, RECORD_BATCH // form.nbytes),
                )
                begin, pack, rest = form.begin(priority), form.pack, form.rest
            left -= 1
            stream_id = call.stream_id
            calls.append(call)
            stream_ids.append(stream_id)
            frames.append(pack(begin, stream_id, rest))
            if copied:
                frames.append(copied[first * size : start * size])
            else:
                frames += _rows(outputs, plan, first, start)
        if form is not None:
            _send_run(calls, stream_ids, form, frames, replied)

    def _form(self, call: Call, plan: Plan) -> ReplyForm | None:
        """Say what the reply to this call is like; None if it has to be sent alone, or not at all."""
        if call.want_timing or call.target.reply_limit_reached():
            return None
        try:
            return (plan.shapes.get(call.rows) or plan.add_shape(call.rows)).form
        except (CodecError, LocalError):  # told to its caller by `_deliver_one`
            return None

    def _deliver_one(
        self, call: Call, plan: Plan, first: int, result: BatchResult, now: float, replied: list[Call]
    ) -> None:
        """Queue the reply to a call whose rows begin at `first`: a large one, or one with times."""
        target = call.target
        if target.reply_limit_reached():
            _drop(call)
            return
        rows = call.rows
        try:
            shape = plan.shapes.get(rows) or plan.add_shape(rows)
            body = _rows(result.outputs, plan, first, first + rows)
            if shape.length > LARGE and rows < result.batch_rows and target.over_reply_budget():  # guard: unread-batch
                body = [bytes(part) for part in body]  # a view would hold the whole batch until it is read
            ext = _with_timing(shape.dims, call, result, now) if call.want_timing else shape.ext
            target.reply(call, shape.meta, ext, body, shape.length)
        except (CodecError, LocalError, ValueError) as error:  # this reply only; the batch has others
            _cannot_send(call, error)
            return
        replied.append(call)

    def length(self, result: BatchResult, rows: int) -> int:
        """Return the bytes of the body of a reply of `rows` rows, of the result that was delivered last."""
        if result.encoded is not None:
            return result.encoded.body_length
        return (self._last.shapes.get(rows) or self._last.add_shape(rows)).length

    def _deliver_alone(
        self, result: BatchResult, encoded: Encoded, now: float, touched: set[ReplyTarget], replied: list[Call]
    ) -> None:
        for call in cast("list[Call]", result.requests):
            if call.done:
                continue
            target = call.target
            touched.add(target)
            if target.reply_limit_reached():
                _drop(call)
                continue
            try:
                if call.want_timing:
                    ext = _with_timing(encoded.dims, call, result, now)
                else:
                    ext = pack_extension(dims=encoded.dims)
                target.reply(call, encoded.meta, ext, encoded.buffers, encoded.body_length)
            except (LocalError, ValueError) as error:
                _cannot_send(call, error)
                continue
            replied.append(call)

    def _plan(self, signature: OutputSignature) -> Plan:
        plan = self._plans.get(signature)
        if plan is None or plan.signature is not signature:  # equal but another object: an engine started anew
            plan = Plan(self._model, self._version, signature)
            self._plans.put(signature, plan)
        return plan


def _send_run(
    calls: list[Call],
    stream_ids: list[int],
    form: ReplyForm,
    frames: list[memoryview | bytes],
    replied: list[Call],
) -> None:
    """Queue replies of one form on one connection; what is queued goes to `replied`."""
    target = calls[0].target
    if target.reply_together(calls, stream_ids, frames, len(calls) * form.nbytes):
        replied += calls
        return
    parts = len(frames) // len(calls)
    for index, call in enumerate(calls):  # some came in chunks
        body = frames[index * parts + 1 : (index + 1) * parts]
        try:
            target.reply(call, form.meta, form.ext, body, form.body_length)
        except (LocalError, ValueError) as error:
            _cannot_send(call, error)
            continue
        replied.append(call)


def _rows(outputs: list[memoryview], plan: Plan, first: int, end: int) -> list[memoryview | bytes]:
    """Return the body of a reply of these rows."""
    padding = plan.shapes[end - first].padding
    body: list[memoryview | bytes] = []
    for data, size, gap in zip(outputs, plan.row_bytes, padding, strict=True):
        if gap:
            body.append(gap)
        if size:
            body.append(data[first * size : end * size])
    return body


def _with_timing(dims: bytes, call: Call, result: BatchResult, now: float) -> bytes:
    """Make the extension with the TIMING item: where the call's time went, in microseconds (SPEC 14)."""
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
    """Tell the caller that its model gave what the protocol cannot carry (too many outputs)."""
    call.target.fail(call, Status.INTERNAL, f"the model's outputs cannot be sent: {error}", started=True)


def _drop(call: Call) -> None:
    """Keep nothing more for a caller that does not read (memory is everybody's)."""
    text = "the reply was dropped: too many bytes of replies wait for this connection to read them; read them, or have"
    call.target.fail(call, Status.RESOURCE_EXHAUSTED, f"{text} fewer calls in flight", started=True)
