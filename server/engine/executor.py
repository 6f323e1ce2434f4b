"""Running one batch: rows to arrays, the model, outputs to bytes. Also what warm-up learns about the model.

What lives here: the call, the stamps between its phases, synthetic inputs, the measured batch size. What must not: the
queue, whose memory the inputs lie in (inputs.py), deciding what a failure means for requests (core.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ...codec import Kind, RaggedArray
from ...codec.errors import shown
from ...gpu.staging import BatchInput
from .api import BatchResult
from .backends import LoadError
from .inputs import Inputs
from .log import log
from .neighbours import MOST_ROWS, Answer, Batching, look, rule_for
from .outputs import OutputError, Outputs
from .ownership import arrays_in, nobody_keeps
from .redaction import is_ctrl_c, text_of, type_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...codec import TensorSpec
    from .api import OutputSignature, Prepared, Request
    from .backends import Backend
    from .batch_memory import Run
    from .spec import ModelSpec, WarmUpValue

__all__ = ["Executor", "WarmUp"]

Array = np.ndarray[Any, Any]

GROWTH = 0.95
"""A batch size is large enough when it reaches this share of the best rows per second seen: below 5% is noise."""
WARM_UP_SECONDS = 5.0
"""Time for measuring batch sizes, first runs (which compile and allocate) included; no size is begun after it."""
COMPARED_WITHIN = 0.05
"""Seconds of a batch in which rows are compared: a slower model is asked with fewer rows."""
REPEATS = 5
"""Timed runs of one size; the fastest counts, for everything else is the machine's other work."""
IN_TURN_SECONDS = 0.1
"""Time in which all sizes are then timed in turn: others take a core for tens of milliseconds, and a size timed within
such a spell alone would look like one that brings nothing, for as long as the server lives."""


class WarmUp:
    """What was measured: seconds of the fastest batch by its rows, the rows beyond which nothing is gained, and whose
    calls share a batch (see neighbours.py), with remarks about that for the log.
    """

    __slots__ = ("batch_with", "effective_max_batch", "remarks", "seconds")

    def __init__(self, effective_max_batch: int, seconds: dict[int, float], batching: Batching | None = None) -> None:
        self.batch_with = "anyone" if batching is None else batching.with_whom
        self.remarks: tuple[str, ...] = () if batching is None else batching.remarks
        self.effective_max_batch = 1 if self.batch_with == "nobody" else effective_max_batch  # guard: loud-row
        self.seconds = seconds


class Executor:
    """One loaded model and the memory it needs between batches. One per engine and thread.

    `inputs` knows whose memory the model has been given.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backend: Backend,
        clock: Callable[[], float] = time.monotonic,
        allocate: Callable[[int], memoryview] | None = None,
    ) -> None:
        self._spec = spec
        self._backend = backend
        self._clock = clock
        self._allocate = allocate or _plain_memory
        self._outputs = Outputs(spec, backend.gives_own)
        self.inputs = Inputs(spec)

    def run(self, requests: list[Request], runs: list[Run], rows: int, planned: float) -> BatchResult:
        """One batch, whose rows lie at `runs`, as they were sent if there is more than one request. Raises OutputError,
        or what the model raises. If `inputs.lent` is set then, `inputs.take_back()` before that is used again.
        """
        prepared = requests[0].prepared
        if prepared is not None and prepared.bucket is None:
            return self._run_alone(requests, prepared, planned)
        if self._backend.stager is not None:
            return self._run_on_device(requests, runs, rows, planned)
        clock = self._clock
        memory = self.inputs
        inputs: Any = memory.batch(runs, rows, len(requests))
        copied_in = clock()
        raw = [self._backend.run(inputs)]  # a list that it is taken out of: in the end nothing here refers to either
        inputs = None
        computed = clock()
        signature, outputs = self._outputs.batch(raw, rows, memory)
        memory.block = None
        return BatchResult(requests, signature, outputs, rows, planned, copied_in, computed, clock())

    def warm_up(self) -> WarmUp:
        """Run the model on zeros and measure its batch sizes. Raises LoadError if it cannot run at all."""
        spec = self._spec
        if not spec.warmup:
            hint = self._backend.hint() if spec.batched else ""
            return WarmUp(max(1, spec.max_batch), {}, rule_for(spec, None, hint))
        if not spec.batched:
            return WarmUp(1, {1: self._measure(1)}, rule_for(spec, None, ""))
        until = time.monotonic() + WARM_UP_SECONDS
        seconds: dict[int, float] = {}
        for rows in _sizes(spec.max_batch):
            if _past_the_best(seconds):
                self._measure_in_turn(seconds, until)
            if time.monotonic() >= until or _past_the_best(seconds):
                break
            seconds[rows] = self._measure(rows)
        else:
            self._measure_in_turn(seconds, until)
        return WarmUp(_best_size(seconds), seconds, self._batching(seconds))

    def answer(self, inputs: dict[str, Array]) -> Answer:
        """Run one batch, or one call without batch axis, on inputs that stay as they are; its outputs are copied.
        Raises what the model raises.
        """
        given = [{name: _copy(value) for name, value in inputs.items()}]
        if not self._spec.batched:
            encoded = self._outputs.alone([self._call_alone(given.pop())], None)
            return (), [encoded.meta, encoded.dims, *[bytes(buffer) for buffer in encoded.buffers]]
        signature, outputs = self._try(given, len(next(iter(inputs.values()))))
        return signature, [bytes(output) for output in outputs]

    def _batching(self, seconds: dict[int, float]) -> Batching:
        """Whose calls share a batch; measured where they would and the model's folder does not say."""
        spec, most = self._spec, min(_best_size(seconds), MOST_ROWS)
        if most < 2 or spec.batch_with != "auto":
            return rule_for(spec, None, "")
        short = [rows for rows in seconds if rows <= most and seconds[rows] < COMPARED_WITHIN]
        found = look(spec, self.answer, max([2, *short]))
        return rule_for(spec, found, "" if found.tested else self._backend.hint())

    def trim(self) -> None:
        """Drop memory kept between batches."""
        self.inputs.trim()

    def close(self) -> None:
        """Close the model. What that raises is nobody's any more, and only logged."""
        try:
            self._backend.close()
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            name = f"{self._spec.name}/{self._spec.version}"
            log.warning(f"{name}: closing it raised {type_of(error)}: {shown(text_of(error), 300)}")
        self.trim()

    def _run_alone(self, requests: list[Request], prepared: Prepared, planned: float) -> BatchResult:
        block = requests[0].block
        if block is None:
            raise OutputError("the request has no memory")
        memory = self.inputs
        inputs: Any = memory.whole(prepared, block)
        copied_in = self._clock()
        raw = [self._call_alone(inputs)]
        inputs = None
        computed = self._clock()
        encoded = self._outputs.alone(raw, memory)
        memory.block = None
        return BatchResult(requests, (), [], requests[0].rows, planned, copied_in, computed, self._clock(), encoded)

    def _call_alone(self, inputs: dict[str, Any]) -> Any:
        """Run a call without batch axis; on a device its arrays travel as a batch of one and lose that axis again."""
        stager = self._backend.stager
        if stager is None:
            return self._backend.run(inputs)
        staged = stager.copy_in(
            [
                BatchInput(t.name, t.dtype.name, inputs[t.name].shape, [inputs[t.name].reshape(-1).view(np.uint8).data])
                for t in self._spec.inputs
            ],
            1,
        )
        raw = self._backend.run({name: tensor[0] for name, tensor in staged.items()})
        return {name: self._backend.to_host(tensor) for name, tensor in self._outputs.by_name(raw).items()}

    def _run_on_device(self, requests: list[Request], runs: list[Run], rows: int, planned: float) -> BatchResult:
        stager = self._backend.stager
        bucket = runs[0][0].bucket
        if stager is None or bucket is None:
            raise OutputError("the model has no device")
        inputs = [
            BatchInput(
                spec.name, spec.dtype.name, field.row_shape, [_slice(run, index, field.row_bytes) for run in runs]
            )
            for index, (spec, field) in enumerate(zip(self._spec.inputs, bucket.fields, strict=True))
        ]
        staged = stager.copy_in(inputs, rows)
        copied_in = self._clock()
        raw = self._backend.run(staged)
        self._backend.wait()
        computed = self._clock()
        tensors = self._outputs.device_batch(raw, rows)
        copies = stager.copy_out(tensors, self._allocate)
        signature, outputs = self._outputs.from_host(copies)
        return BatchResult(requests, signature, outputs, rows, planned, copied_in, computed, self._clock())

    def _measure(self, rows: int) -> float:
        """Seconds of the fastest of a few batches."""
        inputs = self._zeros(rows)
        fastest = spent = self._time(inputs, rows)
        for _ in range(REPEATS - 1):
            if spent > WARM_UP_SECONDS / 10:  # a slow model: its other sizes want their time too
                break
            again = self._time(inputs, rows)
            spent += again
            fastest = min(fastest, again)
        return fastest

    def _measure_in_turn(self, seconds: dict[int, float], until: float) -> None:
        """Time every size again and again for a moment, as far as the time lasts; the fastest counts."""
        until = min(until, time.monotonic() + IN_TURN_SECONDS)
        inputs = {rows: self._zeros(rows) for rows in seconds}
        while True:
            for rows, fastest in seconds.items():
                if time.monotonic() + fastest >= until:
                    return
                seconds[rows] = min(fastest, self._time(inputs[rows], rows))

    def _zeros(self, rows: int) -> dict[str, Any]:
        spec = self._spec
        values = spec.warmup_values or (None,) * len(spec.inputs)
        return {
            tensor.name: _synthetic(tensor, (rows, *shape) if spec.batched else shape, value)
            for tensor, shape, value in zip(spec.inputs, spec.warmup_shapes, values, strict=True)
        }

    def _time(self, inputs: dict[str, Any], rows: int) -> float:
        """Seconds of one batch of these inputs, which stay as they are: the model gets copies. Raises LoadError."""
        mine = {name: _copy(value) for name, value in inputs.items()}
        arrays = arrays_in(mine)
        given = [mine]
        del mine
        begin = time.perf_counter()
        try:
            if not self._spec.batched:
                self._outputs.alone([self._call_alone(given.pop())], None)
            else:
                self._try(given, rows)
        except OutputError as wrong:
            raise LoadError(f"warm-up with {rows} rows: {wrong}") from wrong
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            raise LoadError(
                f"warm-up with {rows} rows of zeros: model raised {type_of(error)}: {text_of(error)}; "
                f"set warmup_shape to sizes it takes, or warmup = false"
            ) from error
        seconds = max(time.perf_counter() - begin, 1e-9)
        if not nobody_keeps(arrays):
            self.inputs.note_kept()
        return seconds

    def _try(self, given: list[dict[str, Any]], rows: int) -> tuple[OutputSignature, list[memoryview]]:
        """Run a batch that nobody called for; its inputs are taken out of the list, as the model's."""
        stager = self._backend.stager
        if stager is None:
            return self._outputs.batch([self._backend.run(given.pop())], rows, None)
        inputs = given.pop()
        batch = [
            BatchInput(t.name, t.dtype.name, inputs[t.name].shape[1:], [inputs[t.name].reshape(-1).view(np.uint8).data])
            for t in self._spec.inputs
        ]
        tensors = self._outputs.device_batch(self._backend.run(stager.copy_in(batch, rows)), rows)
        return self._outputs.from_host(stager.copy_out(tensors, _plain_memory))


def _slice(run: Run, index: int, row_bytes: int) -> memoryview:
    block, start, rows = run
    return block.views[index][start * row_bytes : (start + rows) * row_bytes]


def _sizes(most: int) -> list[int]:
    """1, 2, 4 .. and the largest itself."""
    sizes = [1 << power for power in range(most.bit_length())]
    return sizes if sizes[-1] == most else [*sizes, most]


def _best_size(seconds: dict[int, float]) -> int:
    """Return the smallest size that reaches (nearly) the most rows per second."""
    best = max(rows / cost for rows, cost in seconds.items())
    return min(rows for rows, cost in seconds.items() if rows / cost >= GROWTH * best)


def _past_the_best(seconds: dict[int, float]) -> bool:
    """Whether the last two sizes, twice and four times the best, brought nothing."""
    return len(seconds) > 2 and _best_size(seconds) <= list(seconds)[-3]


def _synthetic(tensor: TensorSpec, shape: tuple[int, ...], value: WarmUpValue | None) -> Any:
    if tensor.kind is Kind.STRING:
        return np.full(shape, value or "", dtype=object)
    array = np.full(shape, value or 0, tensor.dtype.numpy or tensor.dtype.storage)
    return RaggedArray(np.arange(shape[0] + 1), array) if tensor.kind is Kind.RAGGED else array


def _copy(value: Any) -> Any:
    if isinstance(value, RaggedArray):
        return RaggedArray(value.offsets.copy(), value.values.copy())
    return value.copy()


def _plain_memory(nbytes: int) -> memoryview:
    return memoryview(bytearray(nbytes))
