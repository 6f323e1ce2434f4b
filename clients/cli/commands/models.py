"""``tensorwire models``: what a server has."""

from __future__ import annotations

import click

from ...blocking import connect
from ..group import Command
from ..options import json_option, url_option
from ..outputs import console, echo_json, table


@click.command("models", cls=Command, examples=("tensorwire models", "tensorwire models --json | jq -r '.[].model'"))
@json_option
@url_option
def command(url: str, as_json: bool) -> None:
    """List the models a server has, with their versions and states."""
    with connect(url) as client:
        entries = client.models().models
    if as_json:
        echo_json([{"model": entry.model, "version": entry.version, "state": entry.state.value} for entry in entries])
        return
    rows = [(entry.model, entry.version, entry.state.value) for entry in entries]
    console().print(table(("model", "version", "state"), rows))
