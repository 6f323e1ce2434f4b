"""Tests of one group meet on one worker: what they share (a server, a count, a build) is made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import os
import pytest

@pytest.mark.parametrize("number", range(6))
@pytest.mark.xdist_group("one")
def test_of_a_group(number, worker_id):
    print("ran on", worker_id)
"""


def test_groups_are_kept_together(tmp_path: Path) -> None:
    """Some versions of pytest do not show pytest-xdist's mark to its scheduler: constraints.txt pins two that agree."""
    (tmp_path / "test_grouped.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "3", "--dist", "loadgroup", "-rP", "-q"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=True, cwd=tmp_path)
    workers = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("ran on")]
    assert len(workers) == 6
    assert len(set(workers)) == 1
