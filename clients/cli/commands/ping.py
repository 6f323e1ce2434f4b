"""``tensorwire ping``: the round trip to a server, without a model."""

from __future__ import annotations

import statistics
import time

import click

from ..group import Command
from ..options import SECONDS, Server, json_option, server_options
from ..outputs import duration, echo_json


@click.command(
    "ping",
    cls=Command,
    examples=(
        "tensorwire ping",
        "tensorwire ping --count 100 --interval 10ms",
        "tensorwire ping --url tw+unix:///run/models.sock --json",
        "tensorwire ping --url tw://gpu1 --key-file robot.key",
    ),
)
@click.option("--count", type=click.IntRange(1), default=4, show_default=True, help="How many pings.")
@click.option("--interval", type=SECONDS, default="200ms", show_default=True, help="Time between two pings.")
@click.option("--deadline", type=SECONDS, default="5s", show_default=True, help="Time for one answer.")
@json_option
@server_options
def command(server: Server, count: int, interval: float, deadline: float, as_json: bool) -> None:
    """Measure the round trip to a server.

    Each ping is a frame that the server answers by itself; no model takes part.
    """
    began = time.perf_counter()
    with server.connect() as client:
        connected = (time.perf_counter() - began) * 1e6
        trips = []
        for number in range(count):
            if number:
                time.sleep(interval)
            trips.append(client.ping(deadline=deadline) * 1e6)
            if not as_json:
                click.echo(f"{number + 1}: {duration(trips[-1])}")
    best, middle, worst = min(trips), statistics.median(trips), max(trips)
    if as_json:
        summary = {"min": best, "median": middle, "max": worst, "connect": connected}
        echo_json(
            {
                "url": server.url,
                "count": count,
                "round_trip_us": {name: round(value, 1) for name, value in summary.items()},
            }
        )
    else:
        shown = f"min {duration(best)}, median {duration(middle)}, max {duration(worst)}"
        click.echo(f"{shown}; connected in {duration(connected)}")
