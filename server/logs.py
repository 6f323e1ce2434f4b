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
from .engine.log import log as engine_log
from .engine.quota import Quota
from .line_writer import LineWriter

MAX_WAITING = 1 << 20
"""Bytes of lines that wait for a log that does not keep up, some 5,000; what comes above it is lost."""

MAX_VALUE_CHARS = 512
"""Characters of one logged value; a peer's text of 1 MiB must not become a log line of 1 MiB."""

FORWARDED_PER_SECOND = 100
"""Records of the standard library's logging; more are counted only. What models on the loop log is among them."""


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
    """Hands what libraries, and models on the loop, log through the standard library to the same place."""

    def __init__(self) -> None:
        super().__init__()
        self._quota = Quota(FORWARDED_PER_SECOND)

    def tell(self) -> None:
        """Say how many were left out, once their second is over."""
        left_out = self._quota.renew()
        if left_out:
            get_logger("logs").warning(f"{left_out} more records of libraries or models are left out here")

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; one that cannot be put into words is its author's fault, and no error for the caller."""
        self.tell()
        if not self._quota.take():
            return
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
    for processor in _PROCESSORS:
        event = processor(None, "warning", event)
    return f"{event}\n"


def _processors(console: bool, colors: bool, level: str) -> list[Any]:
    levels = logging.getLevelNamesMapping()
    least = levels[level.upper()]

    def from_level_on(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if levels.get(method.upper(), logging.ERROR) < least:
            raise structlog.DropEvent
        return event

    return [
        from_level_on,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _clean,
        structlog.dev.ConsoleRenderer(colors=colors) if console else structlog.processors.JSONRenderer(),
    ]


_PROCESSORS = _processors(console=True, colors=False, level="info")
"""What makes a line of an event. Not structlog's own configuration: that is for models that use structlog."""
_FORWARD = _Forward()


def tell_left_out() -> None:
    """Say what was left out of what came through the standard library."""
    _FORWARD.tell()


def configure_logs(log_format: str = "auto", level: str = "info", stream: Output | None = None) -> None:
    """Send logs to `stream` (default stderr) as `json` or `console`; `auto` is console on a terminal."""
    output = sys.stderr if stream is None else stream
    _Logger.output = output
    terminal = output.isatty()
    console = log_format == "console" or (log_format == "auto" and terminal)
    _PROCESSORS[:] = _processors(console, terminal, level)
    logging.basicConfig(handlers=[_FORWARD], level=level.upper(), force=True)
    engine_log.write = _of_engine


def get_logger(name: str) -> Any:
    """Return a logger whose lines carry `part=name`."""
    wrapper = structlog.make_filtering_bound_logger(logging.NOTSET)
    return structlog.wrap_logger(_Logger(), _PROCESSORS, wrapper, dict, part=name)


def _of_engine(level: str, line: str, traceback: str) -> None:
    """Log what an engine says: one record, its traceback with it."""
    exception = {"exception": traceback} if traceback else {}
    get_logger("engine").log(logging.getLevelNamesMapping()[level.upper()], line, **exception)
