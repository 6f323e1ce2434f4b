"""The stateful machine of fuzz/machine.py: a short run always, 2,000 runs of 100 steps with HYPOTHESIS_PROFILE=fuzz."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from fuzz.machine import Machine

_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"

# A timeout strikes in the middle of a read, and then looks like a bug: the long run needs 5 minutes on a busy core.
pytestmark = pytest.mark.timeout(3600 if _LONG else 300)

TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=2000 if _LONG else 60,
    stateful_step_count=100 if _LONG else 50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
