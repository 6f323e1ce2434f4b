"""What `tensorwire check` found out about a model: checks, lines for model.toml, figures.

What lives here: plain data. What must not: running models (checks.py), printing (check_commands.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

__all__ = ["Check", "Line", "Report", "State"]


class State(StrEnum):
    """What came of a check. A NOTE is for the model's owner to know; the server copes with it."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"
    UNKNOWN = "not tested"


@dataclass(slots=True)
class Check:
    """One check: its name, what came of it and what was seen."""

    name: str
    state: State
    seen: str


@dataclass(slots=True)
class Line:
    """A line for model.toml, the table it belongs to ("" the top, "inputs.x" that of the input x), and why."""

    table: str
    line: str
    reason: str


@dataclass(slots=True)
class Report:
    """All that was seen of one version of one model. `seconds` are those of the fastest batch by its rows; bytes are
    those of one row: as it comes in, as it goes out, and what the model needs beside (None: not measured).
    """

    folder: Path
    model: str
    version: str
    checks: list[Check] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)
    row_bytes_in: int | None = None
    row_bytes_out: int | None = None
    row_bytes_work: int | None = None

    @property
    def wrong(self) -> bool:
        """Whether something must be mended."""
        return any(check.state is State.WRONG for check in self.checks)

    def add(self, name: str, state: State, seen: str) -> None:
        """Note what a check saw."""
        self.checks.append(Check(name, state, seen))
