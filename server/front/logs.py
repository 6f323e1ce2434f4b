"""Logging: structlog, as JSON lines or for a console, with everything a peer sent made harmless.

Only rare things are logged: start, stop, models, connections that break a rule. Nothing here runs per request.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

MAX_VALUE_CHARS = 512
"""Characters of one logged value; a peer's text of 1 MiB must not become a log line of 1 MiB."""


def printable(text: str, limit: int = MAX_VALUE_CHARS) -> str:
    """`text` with control characters, line ends and unprintable ones escaped, cut at `limit` characters."""
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)
    return cut if len(text) <= limit else f"{cut}...({len(text)} characters)"


def _clean(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            if key != "exception":  # our own traceback: its line ends are wanted
                event[key] = printable(value)
        elif not isinstance(value, int | float | bool | None):
            event[key] = printable(str(value))
    return event


class _Forward(logging.Handler):
    """Hands what libraries and engines log through the standard library to the same place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL)
        get_logger(record.name.removeprefix("tensorwire.")).log(level, record.getMessage(), exc_info=record.exc_info)


def configure_logs(log_format: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send logs to `stream` (default stderr) as `json` or `console`; `auto` is console on a terminal."""
    output = sys.stderr if stream is None else stream
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
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> Any:
    """A logger whose lines carry `part=name`."""
    return structlog.get_logger(part=name)
