"""The command group: which commands there are, and loading the module of a command only when that command runs.

``tensorwire --help`` imports no command, no numpy and no client. Other packages, and the server's own part, add
commands through the entry-point group ``tensorwire.commands``. Not here: what a command does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from ...protocol.safe_text import masked
from ...version import __version__
from ..errors import TensorwireError
from .failures import EXIT_CODE_HELP, ExitCode, Failure, failure_of

ENTRY_POINT_GROUP = "tensorwire.commands"

BUILT_IN: dict[str, str] = {
    "send": "Send one call to a model and print its reply.",
    "models": "List the models a server has.",
    "describe": "Show a model's inputs, outputs and limits.",
    "health": "Show whether models make progress; --watch follows changes.",
    "ping": "Measure the round trip to a server.",
    "bench": "Put a model under load and print percentiles.",
    "decode": "Print a captured conversation, one frame per line.",
}
"""Commands of this package -> their line in the help. Each lives in ``commands/<name>.py`` as ``command``."""

SERVER: dict[str, str] = {
    "serve": "Serve a folder of models.",
    "check": "Try models without serving them.",
    "devices": "Show the devices a server would find here.",
    "certs": "Make certificates for trying TLS.",
    "keys": "Make, list, replace and revoke the keys of callers.",
}
"""Commands that come with the extra ``server``, listed even where it is missing so that people learn of them."""

ALIASES = {"ls": "models"}

EPILOGUE = (
    "tensorwire keys new --principal me --out me.key",
    "tensorwire serve models/ --keys keys.toml",
    "export TENSORWIRE_KEY_FILE=me.key",
    "tensorwire models",
    "tensorwire send classifier --input x=@photo.jpg",
    "tensorwire bench classifier --concurrency 64 --duration 10",
)


class Command(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        write_examples(formatter, self.examples)
        super().format_epilog(ctx, formatter)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Write a section of shell lines, each kept on a line of its own."""
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


class LazyGroup(click.Group):
    """A group that knows the names and help lines of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Every command: our own, the server's, then those of other packages."""
        return [*BUILT_IN, *SERVER, *sorted(name for name in _plugged() if name not in BUILT_IN and name not in SERVER)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command of this name."""
        if cmd_name in BUILT_IN:
            command: click.Command = import_module(f".commands.{cmd_name}", __package__).command
            return command
        entry = _plugged().get(cmd_name)
        if entry is not None:
            return _load(entry)
        if cmd_name in SERVER:
            raise _server_missing(cmd_name)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        if args[0] == "help":  # as git and docker have it
            args = [*args[1:], "--help"]
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
        args = [ALIASES.get(args[0], args[0]), *args[1:]]
        if args[0] not in BUILT_IN and args[0] not in self.list_commands(ctx):
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "'tensorwire --help' lists them"
            raise Failure(f"there is no command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list, without importing our own commands."""
        known = {**BUILT_IN, **SERVER}
        rows = [(name, known.get(name) or _plugged_help(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples and the exit codes."""
        write_examples(formatter, EPILOGUE)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), text) for code, text in EXIT_CODE_HELP])
        super().format_epilog(ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options before the command; without any argument show the help."""
        asks_for_help = not args
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if asks_for_help:
                raise
            raise _usage_failure(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; every error of a client leaves as one line and its exit code."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise _usage_failure(error) from error
        except click.ClickException as error:
            error.message = masked(error.message)  # type: ignore[misc]  # its own class is to show it
            raise
        except TensorwireError as error:
            raise failure_of(error, os.environ.get("TENSORWIRE_URL", "")) from error
        except BrokenPipeError:
            raise  # click ends quietly where the reader of our output has gone
        except OSError as error:
            where = f"{error.filename!r}: " if error.filename else ""
            raise Failure(f"{where}{error.strerror or error}") from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(int(ExitCode.INTERRUPTED)) from None


def _usage_failure(error: click.UsageError) -> Failure:
    help_at = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
    return Failure(f"{error.format_message()}{help_at}")


@cache  # it reads the metadata of every package that is installed
def _plugged() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _load(entry: EntryPoint) -> click.Command:
    try:
        command: click.Command = entry.load()
    except ImportError as error:
        if entry.name in SERVER and not _is_ours(error):
            raise _server_missing(entry.name, error.name or "") from error
        message = (
            f"the command {entry.name!r} cannot be loaded: {error}: reinstall the package it comes from ({entry.value})"
        )
        raise Failure(message) from error
    return command


def _is_ours(error: ImportError) -> bool:
    """Whether the import failed inside tensorwire itself: that is our fault, and no extra would mend it."""
    return (error.name or "").partition(".")[0] == "tensorwire"


def _server_missing(name: str, module: str = "") -> Failure:
    why = f" (no module named {module!r})" if module else ""
    return Failure(f"'tensorwire {name}' comes with the server{why}: pip install 'tensorwire[server]'")


def _plugged_help(name: str) -> str:
    try:
        return _load(_plugged()[name]).get_short_help_str(limit=60)
    except Failure as failure:
        return failure.message


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="tensorwire")
@click.option("--url", metavar="URL", help="The server, for commands that call one; may stand behind the command too.")
@click.option("--key-file", metavar="PATH", help="Your key, likewise.")
def cli(url: str | None, key_file: str | None) -> None:  # options.py reads them
    """Send tensors to models over a raw socket, and serve them.

    Every command has its own help with examples: tensorwire send --help. For completion in the shell put

    \b
      eval "$(_TENSORWIRE_COMPLETE=bash_source tensorwire)"

    into ~/.bashrc (zsh_source and fish_source for the others).
    """  # noqa: D301 - click knows a paragraph not to be wrapped by a backspace
