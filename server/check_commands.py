"""`tensorwire check`: look at models before they are served, found by the CLI through an entry point.

What lives here: the command, its table and its JSON. What must not: running models (checks.py).
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..protocol.safe_text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

    from .check_report import Report

WRONG = 1
"""Exit code where something must be mended."""
STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red", "not tested": "dim"}


@click.command(short_help="Try models without serving them.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--link-roots", metavar="PATH,...", default="", help="Folders in which links in the folder may end, as of `serve`."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(folder: Path, link_roots: str, as_json: bool) -> None:
    """Load the model of FOLDER without serving it, and say what calls will meet.

    FOLDER is that of one version, of a model, or of models. Checked are: types and fixed axes against the model's file;
    whether a row's answer depends on its neighbours in a batch, or on the batch at all; the same call twice; what the
    model does with the memory of its inputs and outputs; free axes; time by batch size; memory per row. Then come the
    lines that model.toml could have, each with its reason.

    Exit code 1: something is wrong. A note is for you to know, the server copes with it.

    \b
    Examples:
      tensorwire check models/classifier/1
      tensorwire check models
      tensorwire check models --json | jq '.[].checks[] | select(.state == "wrong")'
    """  # noqa: D301 - click knows a paragraph not to be wrapped by a backspace
    from rich.console import Console

    from .checks import check_model, model_folders  # torch may come with it
    from .engine.spec import as_named

    folders = model_folders(folder)
    if not folders:
        raise click.ClickException(f"there is no model.toml in {str(folder)!r}, nor one or two folders below")
    roots = [Path(part.strip()) for part in link_roots.split(",") if part.strip()]
    reports = []
    progress = Console(stderr=True, markup=False, highlight=False)
    out = Console(markup=False, highlight=False, emoji=False)
    for place in folders:
        name = "/".join(as_named(place).parts[-2:])
        with progress.status(name) as status, redirect_stdout(sys.stderr):  # what a model prints is no report
            report = check_model(place, partial(_tell, status, name), roots)
        reports.append(report)
        if not as_json:
            _print(out, report)
    if as_json:
        click.echo(json.dumps([_as_dict(report) for report in reports]))
    if any(report.wrong for report in reports):
        raise click.exceptions.Exit(WRONG)


def _tell(status: Status, name: str, step: str) -> None:
    status.update(f"{name}: {step} ...")


def _print(out: Console, report: Report) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = f"{report.model}/{report.version}"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left")
    for column in ("check", "", "what was seen"):
        table.add_column(column, overflow="fold")
    for one in report.checks:
        table.add_row(one.name, Text(str(one.state), STYLES[one.state]), _printable(one.seen))
    out.print(table)
    if report.seconds:
        times = ", ".join(f"{rows}: {_duration(cost)}" for rows, cost in sorted(report.seconds.items()))
        out.print(f"\nrows and time of a batch: {times}", soft_wrap=True)
    if report.lines:
        out.print("\nlines for model.toml:")
    top = [line for line in report.lines if not line.table]
    for line in (*top, *[line for line in report.lines if line.table]):
        where = f"{line.table}: " if line.table else ""
        out.print(f"  {line.line}  # {where}{line.reason}", soft_wrap=True)
    out.print()


def _as_dict(report: Report) -> dict[str, Any]:
    return {
        "model": report.model,
        "version": report.version,
        "folder": str(report.folder),
        "wrong": report.wrong,
        "checks": [{"check": one.name, "state": str(one.state), "seen": one.seen} for one in report.checks],
        "lines": [{"table": one.table, "line": one.line, "reason": one.reason} for one in report.lines],
        "seconds": {str(rows): cost for rows, cost in report.seconds.items()},
        "row_bytes": {"in": report.row_bytes_in, "out": report.row_bytes_out, "work": report.row_bytes_work},
    }


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def _printable(text: str) -> str:
    """Make text of a model's words, one line or more, with nothing that a terminal obeys."""
    return "\n".join(printable(line, len(line)) for line in text.split("\n"))
