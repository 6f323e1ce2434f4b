"""What a command does when something goes wrong: one readable line on standard error and a meaningful exit code.

Here: the exit codes and the way from a client's error to one of them. Not here: the errors (``clients.errors``).
"""

from __future__ import annotations

import os
import sys
from enum import IntEnum
from typing import IO, Any

import click

from ...protocol.safe_text import masked, printable
from ..errors import (
    NOBODY_LISTENS,
    AuthenticationError,
    BadReply,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidInput,
    InvalidKey,
    InvalidURL,
    NotFound,
    TensorwireError,
    Unauthenticated,
)


class ExitCode(IntEnum):
    """What the exit status of a command says."""

    OK = 0
    REMOTE = 1
    USAGE = 2
    NO_CONNECTION = 3
    DEADLINE = 4
    LOST = 5
    AUTHENTICATION = 6
    INTERRUPTED = 130


EXIT_CODE_HELP = (
    (ExitCode.OK, "done"),
    (
        ExitCode.REMOTE,
        "the server answered with an error (for health and check: something is wrong); for decode: nothing found",
    ),
    (ExitCode.USAGE, "wrong arguments, or an input that cannot be read or does not fit the model"),
    (ExitCode.NO_CONNECTION, "no connection to the server"),
    (ExitCode.DEADLINE, "the deadline passed"),
    (ExitCode.LOST, "the connection was lost under a call: the model may have run it"),
    (ExitCode.AUTHENTICATION, "the server wants a key, does not take this one, or could not prove who it is"),
    (ExitCode.INTERRUPTED, "interrupted (Ctrl-C)"),
)


class Failure(click.ClickException):
    """An error that ends the command: ``message`` on one line, ``exit_code`` to the shell."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(masked(message))
        self.exit_code = int(exit_code)  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        stream = file or sys.stderr
        label = click.style("Error:", fg="red", bold=True) if wants_color(stream) else "Error:"
        click.echo(f"{label} {printable(self.message, 4096)}", file=stream, color=wants_color(stream))


def wants_color(stream: IO[Any]) -> bool:
    """Whether ``stream`` is a terminal whose user has not switched colours off (NO_COLOR, TERM=dumb)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def failure_of(error: TensorwireError, url: str = "") -> Failure:
    """Make the failure that reports ``error``: its own words, what to do next where that is known, exit code."""
    text = str(error)
    if isinstance(error, InvalidURL | InvalidInput | InvalidKey):
        return Failure(text, ExitCode.USAGE)
    if isinstance(error, AuthenticationError | Unauthenticated):
        return Failure(text, ExitCode.AUTHENTICATION)
    if isinstance(error, ConnectFailed):
        if NOBODY_LISTENS not in text:
            return Failure(text, ExitCode.NO_CONNECTION)
        hint = "Start one with 'tensorwire serve MODELS', or name its address with --url or TENSORWIRE_URL"
        return Failure(f"{text} {hint}", ExitCode.NO_CONNECTION)
    if isinstance(error, DeadlineExceeded):
        return Failure(text, ExitCode.DEADLINE)
    if isinstance(error, ConnectionLost | BadReply):
        return Failure(text, ExitCode.LOST)
    if isinstance(error, NotFound):
        where = f" --url {url}" if url else ""
        return Failure(f"{text} ('tensorwire models{where}' lists what is there)", ExitCode.REMOTE)
    return Failure(text, ExitCode.REMOTE)
