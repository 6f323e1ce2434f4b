"""The C programs under test, built once a session by clients/c/Makefile: plain, with sanitizers, without libcrypto."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import c_programs


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the built programs."""
    c_programs.make("library", "test-programs")
    c_programs.make("library", "test-programs-c", "CRYPTO=no", f"BUILD={c_programs.BUILD / 'without-crypto'}")
    return c_programs.BUILD
