"""Failing steps of a vector show both sides."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.vectors.player")
