"""`python -O` takes every assert out of what it compiles: the package has none, and those of the tests must stay.

`make attacks-optimised` runs all attacks so, server included.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.attacks.conftest import Target, check_log
from tests.attacks.peer import END, LIMIT, Frame, Raw
from tests.support.server import ServerProcess
from tests.support.wire import WireClient

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]


def test_the_asserts_of_tests_and_their_helpers_are_checked_in_any_mode(tmp_path: Path) -> None:
    not_closed: Any = SimpleNamespace(rest=lambda: [Frame(END, 0, 0, 0, b"")])
    with pytest.raises(AssertionError):
        Raw.closed_with(not_closed)
    succeeded: Any = SimpleNamespace(outcome=lambda stream_id: None)
    with pytest.raises(AssertionError):
        WireClient.ended(succeeded, 1)
    stuck: Any = SimpleNamespace(metric=lambda name: 1.0)
    with pytest.raises(AssertionError):
        ServerProcess.wait_metric(stuck, "calls", 0.0, seconds=0.0)
    log = tmp_path / "log"
    log.write_text('{"part": "front", "event": "Traceback", "level": "info"}\n')
    bad: Any = SimpleNamespace(log=log)
    with pytest.raises(AssertionError):
        check_log(bad)
    with pytest.raises(AssertionError):
        assert sys.flags.optimize < 0


def test_the_server_runs_in_the_mode_of_its_tests(running: Target) -> None:
    environment = Path(f"/proc/{running.pid}/environ").read_bytes().split(b"\0")
    assert (b"PYTHONOPTIMIZE=1" in environment) is bool(sys.flags.optimize)
