"""Replies to text: tables for people, JSON for programs, .npy for numpy; and the small formats every command shares.

Colours and boxes only on a terminal; NO_COLOR is honoured (by rich). Not here: what is printed when something fails
(``failures``).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from ...protocol.safe_text import printable
from .failures import Failure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..results import Result, Timing

FORMATS = ("table", "json", "npy")
PREVIEW_VALUES = 6
"""Values of an output that the table shows."""
HISTOGRAM_ROWS = 12
HISTOGRAM_WIDTH = 36
TIMING_PHASES = ("receive", "queue", "batch_wait", "copy_in", "compute", "copy_out", "server_total", "round_trip")

Array = npt.NDArray[Any]

if TYPE_CHECKING:
    _Format = click.ParamType[tuple[str, Path | None]]
else:
    _Format = click.ParamType  # older versions of click have no type argument


class OutputFormat(_Format):
    """``table``, ``json``, ``npy`` or ``npy=FILE``: converted to (format, file or None)."""

    name = "format"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002  (click's signature)
        """How help shows the value."""
        return "[table|json|npy[=FILE]]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path | None]:
        """Text to (format, file)."""
        if isinstance(value, tuple):
            return value
        kind, separator, file = str(value).partition("=")
        if kind not in FORMATS or (separator and (kind != "npy" or not file)):
            self.fail(f"{value!r} is no output format, expected table, json, npy or npy=FILE", param, ctx)
        return kind, Path(file) if file else None


def console(*, stderr: bool = False) -> Console:
    """Make a rich console that writes plain text where nobody looks."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, emoji=False, markup=False)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = (), title: str = ""
) -> Table:
    """Make a table with ``columns``, without a heading where they have no names; ``right`` ones are aligned so."""
    from rich import box
    from rich.table import Table

    result = Table(  # guard: printed-title
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
        show_edge=False,
        pad_edge=False,
        title=printable(title) or None,
        title_justify="left",
        title_style="bold",
    )
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        result.add_row(*(printable(str(cell)) for cell in row))  # guard: printed-table
    return result


def say(text: str) -> None:
    """Print one line that may hold a peer's words."""
    console().print(printable(text), soft_wrap=True)  # guard: printed-line


def echo_json(value: Any) -> None:
    """Print one JSON document on one line, so that several make JSON lines. What a terminal would obey is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not text.isprintable():  # guard: printed-json
        text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    click.echo(text)


# --- numbers ----------------------------------------------------------------------------------------------------------


def duration(microseconds: float) -> str:
    """``874 us``, ``12.3 ms``, ``4.56 s``."""
    if not math.isfinite(microseconds):
        return "-"
    if microseconds < 1000:
        return f"{microseconds:.0f} us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.{2 if microseconds < 100_000 else 0}f} ms"
    return f"{microseconds / 1_000_000:.2f} s"


def shape_text(dtype: str, shape: Iterable[int]) -> str:
    """``float32[1,3,224,224]``."""
    return f"{dtype}[{','.join(map(str, shape))}]"


# --- replies ----------------------------------------------------------------------------------------------------------


def top_labels(row: Array, labels: Sequence[str], count: int) -> list[tuple[int, str, float | None]]:
    """Return the ``count`` largest entries of a row of scores, best first: (index, label, score as JSON holds it)."""
    best = np.argsort(-np.asarray(_widened(row), np.float64).reshape(-1), kind="stable")[:count]
    scores = as_list(row.reshape(-1)[best])
    return [(int(index), labels[int(index)], score) for index, score in zip(best, scores, strict=True)]


def labelled_outputs(result: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """Names of the outputs whose last axis has one number per label."""
    if not labels:
        return []
    return [
        name
        for name, array in result.items()
        if isinstance(array, np.ndarray)
        and array.ndim >= 1
        and array.dtype.kind in "fiu"
        and array.shape[-1] == len(labels)
    ]


def as_list(array: Any) -> Any:
    """Return the values of an output as JSON holds them: NaN and infinities as null, complex as [re, im]."""
    if not isinstance(array, np.ndarray):
        return [as_list(np.asarray(row)) for row in array]
    if array.dtype.kind == "c":
        return as_list(np.stack([array.real, array.imag], axis=-1))
    array = _widened(array)
    return _without_nan(array.tolist()) if array.dtype.kind == "f" and not np.isfinite(array).all() else array.tolist()


def _is_numpys(array: Array) -> bool:
    """Return false for ml_dtypes' kinds, one of which calls itself a float of numpy's."""
    return array.dtype.kind in "OU" or issubclass(array.dtype.type, np.number | np.bool_)


def _widened(array: Array) -> Array:
    """Numbers of ml_dtypes as float64, which holds them all; others as they are."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return array if _is_numpys(array) else array.astype(np.float64)


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return value if math.isfinite(value) else None


def reply_as_json(result: Result, labels: Sequence[str], top: int) -> dict[str, Any]:
    """Write the whole reply: every value, the best labels where there are any, the timing where it was asked for."""
    reply: dict[str, Any] = {"model": result.model, "version": result.model_version, "request_id": result.request_id}
    reply["outputs"] = {
        name: {"dtype": _dtype_name(array), "shape": list(_shape(array)), "data": as_list(array)}
        for name, array in result.items()
    }
    named = labelled_outputs(result, labels) if top else []
    if named:
        reply["top"] = {
            name: [
                [
                    {"index": index, "label": label, "score": score}
                    for index, label, score in top_labels(row, labels, top)
                ]
                for row in result[name].reshape(-1, len(labels))
            ]
            for name in named
        }
    if result.timing is not None:
        reply["timing_us"] = asdict(result.timing)
    return reply


def print_reply(result: Result, labels: Sequence[str], top: int) -> None:
    """Show the reply to people: labels by name where there are any, else the first values of each output."""
    out = console()
    named = labelled_outputs(result, labels) if top else []
    for name in named:
        for number, row in enumerate(result[name].reshape(-1, len(labels))):
            title = f"{name}, row {number}" if result[name].size > len(labels) else name
            rows = [(label, _score(score), index) for index, label, score in top_labels(row, labels, top)]
            out.print(table(("label", "score", "index"), rows, right=("score", "index"), title=title))
    rest = [
        (name, shape_text(_dtype_name(a), _shape(a)), _preview(a)) for name, a in result.items() if name not in named
    ]
    if rest:
        out.print(table(("output", "type", "values"), rest))


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}" if isinstance(score, float) else str(score)


def print_timing(timings: Sequence[Timing], *, stderr: bool = False) -> None:
    """Where the time went, as the mean over ``timings``, with the share of the round trip; nothing for none."""
    if not timings:
        return
    means = {phase: sum(getattr(timing, phase) for timing in timings) / len(timings) for phase in TIMING_PHASES}
    whole = means["round_trip"] or 1.0
    rows = [(phase.replace("_", " "), duration(mean), f"{100 * mean / whole:.0f}%") for phase, mean in means.items()]
    out = console(stderr=stderr)
    if not stderr:
        out.print()
    title = "timing" if len(timings) == 1 else f"timing, mean of {len(timings)} calls"
    out.print(table(("phase", "time", "share"), rows, right=("time", "share"), title=title))


def write_npy(result: Mapping[str, Any], file: Path | None) -> None:
    """One output as .npy to ``file`` or standard output; as .npz where ``file`` is called so, which holds several.

    Raises Failure where that cannot be.
    """
    arrays = {
        name: array
        for name, array in result.items()
        if isinstance(array, np.ndarray) and array.dtype.kind in "biufc" and _is_numpys(array)
    }
    if len(arrays) != len(result):
        odd = next(name for name in result if name not in arrays)
        raise Failure(f"output {odd!r} is {_dtype_name(result[odd])}, which .npy cannot hold: use --output json")
    try:
        if len(arrays) == 1 and (file is None or file.suffix != ".npz"):
            array = next(iter(arrays.values()))
            if file is not None:
                with file.open("wb") as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
                return
            if sys.stdout.isatty():
                raise Failure(
                    "a .npy is not for a terminal: use --output npy=FILE, or send it to a file or program with > or |"
                )
            np.lib.format.write_array(sys.stdout.buffer, array, allow_pickle=False)
        elif file is None or file.suffix != ".npz":
            raise Failure(
                f"the model has {len(arrays)} outputs: use --output npy=FILE.npz, which holds them all by name"
            )
        elif strange := [name for name in arrays if not _is_file_name(name)]:  # guard: archive-names
            raise Failure(f"output {strange[0]!r} has no name for a file in an archive: use --output json")
        else:
            with file.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
    except OSError as error:
        if file is None:
            raise
        raise Failure(f"cannot write {printable(str(file), 200)!r}: {error.strerror or error}") from error


def _is_file_name(name: str) -> bool:
    """Whether whoever unpacks an archive may find this name in it; numpy keeps two of them for itself."""
    return name.isprintable() and not {"/", "\\"} & set(name) and name not in {"..", "file", "allow_pickle"}


def _dtype_name(array: Any) -> str:
    if not isinstance(array, np.ndarray):
        return f"ragged {array.dtype.name}"
    return "string" if array.dtype.kind in "OU" else array.dtype.name


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(array.shape)


def _preview(array: Any) -> str:
    if not isinstance(array, np.ndarray):
        return ", ".join(str(as_list(np.asarray(row))) for row in list(array)[:2])
    flat = array.reshape(-1)[:PREVIEW_VALUES]
    if array.dtype.kind in "OU":
        shown = [repr(item) for item in flat.tolist()]
    elif array.dtype.kind in "biu":
        shown = [str(item) for item in flat.tolist()]
    else:
        shown = [f"{item:.5g}" for item in _widened(flat).tolist()]
    return ", ".join(shown) + (", ..." if array.size > PREVIEW_VALUES else "")


# --- load -------------------------------------------------------------------------------------------------------------


def histogram(latencies: npt.NDArray[np.float64]) -> list[str]:
    """Latencies (seconds, ascending) as rows of bars, in bins of equal ratio; the rarest one per cent shares the
    last row.
    """
    if not len(latencies):
        return []
    low = float(latencies[0])
    high = max(float(latencies[int(0.99 * (len(latencies) - 1))]), low * 1.01)
    edges = np.geomspace(max(low, 1e-9), high, HISTOGRAM_ROWS)
    counts = np.histogram(latencies, np.concatenate([edges, [np.inf]]))[0]
    tallest = counts.max()
    rows = []
    for edge, count in zip(edges, counts, strict=True):
        bar = "#" * math.ceil(HISTOGRAM_WIDTH * count / tallest)
        rows.append(f"{duration(edge * 1e6):>9} | {bar:<{HISTOGRAM_WIDTH}} {count}")
    return rows
