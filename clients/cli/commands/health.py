"""``tensorwire health``: whether models make progress, once or whenever it changes."""

from __future__ import annotations

import time
from typing import Any

import click

from ....codec import Health, HealthReport, State
from ..failures import ExitCode
from ..group import Command
from ..options import Server, json_option, model_argument, server_options
from ..outputs import console, echo_json, say, table

GOOD = frozenset({State.IDLE, State.SERVING})
"""States in which new calls are expected to succeed."""


@click.command(
    "health",
    cls=Command,
    examples=(
        "tensorwire health",
        "tensorwire health classifier && echo ready",
        "tensorwire health --watch --json",
        "tensorwire health --url tw://gpu1 --key-file robot.key",
    ),
)
@model_argument(required=False)
@click.option("--watch", is_flag=True, help="Stay, and print the health whenever it changes, until Ctrl-C.")
@json_option
@server_options
def command(model: str, watch: bool, server: Server, as_json: bool) -> None:
    """Show whether MODEL, or every model, makes progress.

    idle and serving are healthy; stalled has work and finishes none. Exit code 1 where a model is not healthy.
    """
    with server.connect() as client:
        if not watch:
            report = client.health(model)
            _print(report, as_json=as_json)
            raise click.exceptions.Exit(int(_exit_code(report)))
        for report in client.watch_health(model):
            _print_change(report, as_json=as_json)


def _exit_code(report: HealthReport) -> ExitCode:
    return ExitCode.OK if all(health.state in GOOD for health in report.models) else ExitCode.REMOTE


def _print(report: HealthReport, *, as_json: bool) -> None:
    if as_json:
        echo_json([_as_dict(health) for health in report.models])
        return
    columns = ["model", "version", "state", "queued", "progress", "restarts"]
    rows = [
        [one.model, one.version, one.state.value, one.queue_depth, _ago(one.last_progress), one.restarts]
        for one in report.models
    ]
    console().print(table(columns, rows, right=("queued", "progress", "restarts")))
    for one in report.models:
        if one.detail:
            say(f"{one.model}/{one.version}: {one.detail}")


def _print_change(report: HealthReport, *, as_json: bool) -> None:
    if as_json:
        echo_json([_as_dict(health) for health in report.models])
        return
    now = time.strftime("%H:%M:%S")
    for health in report.models:
        detail = f": {health.detail}" if health.detail else ""
        say(f"{now} {health.model}/{health.version} {health.state.value}{detail}")


def _ago(seconds: float) -> str:
    return f"{seconds:.1f} s ago"


def _as_dict(health: Health) -> dict[str, Any]:
    return {
        "model": health.model,
        "version": health.version,
        "state": health.state.value,
        "queue_depth": health.queue_depth,
        "last_progress_s": round(health.last_progress, 3),
        "effective_max_batch": health.effective_max_batch,
        "restarts": health.restarts,
        "detail": health.detail,
    }
