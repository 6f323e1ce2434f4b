"""Logging: structlog, as JSON lines or for a console, with everything a peer sent made harmless and keys masked.

Only rare things are logged: start, stop, models, connections that break a rule. Nothing here runs per request, and
nothing waits for whoever reads the log or fails with it: lines are lost and counted instead (line_writer.py).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, ClassVar, Protocol

import structlog

from ..protocol import safe_text
from ..protocol.safe_text import masked
from .line_writer import LineWriter

MAX_WAITING = 1 << 20
"""Bytes of lines that wait for a log that does not keep up, some 5,000; what comes above it is lost."""

MAX_VALUE_CHARS = 512
"""Characters of one logged value; a peer's text of 1 MiB must not become a log line of 1 MiB."""


def printable(text: str, limit: int = MAX_VALUE_CHARS) -> str:
    """Return `text` fit for a line of the log, with its length where it is cut at `limit` characters."""
    return safe_text.printable(text, limit, f"...({len(text)} characters)")


def _clean(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if not isinstance(value, int | float | bool | None):
            text = masked(str(value))  # guard: log-secrets
            # guard: log-control-characters
            event[key] = text if key == "exception" else printable(text)  # our own traceback: its line ends are wanted
    return event


class _Forward(logging.Handler):
    """Hands what libraries and engines log through the standard library to the same place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; one that cannot be put into words is its author's fault, and no error for the caller."""
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's or a model's arguments may raise anything
            message = f"a log record without its arguments: {record.msg!r}"
        get_logger(record.name.removeprefix("tensorwire.")).log(level, message, exc_info=record.exc_info)


class Output(Protocol):
    """Where lines go: a text stream, or a LogFile."""

    def write(self, text: str, /) -> object:
        """Take one or more whole lines."""

    def flush(self) -> object:
        """Have them written."""

    def isatty(self) -> bool:
        """Tell whether people read them as they come."""


class LogFile:
    """Log lines that a thread writes to `descriptor`, which it owns from now on. `terminal`: people read it."""

    def __init__(self, descriptor: int, name: str, *, terminal: bool = False) -> None:
        self.lines = LineWriter(descriptor, name, MAX_WAITING, _lost_line)
        self._terminal = terminal

    def write(self, text: str) -> None:
        """Have one event written soon, or lost and counted."""
        self.lines.write(text.encode("utf-8", "backslashreplace"), 1)

    def flush(self) -> None:
        """Do nothing: the thread writes as fast as it goes."""

    def isatty(self) -> bool:
        """Tell whether colours are of use."""
        return self._terminal


class _Logger:
    """structlog's way out. Without a lock: a signal handler may log in the middle of another line."""

    output: ClassVar[Output] = sys.stderr

    def msg(self, message: str) -> None:
        """Write one event."""
        self.output.write(message + "\n")
        self.output.flush()

    log = debug = info = warn = warning = error = critical = exception = fatal = failure = err = msg


def lost_lines() -> int:
    """Return how many log lines nobody took, since the start."""
    output = _Logger.output
    return output.lines.lost if isinstance(output, LogFile) else 0


def _lost_line(lines: int) -> str:
    """Make the line that says how many are missing, in the form that the others have."""
    event: Any = {"event": "log lines were lost: nobody took them in time", "lines": lines, "part": "logs"}
    for processor in structlog.get_config()["processors"]:
        event = processor(None, "warning", event)
    return f"{event}\n"


def configure_logs(log_format: str = "auto", level: str = "info", stream: Output | None = None) -> None:
    """Send logs to `stream` (default stderr) as `json` or `console`; `auto` is console on a terminal."""
    output = sys.stderr if stream is None else stream
    _Logger.output = output
    terminal = output.isatty()
    console = log_format == "console" or (log_format == "auto" and terminal)
    renderer: Any = structlog.dev.ConsoleRenderer(colors=terminal) if console else structlog.processors.JSONRenderer()
    logging.basicConfig(handlers=[_Forward()], level=level.upper(), force=True)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _clean,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=lambda *_: _Logger(),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> Any:
    """Return a logger whose lines carry `part=name`."""
    return structlog.get_logger(part=name)
