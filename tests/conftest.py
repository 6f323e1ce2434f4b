"""Settings shared by every test: hypothesis profiles, and asserts of helpers that are checked under `python -O` too."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.support", "tests.attacks", "tests.integration")

# Here, not in tests/vectors: tests of other folders play vectors too, and import the player first.
pytest.register_assert_rewrite("tests.vectors.player")

# A shell that starts the suite in the background has it ignore SIGINT, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two cores, shared: no per-example deadline. The default run is a short fuzz; `make fuzz` takes a large budget.
settings.register_profile("default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fuzz", deadline=None, max_examples=20_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
