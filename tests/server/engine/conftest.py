"""What engines say, for tests to read."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tensorwire.server.engine.log import log


class Said(NamedTuple):
    """One record."""

    level: str
    line: str
    traceback: str


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Said]:
    """What engines of this process say from now on."""
    records: list[Said] = []
    monkeypatch.setattr(log, "write", lambda *record: records.append(Said(*record)))
    return records
