"""What an engine process is given: a clean environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tensorwire.server.engine.worker import _environment


def test_settings_of_the_server_stay_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORWIRE_KEYS", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment = _environment()
    assert not any(name.startswith("TENSORWIRE_") for name in environment)
    assert environment["OMP_NUM_THREADS"] == "1"


def test_the_package_is_found_first_and_the_users_own_path_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/users/own")
    first, *others = _environment()["PYTHONPATH"].split(os.pathsep)
    assert (Path(first) / "tensorwire" / "__init__.py").is_file()
    assert others == ["/users/own"]
