"""Whether the answer to a row depends on the rows beside it, which may be another caller's. Measured at warm-up.

What lives here: the measurement, and what follows from it for who may share a batch. What must not: batching itself
(batcher.py), anything about queues.

A row's bits may change with the *size* of its batch and with its place in it: other kernels round otherwise. They must
not change with what its neighbours *hold*. So batches of one size are compared, in which one row stays where and what
it is and all others are exchanged: for other ordinary values, for values 1,000 times as large, for NaN and infinity;
where there are integers and bools, small ones for large ones.
Any bit of difference is a leak. A model that is quantised while it runs (dynamic int8) takes one scale for the whole
batch: beside a loud row a quiet one is nothing but zeros.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...codec import dtype_by_name
from ...codec.errors import shown
from .redaction import is_ctrl_c, text_of, type_of
from .samples import Batch, difference, large, loud, not_finite, ordinary, small

if TYPE_CHECKING:
    from collections.abc import Callable

    from .api import OutputSignature
    from .spec import ModelSpec

__all__ = ["Answer", "Batching", "Found", "alone_of", "leak_of", "look", "rule_for", "told", "untested"]

Array = np.ndarray[Any, Any]
Answer = tuple["OutputSignature", list[bytes]]

MOST_ROWS = 8
"""Rows of a batch that is compared: a leak shows with two."""
SECONDS = 2.0
"""After it no further comparison is begun; the first, with loud neighbours, always is."""
SLOWEST = 10.0
"""Seconds of a batch beyond which nothing is compared: a start has a time limit, and the runs would exceed it."""
BELOW = (8, 2, 1)
"""Integers are below the first of these that the model takes: a token id beyond the vocabulary raises."""
GROSS = 0.1
"""Difference between alone and in a batch, as a share of the row's largest value, that no rounding explains."""
ROUNDING = {
    "float64": (1e-9, 1e-12),
    "float32": (1e-4, 1e-6),
    "float16": (1e-2, 1e-3),
    "bfloat16": (2e-2, 1e-3),
    "complex64": (1e-4, 1e-6),
    "complex128": (1e-9, 1e-12),
}
"""Differences between alone and in a batch that are rounding: a share of the row's largest value, and beside it."""
ON_DEVICE = 5e-3
"""The share for float32 on a device, whose kernels may multiply with fewer bits."""


@dataclass(slots=True)
class Found:
    """What was seen.

    `below`: integers were below it; 0: the model took no inputs but zeros. `slow`: a run took so long that no other was
    made. `repeats`: the same call twice gave the same bits; otherwise nothing else is known. `leak`: the neighbours
    beside which a row's answer changed, "" none, and `changed` by how much at most. `alone`: the largest difference
    between a row alone and in its batch (`size`: the largest value of such rows), `beyond` whether that is more than
    rounding, `gross` whether far more. `raised`: what the model said to inputs that it did not take.
    """

    rows: int = 0
    below: int = 0
    slow: bool = False
    repeats: bool = False
    leak: str = ""
    changed: float = 0.0
    alone: float = 0.0
    size: float = 0.0
    beyond: bool = False
    gross: bool = False
    raised: str = ""

    @property
    def tested(self) -> bool:
        """Whether anything is known."""
        return self.below > 0 and self.repeats


@dataclass(slots=True)
class Batching:
    """Whose calls share a batch ("anyone", "principal", "nobody"), and for the log why that is not as usual."""

    with_whom: str
    remarks: tuple[str, ...] = ()


def look(
    spec: ModelSpec,
    run: Callable[[dict[str, Array]], Answer],
    rows: int,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Compare batches of `rows` rows (2 at least). `run` gives the outputs of a batch and may raise anything."""
    found = Found(rows=rows)
    batch = Batch(spec.inputs, spec.warmup_shapes, rows)
    began = clock()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of NaN that is where we have put it
        tries = _Tries(spec, batch, run, found)
        base = tries.first()
        found.slow = clock() - began > SLOWEST
        if base is None or found.slow:
            return found
        found.repeats = tries.run(base) == tries.answer
        if not found.repeats:
            return found
        kinds = KINDS if any(array.dtype.kind not in "biu" for array in base.values()) else KINDS[1:2]
        for name, make in kinds:
            if found.leak or (name != kinds[0][0] and clock() > began + seconds):
                break
            tries.beside(name, base, make)
        if not found.leak:
            tries.alone(base)
        if not found.leak and clock() <= began + seconds and any(array.dtype.kind in "biu" for array in base.values()):
            tries.integers()
    return found


def rule_for(spec: ModelSpec, found: Found | None, hint: str) -> Batching:
    """Whose calls share a batch.

    `found` is None where nothing was measured; then `hint`, what the model's own parts say ("": nothing), decides.
    """
    if not spec.batched:
        return Batching("nobody")
    if spec.batch_with != "auto":
        return Batching(spec.batch_with)
    if found is not None and found.leak:
        return Batching("nobody", (f"{leak_of(found)}: {ALONE}",))
    if found is not None and found.gross:
        return Batching("nobody", (f"{alone_of(found)}, far more than rounding: {ALONE}",))
    if found is None or not found.tested:
        why = "" if found is None else f" ({untested(found)})"
        if hint:
            return Batching("nobody", (f"{hint}, and whether rows change each other was not measured{why}: {ALONE}",))
        return Batching("anyone", (f"whether rows change each other was not measured{why}",) if why else ())
    if found.beyond:
        return Batching("anyone", (f"{alone_of(found)}: more than rounding, as a rule",))
    return Batching("anyone")


def leak_of(found: Found) -> str:
    """In words, what changed a row."""
    return f"a row's answer changed by {found.changed:.3g} when its neighbours held {found.leak}"


def alone_of(found: Found) -> str:
    """In words, what the batch changed."""
    return f"a row's answer in a batch is {found.alone:.3g} away from its answer alone (largest value {found.size:.3g})"


def untested(found: Found) -> str:
    """In words, why nothing is known."""
    if found.slow:
        return f"a batch of {found.rows} rows takes more than {SLOWEST:g} s"
    if found.below:
        return "the same call twice gives two answers: it draws random numbers or keeps a state"
    return f"it takes no inputs but zeros: {found.raised}"


ALONE = (
    "calls run one at a time; batch_with in model.toml says otherwise "
    '("principal": calls of one principal share a batch, "anyone": all do)'
)


def told(error: BaseException) -> str:
    """Return what a model raised, on one line."""
    return f"{type_of(error)}: {shown(text_of(error), 200)}"


def rounding(dtype: str, device: str, largest: float) -> float:
    """How far a row in a batch may be from the same row alone, where the largest value is so large."""
    known = ROUNDING.get(dtype)
    if known is None:  # narrower floats: one step of theirs; integers and bools: nothing
        numpy = dtype_by_name(dtype).numpy
        return 0.25 * largest if numpy is not None and np.dtype(numpy).kind == "V" else 0.0
    share = ON_DEVICE if dtype in {"float32", "complex64"} and device != "cpu" else known[0]
    return share * largest + known[1]


KINDS: tuple[tuple[str, Callable[..., Array]], ...] = (
    ("values 1,000 times as large", loud),
    ("other values", ordinary),
    ("NaN and infinity", not_finite),
)


class _Tries:
    """Runs of one batch; what they show goes to `found`."""

    def __init__(self, spec: ModelSpec, batch: Batch, run: Callable[[dict[str, Array]], Answer], found: Found) -> None:
        self._spec = spec
        self._batch = batch
        self._run = run
        self._found = found
        self.answer: Answer = ((), [])

    def first(self) -> dict[str, Array] | None:
        """Ordinary inputs that the model takes, and `answer` to them; None: it takes none."""
        for below in BELOW:
            base = self._draw(ordinary, 0, below)
            if below == 1 and all(not array.any() for array in base.values()):
                break  # zeros say nothing
            answer = self.run(base)
            if answer is not None:
                self.answer, self._found.below, self._found.raised = answer, below, ""
                return base
        return None

    def run(self, values: dict[str, Array]) -> Answer | None:
        """Run a batch; None where the model raised, which is no leak: its calls are then repeated alone."""
        try:
            return self._run(self._batch.of(values))
        except BaseException as error:  # a model may raise anything
            if is_ctrl_c(error):
                raise
            self._found.raised = told(error)
            return None

    def beside(self, name: str, base: dict[str, Array], make: Callable[..., Array]) -> None:
        """Compare rows at three places beside others."""
        rows = self._found.rows
        for stays in sorted({0, rows // 2, rows - 1}):
            self.compare(name, self.exchanged(base, make, stays), stays)

    def integers(self) -> None:
        """Compare small integers beside such with the same beside large ones: any ordinary row holds the largest."""
        base = self._draw(small, 0, self._found.below)
        answer = self.run(base)
        if answer is not None:
            self.answer = answer
            self.beside("larger integers", base, large)

    def exchanged(self, base: dict[str, Array], make: Callable[..., Array], stays: int) -> dict[str, Array]:
        """Return the base, all rows but one exchanged."""
        values = self._draw(make, 1 + stays, self._found.below)
        for name, array in values.items():
            array[stays] = base[name][stays]
        return values

    def compare(self, name: str, values: dict[str, Array], row: int) -> None:
        """Note a leak where the row that stayed is answered otherwise than in the base."""
        answer = self.run(values)
        if answer is None:
            return
        if answer[0] != self.answer[0]:  # shapes that follow the largest row
            self._note(name, float("inf"))
            return
        for (_, dtype, _, size), before, after in zip(*self.answer, answer[1], strict=True):
            one, other = (data[row * size : (row + 1) * size] for data in (before, after))
            if one != other:
                self._note(name, difference(dtype, one, other)[0])

    def alone(self, base: dict[str, Array]) -> None:
        """Compare two rows of the base with the same rows alone."""
        found = self._found
        for row in {0, found.rows // 2}:
            answer = self.run({name: array[row : row + 1] for name, array in base.items()})
            if answer is None:
                continue
            if answer[0] != self.answer[0]:
                found.alone, found.beyond = float("inf"), True
                continue
            for (_, dtype, _, size), together, lone in zip(*self.answer, answer[1], strict=True):
                apart, largest = difference(dtype, lone, together[row * size : (row + 1) * size])
                if apart > found.alone:
                    found.alone, found.size = apart, largest
                beyond = apart > rounding(dtype, self._spec.device, largest)
                found.beyond |= beyond
                found.gross |= beyond and "float" in dtype and apart > GROSS * largest

    def _note(self, name: str, changed: float) -> None:
        self._found.leak = name
        self._found.changed = max(self._found.changed, changed)

    def _draw(self, make: Callable[..., Array], seed: int, below: int) -> dict[str, Array]:
        return {
            tensor.name: make(tensor, (self._found.rows, *shape), 100 * seed + index, below)
            for index, (tensor, shape) in enumerate(zip(self._spec.inputs, self._spec.warmup_shapes, strict=True))
        }
