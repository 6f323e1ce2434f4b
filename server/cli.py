"""The commands that need the server's parts: `serve` and `devices`, found by the CLI through entry points.

The options of `serve` are made from the Settings schema, so that flag, environment variable and file key never differ.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic_core import PydanticUndefined

from .settings import ENV_PREFIX, Settings, SettingsError, load_settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


class SettingOption(click.Option):
    """An option that stands for one setting; `group` is the heading it is listed under."""

    group = "Options"


class GroupedCommand(click.Command):
    """A command whose --help lists its settings under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those of each group together."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                group = parameter.group if isinstance(parameter, SettingOption) else "Options"
                groups.setdefault(group, []).append(record)
        for group in sorted(groups, key=lambda name: name == "Options"):
            with formatter.section(group):
                formatter.write_dl(groups[group])


def setting_options() -> list[click.Parameter]:
    """Make one option per setting. Its text comes from the schema; its value is checked by the schema, not by click."""
    return [_option(name, field) for name, field in Settings.model_fields.items()]


def _option(name: str, field: FieldInfo) -> SettingOption:
    flag = "--" + name.replace("_", "-")
    extra = field.json_schema_extra
    boolean = field.annotation is bool
    declaration = f"{flag}/--no-{flag[2:]}" if boolean else flag
    option = SettingOption(
        [declaration, name],
        default=None,
        type=None if boolean else str,
        is_flag=boolean,
        metavar=None if boolean else _metavar(field),
        help=f"{field.description} {_default_text(field)}[{ENV_PREFIX}{name.upper()}]",
    )
    option.group = str(extra["group"]) if isinstance(extra, dict) else "Options"
    return option


def _metavar(field: FieldInfo) -> str:
    text = str(field.annotation)
    for part, name in (("ByteSize", "SIZE"), ("Path", "PATH"), ("float", "SECONDS"), ("int", "NUMBER")):
        if part in text:
            return name
    choices = getattr(field.annotation, "__args__", ())
    words = [word for choice in choices for word in getattr(choice, "__args__", (choice,)) if isinstance(word, str)]
    return "|".join(words) or "TEXT"


def _default_text(field: FieldInfo) -> str:
    default = field.default
    if default in (None, "", {}, ()) or default is PydanticUndefined:
        return ""
    if isinstance(default, bool):
        return f"Default: {'on' if default else 'off'}. "
    if "ByteSize" in str(field.annotation):
        return f"Default: {_size(int(default))}. "
    return f"Default: {default}. "


def _size(nbytes: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size and nbytes % size == 0:
            return f"{nbytes // size} {unit}"
    return f"{nbytes} bytes"


def _serve(models_dir: Path, config: Path | None, **flags: Any) -> None:
    try:
        settings = load_settings(config, {name: value for name, value in flags.items() if value is not None})
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    from .app import run  # only now: a wrong flag is told before the server's parts are imported
    from .start_checks import StartError

    try:
        run(models_dir, settings)
    except StartError as error:
        _leave_with(1, click.ClickException(str(error)))
    _leave_with(0)


def _leave_with(status: int, error: click.ClickException | None = None) -> None:
    """End where models' code has run: without the interpreter's tear-down, which their threads hold up, or crash."""
    if error is not None:
        with suppress(OSError):
            error.show()
    os._exit(status)


serve = GroupedCommand(
    "serve",
    params=[
        click.Argument(["models_dir"], type=click.Path(path_type=Path)),
        click.Option(
            ["--config"], type=click.Path(path_type=Path), help="TOML file with settings; flags and environment win."
        ),
        *setting_options(),
    ],
    callback=_serve,
    short_help="Serve the models of a folder.",
    help="""Serve the models of MODELS_DIR, a folder with one sub-folder per model and version.

    Callers prove a key of --keys, which `tensorwire keys new` makes. Prints one line when every model is loaded and
    calls are taken. SIGTERM and Ctrl-C drain: calls in flight are finished, for at most --drain-timeout seconds, and
    the exit code is 0; a second signal ends at once. Before that line the first one does, as if it were not handled
    (143 and 130 in a shell). SIGHUP reads keys and certificates again.

    \b
    Examples:
      tensorwire serve models/ --keys keys.toml
      tensorwire serve models/ --keys keys.toml --host 0.0.0.0 --admin-port 0
      tensorwire serve models/ --insecure --no-tcp --unix /run/tensorwire.sock
      TENSORWIRE_POOL_BYTES=4GiB tensorwire serve models/ --config server.toml
    """,
)


@click.command(short_help="Show what this machine can compute on.")
def devices() -> None:
    """Show the CPU and every CUDA device, by the names that model.toml uses."""
    from ..gpu import cuda_problem, discover, pin_problem

    found = discover()
    for device in found:
        memory = f", {device.memory / (1 << 30):.1f} GiB" if device.memory else ""
        cores = f", {device.cores} cores" if device.cores else ""
        cuda = f", capability {device.capability}, driver {device.driver}" if device.kind == "cuda" else ""
        click.echo(f"{device.label}: {device.name}{cores}{memory}{cuda}")
    if len(found) == 1:
        click.echo(f"no CUDA device: {cuda_problem()}")
        return
    problem = pin_problem()
    click.echo(f"slabs: not pinned, copies to devices will wait: {problem}" if problem else "slabs: pinned")
