"""Names are dictionary keys; the newest version is the default."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tensorwire.server.front.metrics import ModelStats
from tensorwire.server.registry import Registry, RegistryError, Served, scan_models, version_key


def served(name: str, version: str, placement: str = "inline") -> Served:
    spec: Any = SimpleNamespace(name=name, version=version)
    engine: Any = SimpleNamespace(busy=True)
    return Served(spec, engine, placement, ModelStats(name, version))


def registry(*names: tuple[str, str]) -> Registry:
    made = Registry()
    for name, version in names:
        made.add(served(name, version))
    return made


@pytest.mark.parametrize(
    ("older", "newer"), [("9", "10"), ("1.9", "1.10"), ("1", "1.1"), ("1.0", "1.0a"), ("2024-01-31", "2024-02-01")]
)
def test_versions_are_ordered_as_people_do(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


@pytest.mark.parametrize("order", [("9", "10"), ("10", "9")])
def test_the_newest_version_is_the_default(order: tuple[str, str]) -> None:
    models = registry(*[("m", version) for version in order])
    assert models.default_version("m") == "10"
    assert cast("Served", models.find("m", "9")).spec.version == "9"


@pytest.mark.parametrize("name", ["../m", "/etc/passwd", "m\x00", "m/1", "M", "\u043c", "m" * 4096, "", ".", "$models"])
def test_a_name_that_is_not_there_is_just_not_there(name: str) -> None:
    models = registry(("m", "1"))
    assert models.find(name) is None
    text = models.explain_missing(name, "")
    assert text.isprintable()
    assert len(text) < 300


def test_an_unknown_version_lists_those_there_are() -> None:
    models = registry(("m", "1"), ("m", "2"))
    assert models.explain_missing("m", "3") == "model 'm' has no version '3'; served: 1, 2"


def test_a_change_is_told() -> None:
    models = Registry()
    told: list[int] = []
    models.on_change = lambda: told.append(1)
    models.add(served("m", "1"))
    assert told == [1]


def test_a_folder_without_models_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="not a folder"):
        scan_models(tmp_path / "none")
    with pytest.raises(RegistryError, match=r"expected <name>/<version>/model.toml"):
        scan_models(tmp_path)


def test_every_broken_model_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.toml").write_text("backend = 'none'")
    with pytest.raises(RegistryError, match=r"(?s)one.*two"):
        scan_models(tmp_path)


def test_only_engines_in_processes_of_their_own_work_apart() -> None:
    models = registry(("m", "1"))
    assert not models.works_apart()
    other = served("n", "1", "process")
    models.add(other)
    assert models.works_apart()
    cast("Any", other.engine).busy = False
    assert not models.works_apart()
