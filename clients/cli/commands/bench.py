"""``tensorwire bench``: load on one model, timed from the intended send, as percentiles and a histogram."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from ...errors import DeadlineExceeded, RemoteError, TensorwireError
from ..failures import ExitCode, Failure
from ..group import Command
from ..inputs import HELP, build_inputs, parse_argument, random_inputs
from ..load import PERCENTILES, LoadRun, Progress, Report, Schedule
from ..options import SECONDS, Server, json_option, model_argument, server_options, version_option
from ..outputs import console, duration, echo_json, histogram, table

LATE = 0.005
"""Seconds by which an open loop may send late before the report says that the client was the limit."""


@click.command(
    "bench",
    cls=Command,
    examples=(
        "tensorwire bench echo --concurrency 64 --duration 10",
        "tensorwire bench classifier --input x=@photo.jpg --rate 50 --deadline 200ms",
        "tensorwire bench echo --input x=random:float32:1x16 --requests 100000 --json",
        "tensorwire bench echo --url tw://gpu1 --key-file robot.key",
    ),
)
@model_argument()
@click.option("--input", "-i", "inputs", metavar="NAME=VALUE", multiple=True, help=f"{HELP} Default: random values.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Open loop: send this many calls per second, whatever the answers do.",
)
@click.option(
    "--concurrency", "-c", type=click.IntRange(1), default=None,
    help="Closed loop: callers with one call in flight each, default 1. With --rate: the most calls in flight, 10000.",
)  # fmt: skip
@click.option(
    "--connections", type=click.IntRange(1), default=1, show_default=True, help="Connections that share the load."
)
@click.option("--duration", type=SECONDS, help="How long to measure. Default: 5s, unless --requests is given.")
@click.option("--requests", type=click.IntRange(1), help="How many calls to make instead of a duration.")
@click.option("--warmup", type=SECONDS, default="500ms", show_default=True, help="Time before it that is not measured.")
@click.option("--deadline", type=SECONDS, help="Time for each call. Default: none.")
@version_option
@json_option
@server_options
def command(
    model: str,
    inputs: tuple[str, ...],
    rate: float | None,
    concurrency: int | None,
    connections: int,
    duration: float | None,
    requests: int | None,
    warmup: float,
    deadline: float | None,
    model_version: str,
    as_json: bool,
    server: Server,
) -> None:
    """Put MODEL under load and print percentiles.

    Every call is timed from the moment it was meant to be sent, so a server that stalls cannot hide the calls that had
    to wait. Calls that fail are counted, not timed. Ctrl-C ends the run and prints what was measured so far.
    """
    if duration is not None and requests is not None:
        raise click.UsageError("--duration and --requests exclude each other: give one of the two")
    schedule = Schedule(
        rate=rate,
        concurrency=concurrency or (1 if rate is None else 10_000),
        duration=None if requests is not None else duration or 5.0,
        requests=requests,
        warmup=0.0 if requests is not None else warmup,
    )
    arguments = [parse_argument(text) for text in inputs]
    with server.connect() as client:
        about = client.describe(model, version=model_version)
    arrays = (
        build_inputs(
            arguments,
            about.inputs,
            batched=about.max_batch > 0,
            images=about.images,
            stdin=sys.stdin.buffer,
            optional=about.optional,
        )
        if arguments
        else random_inputs(about.inputs)
    )
    call = {"version": model_version, "deadline": deadline}
    with _progress_bar(quiet=as_json) as advance:
        report, lost = _run(server, connections, schedule, advance, model, arrays, call)
    if as_json:
        echo_json(
            {
                "model": model,
                "rate": rate,
                "concurrency": schedule.concurrency,
                "connections": connections,
                **report.as_dict(),
            }
        )
    else:
        _print(report, rate)
    if lost is not None:
        raise lost
    if not report.completed:
        first = next(iter(report.errors), "interrupted")
        raise Failure(f"no call succeeded ({first})", ExitCode.REMOTE)


def _run(
    server: Server,
    connections: int,
    schedule: Schedule,
    advance: Callable[[Progress], None] | None,
    model: str,
    arrays: dict[str, Any],
    call: dict[str, Any],
) -> tuple[Report, TensorwireError | None]:
    async def go() -> tuple[Report, TensorwireError | None]:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(await server.connect_aio()) for _ in range(connections)]
            sends = [lambda client=client: client.infer(model, arrays, **call) for client in clients]
            load = LoadRun(sends, schedule, counted=(RemoteError, DeadlineExceeded), progress=advance)
            try:
                return await load.run(), None
            except asyncio.CancelledError:  # Ctrl-C: show what there is
                return load.report(), None
            except TensorwireError as error:  # the connection went: show what there is, then say so
                return load.report(), error

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(go())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ModuleNotFoundError:  # comes with the extra "server"; asyncio's own loop does it too
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@contextlib.contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """Show a bar on standard error, where somebody watches."""
    screen = console(stderr=True)
    if quiet or not screen.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.completed:>4.0%}"),
        BarColumn(40),
        TextColumn("{task.fields[calls]}"),
        console=screen,
        transient=True,
    ) as bar:
        task = bar.add_task("load", total=1.0, calls="")

        def advance(progress: Progress) -> None:
            failed = f", {progress.failed} failed" if progress.failed else ""
            bar.update(task, completed=progress.fraction, calls=f"{progress.completed} calls{failed}")

        yield advance


def _print(report: Report, rate: float | None) -> None:
    rows = [("requests", str(report.completed)), ("requests/s", f"{report.rate:,.1f}")]
    if report.completed:
        rows += [(f"p{percent:g}", duration(report.percentile(percent) * 1e6)) for percent in PERCENTILES]
        rows.append(("max", duration(float(report.latencies[-1]) * 1e6)))
    rows += [(f"failed: {name}", str(count)) for name, count in sorted(report.errors.items())]
    console().print(table(("", "measured"), rows, right=("measured",)))
    for line in histogram(report.latencies):
        click.echo(line)
    if rate is not None and report.lateness > LATE:
        late = duration(report.lateness * 1e6)
        click.echo(f"sends left up to {late} late, which is counted:")
        click.echo("the client or --concurrency did not keep up with the rate")
