"""What a model does, seen from outside before anybody calls it: the checks of `tensorwire check`.

What lives here: running a model on inputs of our own and saying what was seen, and which lines of model.toml follow.
What must not: printing (check_commands.py), serving, the memory of calls: the model gets arrays that nobody else has.
"""

from __future__ import annotations

import gc
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import FREE, Kind, RaggedArray, TensorSpec
from .check_declared import misfits
from .check_report import Line, Report, State
from .engine.backends import Backend, LoadError, load_backend
from .engine.executor import Executor
from .engine.neighbours import BELOW, MOST_ROWS, Found, alone_of, leak_of, look, rule_for, told, untested
from .engine.outputs import OutputError, Outputs
from .engine.redaction import is_ctrl_c
from .engine.samples import Batch, ordinary
from .engine.spec import ModelSpec, SpecError, as_named, load_spec
from .model_loader import INLINE_BELOW, choose_placement

__all__ = ["check_model", "model_folders"]

Array = np.ndarray[Any, Any]
Progress = Callable[[str], None]

FREE_SIZES = (1, 3, 16, 33)
"""Sizes that all free axes are tried with."""
OTHER_SIZES = (16, 32, 64, 128, 224, 256, 512, 4, 2, 1)
"""Sizes of free axes to look for one that the model takes, where it does not take that of model.toml."""
LOOK_SECONDS = 20.0
"""Time for comparing neighbours: more than at a server's start."""
MEASURED_ROWS = 32
"""Rows of the batch whose memory is measured, at most."""
SAME = "the same bits"
DIFFERENT = "two answers: it draws random numbers or keeps a state"


def model_folders(folder: Path) -> list[Path]:
    """Return the folders of model versions that `folder` is, or holds: that of a version, a model, or of models."""
    for pattern in ("model.toml", "*/model.toml", "*/*/model.toml"):
        found = sorted(path.parent for path in folder.glob(pattern))
        if found:
            return found
    return []


def check_model(folder: Path, progress: Progress = lambda _step: None, link_roots: Sequence[Path] = ()) -> Report:
    """Load the model of a folder and check it; `progress` is told each step. Takes seconds, with the model's own time.

    link_roots: see load_spec. Whatever is wrong with the model is in the report; nothing is raised.
    """
    where = as_named(folder)
    report = Report(where, where.parent.name, where.name)
    progress("loading")
    try:
        spec = load_spec(folder, link_roots=link_roots)
    except SpecError as error:
        report.add("model.toml", State.WRONG, str(error))
        return report
    began = time.monotonic()
    try:
        backend = load_backend(spec)
    except LoadError as error:
        report.add("loads", State.WRONG, str(error))
        return report
    report.add("loads", State.OK, f"in {time.monotonic() - began:.2f} s")
    try:
        _Examination(spec, backend, report, progress).run()
    finally:
        backend.close()
    return report


class _Examination:
    """One loaded model, looked at from all sides."""

    def __init__(self, spec: ModelSpec, backend: Backend, report: Report, progress: Progress) -> None:
        self._warms_up = spec.warmup
        self._spec = replace(spec, warmup=True)
        self._backend = backend
        self._report = report
        self._progress = progress
        self._below = 0  # integers that the model takes are below; 0: it takes zeros only
        self._refused = ""  # what it said to others
        self._runs = False

    def run(self) -> None:
        """Do all checks, as far as the model lets us."""
        self._step("types and axes", self._declared)
        self._step("first runs", self._first_runs)
        if self._runs:
            self._step("memory per row", self._memory)
            self._step("batch sizes", self._times)
            self._step("neighbours", self._neighbours)
            self._step("inputs and outputs", self._habits)
            self._step("free axes", self._free_axes)

    def _step(self, name: str, step: Callable[[], object]) -> None:
        self._progress(name)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # what it does is told in the report
                step()
        except BaseException as error:  # a model may raise anything, and at its second run
            if is_ctrl_c(error):
                raise
            self._report.add(name, State.WRONG, told(error))

    # ---- what its file says ----

    def _declared(self) -> None:
        declared = self._backend.declared()
        report, spec = self._report, self._spec
        if not declared:
            report.add("types and axes", State.UNKNOWN, f"a {spec.backend} model does not say what it takes")
            return
        wrong, lines = misfits(spec, declared)
        seen = "; ".join(wrong) if wrong else f"{len(declared)} tensors are as its file says"
        report.add("types and axes", State.WRONG if wrong else State.OK, seen)
        for line in lines:
            self._line(line)

    # ---- whether it runs ----

    def _first_runs(self) -> None:
        """Find inputs that the model takes: ordinary ones, else zeros; with other sizes of free axes if it must be."""
        report, asked = self._report, self._spec
        self._runs = self._try_inputs()
        problem = self._refused
        sizes = () if self._runs or not self._free else OTHER_SIZES
        for size in sizes:
            self._spec = replace(asked, warmup_shapes=self._sized(size))
            self._runs = self._try_inputs()
            if self._runs:
                self._suggest_sizes(asked, problem)
                break
        if not self._runs and not self._warms_up:
            unseen = "it takes no inputs that are made here; with warmup = false it is served, and nothing more is seen"
            report.add("runs", State.NOTE, f"{unseen}: {problem}")
        elif not self._runs:
            report.add("runs", State.WRONG, problem)
        elif self._below:
            report.add("runs", State.OK, f"with random inputs{self._integers()}")
        else:
            report.add("runs", State.NOTE, f"with zeros only: {self._refused}")

    def _suggest_sizes(self, asked: ModelSpec, problem: str) -> None:
        """Report that the sizes of now work, and those that model.toml asks for do not."""
        wanted, works = (" and ".join(str(list(s)) for s in spec.warmup_shapes) for spec in (asked, self._spec))
        state = State.WRONG if self._warms_up else State.NOTE
        self._report.add("warm-up sizes", state, f"not with {wanted}, but with {works}: {problem}")
        for tensor, shape in zip(self._spec.inputs, self._spec.warmup_shapes, strict=True):
            if FREE in self._axes(tensor):
                line = f"warmup_shape = {list(shape)}"
                self._line(Line(f"inputs.{tensor.name}", line, f"the server starts with it, but not with {wanted}"))

    def _try_inputs(self) -> bool:
        """Find what integers the model takes, or whether zeros alone; False where it takes nothing."""
        for below in (*BELOW, 0):
            self._below = below
            problem = self._problem(self._inputs(1))
            if not problem:
                return True
            self._refused = problem
        return False

    def _integers(self) -> str:
        integers = any(t.kind is not Kind.STRING and _is_integer(t) for t in self._spec.inputs)
        return f", integers below {self._below}" if integers else ""

    # ---- time and memory ----

    def _memory(self) -> None:
        report, spec = self._report, self._spec
        one = self._inputs(1)
        report.row_bytes_in = sum(_nbytes(value) for value in one.values())
        outputs = self._executor().answer(one)[1]
        report.row_bytes_out = sum(len(part) for part in (outputs if spec.batched else outputs[2:]))
        rows = min(spec.max_batch, MEASURED_ROWS)
        many = self._inputs(rows) if rows > 1 else {}
        problem, work = "", ""
        if many:
            before = _peak(reset=True)
            problem = self._problem(many)
            report.row_bytes_work = max(0, _peak() - before) // rows
            work = f", about {_size(report.row_bytes_work)} more while it works"
        if problem:
            report.add(f"{rows} rows", State.WRONG, problem)
        seen = f"{_size(report.row_bytes_in)} in, {_size(report.row_bytes_out)} out{work}"
        report.add("memory per row" if spec.batched else "memory per call", State.OK, seen)

    def _times(self) -> None:
        report, spec = self._report, replace(self._spec, batch_with="anyone")
        try:
            warm_up = Executor(spec, self._backend).warm_up()
        except LoadError as error:
            report.add("warm-up", State.WRONG, str(error))
            return
        report.seconds = warm_up.seconds
        most = warm_up.effective_max_batch
        if spec.batched:
            enough = "" if most == spec.max_batch else f"; more than {most} bring no more rows per second"
            report.add("batch sizes", State.OK, f"up to {most} rows{enough}")
        else:
            report.add("batch sizes", State.OK, "none: every call runs alone")
        placed = choose_placement(spec, warm_up.seconds, most)
        cost = warm_up.seconds[max(rows for rows in warm_up.seconds if rows <= most)]
        if spec.engine == "auto" and spec.device == "cpu":
            than = "less" if placed == "inline" else "more"
            reason = f"its largest batch takes {cost * 1e6:.0f} us, {than} than {INLINE_BELOW * 1e6:.0f}"
            self._line(Line("", f'engine = "{placed}"', reason))

    # ---- rows and their neighbours ----

    def _neighbours(self) -> None:
        report, spec = self._report, self._spec
        if spec.max_batch < 2:
            self._note_repeats(repeats=self._repeats())
            report.add("neighbours", State.OK, "none: every call runs alone" if not spec.batched else "none: one row")
            return
        found = look(spec, self._executor().answer, min(spec.max_batch, MOST_ROWS), LOOK_SECONDS)
        if found.below:
            self._note_repeats(repeats=found.repeats)
        if found.tested:
            self._judge(found)
        else:
            report.add("neighbours", State.UNKNOWN, untested(found))

    def _note_repeats(self, *, repeats: bool) -> None:
        self._report.add("same call twice", *((State.OK, SAME) if repeats else (State.NOTE, DIFFERENT)))

    def _judge(self, found: Found) -> None:
        """Report what follows from comparing rows."""
        report, spec = self._report, self._spec
        shared = State.WRONG if spec.batch_with == "anyone" else State.NOTE
        if found.leak:
            report.add("neighbours", shared, leak_of(found))
        else:
            report.add("neighbours", State.OK, "no bit of a row depends on what is beside it")
            if found.gross:
                report.add("alone = batched", shared, f"{alone_of(found)}: far more than rounding")
            elif found.beyond:
                report.add("alone = batched", State.NOTE, f"{alone_of(found)}: more than rounding, as a rule")
            else:
                seen = f"{found.alone:.2g} apart at most, which is rounding" if found.alone else "the same bits"
                report.add("alone = batched", State.OK, seen)
        rule = rule_for(replace(spec, batch_with="auto"), found, "").with_whom
        if rule != "anyone" and spec.batch_with == "auto":
            self._line(Line("", f'batch_with = "{rule}"', "rows of a batch change each other's answers"))

    def _repeats(self) -> bool:
        executor = self._executor()
        first, second = (executor.answer(self._inputs(1)) for _ in range(2))
        return first == second

    # ---- memory that it is given and gives ----

    def _habits(self) -> None:
        report = self._report
        if self._backend.stager is not None:
            report.add("inputs and outputs", State.UNKNOWN, "they are copied to the device and back")
            return
        inputs, owner = self._owned(1)
        before = {name: _bytes(value) for name, value in inputs.items()}
        raw = self._backend.run(inputs)
        written = [name for name, value in inputs.items() if _bytes(value) != before[name]]
        report.add("input written", *_noted(written, "it changes {} in place", "its inputs are as they were"))
        outputs = self._arrays(raw)
        held = {name: array.tobytes() for name, array in outputs.items()}
        others, other_owner = self._owned(2)
        again = self._backend.run(others)
        reused = [name for name, array in outputs.items() if array.tobytes() != held[name]]
        report.add(
            "output reused", *_noted(reused, "the next call writes over {}", "the next call leaves outputs alone")
        )
        del raw, outputs, again, inputs, others
        gc.collect()
        kept = [name for name in owner if owner[name]() is not None or other_owner[name]() is not None]
        report.add("input kept", *_noted(kept, "it keeps {} after the call", "it lets go of its inputs"))

    def _owned(self, seed: int) -> tuple[dict[str, Any], dict[str, weakref.ref[Any]]]:
        """Give inputs in memory that nobody else has, and tell whether it is still there."""
        values = self._inputs(seed=seed)
        owners = {}
        for name, value in values.items():
            array = value.values if isinstance(value, RaggedArray) else value
            owners[name] = weakref.ref(array if array.base is None else array.base)
        return values, owners

    def _arrays(self, raw: Any) -> dict[str, Array]:
        named = Outputs(self._spec).by_name(raw)
        return {name: value for name, value in named.items() if isinstance(value, np.ndarray)}

    # ---- free axes ----

    def _free_axes(self) -> None:
        if not self._free:
            return
        asked, problems = self._spec.warmup_shapes, {}
        for size in FREE_SIZES:
            self._spec = replace(self._spec, warmup_shapes=self._sized(size))
            problem = self._problem(self._inputs(1))
            if problem:
                problems[size] = problem
        self._spec = replace(self._spec, warmup_shapes=asked)
        if problems:
            sizes = ", ".join(map(str, problems))
            seen = f"not with {sizes}, which model.toml allows: {next(iter(problems.values()))}"
            self._report.add("free axes", State.NOTE, seen)
        else:
            self._report.add("free axes", State.OK, f"with {', '.join(map(str, FREE_SIZES))}")

    # ---- tools ----

    @property
    def _free(self) -> bool:
        return any(FREE in self._axes(tensor) for tensor in self._spec.inputs)

    def _axes(self, tensor: TensorSpec) -> tuple[int, ...]:
        return tensor.shape[1:] if self._spec.batched else tensor.shape

    def _sized(self, size: int) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of the inputs, without the batch axis, all free axes of this size."""
        return tuple(tuple(size if n == FREE else n for n in self._axes(tensor)) for tensor in self._spec.inputs)

    def _inputs(self, rows: int = 1, seed: int = 1) -> dict[str, Any]:
        """Make inputs that the model takes, of their own memory."""
        spec, values = self._spec, {}
        for index, (tensor, shape) in enumerate(zip(spec.inputs, spec.warmup_shapes, strict=True)):
            whole = (rows, *shape) if spec.batched else shape
            value = ordinary(tensor, whole, 100 * seed + index, self._below or 1)
            if tensor.kind is Kind.DENSE:
                value = Batch([tensor], [whole[1:]], whole[0]).of({tensor.name: value})[tensor.name] if whole else value
                if not self._below:
                    value[...] = spec.warmup_values[index] or 0
            values[tensor.name] = value
        return values

    def _problem(self, inputs: dict[str, Any]) -> str:
        """Tell what the model or its outputs have against these inputs, "" nothing."""
        try:
            self._executor().answer(inputs)
        except OutputError as wrong:
            return str(wrong)
        except BaseException as error:  # a model may raise anything
            if is_ctrl_c(error):
                raise
            return told(error)
        return ""

    def _executor(self) -> Executor:
        return Executor(self._spec, self._backend)

    def _line(self, line: Line) -> None:
        if all((other.table, other.line) != (line.table, line.line) for other in self._report.lines):
            self._report.lines.append(line)


def _noted(names: list[str], what: str, otherwise: str) -> tuple[State, str]:
    return (State.NOTE, what.format(", ".join(map(ascii, names)))) if names else (State.OK, otherwise)


def _is_integer(tensor: TensorSpec) -> bool:
    return tensor.kind is not Kind.STRING and np.dtype(tensor.dtype.numpy or np.uint8).kind in "iu"


def _bytes(value: Any) -> bytes:
    if isinstance(value, RaggedArray):
        return value.offsets.tobytes() + value.values.tobytes()
    return bytes(value.tobytes())


def _nbytes(value: Any) -> int:
    if isinstance(value, RaggedArray):
        return int(value.offsets.nbytes + value.values.nbytes)
    return sum(len(text.encode()) for text in value.flat) if value.dtype.kind == "O" else int(value.nbytes)


def _peak(*, reset: bool = False) -> int:
    """Return the bytes of memory that this process held at most since the last reset. Linux tells."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def _size(nbytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes} bytes"
