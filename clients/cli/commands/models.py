"""``tensorwire models``: what a server has."""

from __future__ import annotations

import click

from ..group import Command
from ..options import Server, json_option, server_options
from ..outputs import console, echo_json, table


@click.command(
    "models",
    cls=Command,
    examples=(
        "tensorwire models",
        "tensorwire models --json | jq -r '.[].model'",
        "tensorwire models --url tw://gpu1 --key-file robot.key",
    ),
)
@json_option
@server_options
def command(server: Server, as_json: bool) -> None:
    """List the models a server has, with their versions and states."""
    with server.connect() as client:
        entries = client.models().models
    if as_json:
        echo_json([{"model": entry.model, "version": entry.version, "state": entry.state.value} for entry in entries])
        return
    rows = [(entry.model, entry.version, entry.state.value) for entry in entries]
    console().print(table(("model", "version", "state"), rows))
