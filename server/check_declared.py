"""model.toml against what the model's own file says of types and axes, before the first run.

What lives here: what does not fit, in words, and the lines of model.toml that would. What must not: loading, running.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..codec import FREE, Kind, TensorSpec
from .check_report import Line
from .engine.spec import ModelSpec

__all__ = ["misfits"]

_Shape = tuple[int, ...]


def misfits(spec: ModelSpec, declared: Mapping[str, tuple[str, _Shape]]) -> tuple[list[str], list[Line]]:
    """Tell what model.toml says otherwise than the file, and what mends it; `declared` as Backend.declared()."""
    wrong: list[str] = []
    lines: list[Line] = []
    for side, tensors in (("inputs", (*spec.inputs, *spec.optional)), ("outputs", spec.outputs)):
        for tensor in tensors:
            if tensor.name in declared:
                dtype, shape = declared[tensor.name]
                _dtype(side, tensor, dtype, wrong, lines)
                _shape(side, tensor, shape, spec, wrong, lines)
    return wrong, lines


def _dtype(side: str, tensor: TensorSpec, dtype: str, wrong: list[str], lines: list[Line]) -> None:
    ours = "string" if tensor.kind is Kind.STRING else tensor.dtype.name
    if dtype != ours:
        wrong.append(f"{tensor.name!a} is {dtype} in the file, {ours} in model.toml")
        line = 'kind = "string"' if dtype == "string" else f'dtype = "{dtype}"'
        lines.append(Line(f"{side}.{tensor.name}", line, "the file says so"))


def _shape(side: str, tensor: TensorSpec, shape: _Shape, spec: ModelSpec, wrong: list[str], lines: list[Line]) -> None:
    """Compare sizes: an axis that the file fixes has that size, an output may leave it free, batch axes have a rule."""
    table, name, ours = f"{side}.{tensor.name}", ascii(tensor.name), tensor.shape
    if len(shape) != len(ours):
        wrong.append(f"{name} has {len(shape)} axes in the file, {len(ours)} in model.toml")
        lines.append(Line(table, f"shape = {list(shape)}", "the file says so"))
        return
    first = 1 if spec.batched else 0
    free = {FREE} if side == "outputs" else set()
    axes = [axis for axis in range(first, len(shape)) if shape[axis] != FREE and ours[axis] not in {shape[axis], *free}]
    if axes:
        wrong.append(f"{name} is {list(shape)} in the file, {list(ours)} in model.toml")
        fitting = [want if axis in axes else have for axis, (want, have) in enumerate(zip(shape, ours, strict=True))]
        lines.append(Line(table, f"shape = {fitting}", f"the file fixes axis {', '.join(map(str, axes))}"))
    rows = shape[0] if first else FREE
    if rows != FREE and side == "inputs" and (rows, spec.max_batch) != (1, 1):
        wrong.append(f"{name} has {rows} rows in the file, always; model.toml allows 1 to {spec.max_batch}")
        if rows == 1:
            lines.append(Line("", "max_batch = 1", "the file fixes the batch at one row"))
        else:
            lines.append(Line("", "max_batch = 0", f"the file fixes the first axis at {rows}: it is no batch axis"))
            lines.append(Line(table, f"shape = {list(shape)}", "the file fixes the first axis"))
