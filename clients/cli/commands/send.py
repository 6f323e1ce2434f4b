"""``tensorwire send``: one call (or the same one several times) to a model, its reply printed."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import click

from ...results import Result
from ..group import Command
from ..inputs import HELP, build_inputs, parse_argument
from ..options import SECONDS, Server, model_argument, server_options, version_option
from ..outputs import OutputFormat, duration, echo_json, print_reply, print_timing, reply_as_json, write_npy


@click.command(
    "send",
    cls=Command,
    examples=(
        "tensorwire send classifier --input x=@photo.jpg --top 3",
        "tensorwire send scale --input '[1, 2, 3, 4]' --json",
        "echo '[1, 2, 3, 4]' | tensorwire send scale --input -",
        "tensorwire send echo --input x=random:float32:1x16 --repeat 100 --timing",
        "tensorwire send net --input a=@a.npy --input b=@b.npy --output npy=out.npz",
        "tensorwire send echo --input x=random --url tw://gpu1 --key-file robot.key",
        "make-array | tensorwire send net --input x=- --output npy | use-array",
    ),
)
@model_argument()
@click.option("--input", "-i", "inputs", metavar="NAME=VALUE", multiple=True, required=True, help=HELP)
@click.option(
    "--output", "-o", "output", type=OutputFormat(), default="table", show_default=True,
    help="table for people, json (one line per reply), or npy to standard output or FILE; FILE.npz holds all outputs.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as --output json.")
@click.option(
    "--deadline", type=SECONDS, help="Time for each call, queue and model included: 250ms, 2s. Default: none."
)
@click.option(
    "--repeat", type=click.IntRange(1), default=1, show_default=True, help="Send the same call this often, one by one."
)
@click.option(
    "--timing", is_flag=True, help="Show where the time went, as the server measured it; beside npy on standard error."
)
@click.option(
    "--top", type=click.IntRange(0), default=5, show_default=True, help="Labels to show, where the model has labels."
)
@click.option(
    "--capture", type=click.Path(path_type=Path, dir_okay=False), help="Record every byte for 'tensorwire decode'."
)
@version_option
@server_options
def command(
    model: str,
    inputs: tuple[str, ...],
    output: tuple[str, Path | None],
    as_json: bool,
    deadline: float | None,
    repeat: int,
    timing: bool,
    top: int,
    capture: Path | None,
    model_version: str,
    server: Server,
) -> None:
    """Send one call to MODEL and print its reply.

    The inputs are matched with what the model describes: a missing first axis is added where the model has it for the
    batch, free or of size 1; JSON gets the right dtype; photos are resized, cropped and normalised as the model asks.
    """
    arguments = [parse_argument(text) for text in inputs]
    form, file = output
    if as_json:
        if form == "npy":
            raise click.UsageError("--json and --output npy exclude each other: give one of the two")
        form = "json"
    with server.connect(capture=capture) as client:
        about = client.describe(model, version=model_version)
        arrays = build_inputs(
            arguments,
            about.inputs,
            batched=about.max_batch > 0,
            images=about.images,
            stdin=sys.stdin.buffer,
            optional=about.optional,
        )
        results: list[Result] = []
        trips: list[float] = []
        for _ in range(repeat):
            began = time.perf_counter()
            result = client.infer(model, arrays, version=model_version, deadline=deadline, timing=timing)
            trips.append((time.perf_counter() - began) * 1e6)
            results = [result] if not timing else [*results, result]
            if form == "json":
                echo_json(reply_as_json(result, about.labels, top))
    if form == "npy":
        write_npy(results[-1], file)
    elif form == "table":
        print_reply(results[-1], about.labels, top)
    if form != "json":  # which has it in each reply
        beside = form == "npy" and file is None
        print_timing([result.timing for result in results if result.timing is not None], stderr=beside)
    if form == "table" and repeat > 1:
        best, middle, worst = min(trips), statistics.median(trips), max(trips)
        click.echo(f"{repeat} calls: min {duration(best)}, median {duration(middle)}, max {duration(worst)}")
