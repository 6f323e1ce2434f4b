"""Names are dictionary keys; the newest version is the default."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tensorwire.server.model import Model
from tensorwire.server.model_stats import ModelStats
from tensorwire.server.registry import Registry, RegistryError, version_key


def served(name: str, version: str, placement: str = "inline") -> Model:
    spec: Any = SimpleNamespace(name=name, version=version)
    engine: Any = SimpleNamespace(busy=True)
    return Model(spec, engine, placement, ModelStats(name, version))


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
    assert cast("Model", models.find("m", "9")).spec.version == "9"


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


def test_only_engines_in_processes_of_their_own_work_apart() -> None:
    models = registry(("m", "1"))
    assert not models.works_apart()
    other = served("n", "1", "process")
    models.add(other)
    assert models.works_apart()
    cast("Any", other.engine).busy = False
    assert not models.works_apart()


def test_a_version_is_replaced_under_its_name_and_the_one_before_is_handed_back() -> None:
    models = registry(("m", "1"), ("m", "2"))
    before, after = models.find("m"), served("m", "2")
    told: list[Model | None] = []
    models.on_change = lambda: told.append(models.find("m", "2"))
    assert models.replace(after) is before
    assert told == [after], "who is told finds the new one"
    assert models.find("m") is models.find("m", "2") is after
    assert [model.spec.version for model in models.all()] == ["1", "2"]
    assert models.current(before) is after


def test_a_version_that_is_served_is_not_added_and_one_that_is_not_is_not_replaced() -> None:
    models = registry(("m", "1"))
    with pytest.raises(RegistryError, match="replace it"):
        models.add(served("m", "1"))
    with pytest.raises(RegistryError, match="add it"):
        models.replace(served("m", "2"))
    assert [model.spec.version for model in models.all()] == ["1"]


def test_a_retired_version_is_found_no_more_and_the_newest_left_is_the_default() -> None:
    models = registry(("m", "9"), ("m", "10"), ("n", "1"))
    told: list[int] = []
    models.on_change = lambda: told.append(1)
    models.retire(cast("Model", models.find("m", "10")))
    assert models.default_version("m") == "9"
    models.retire(cast("Model", models.find("m")))
    assert models.find("m") is None
    assert [model.spec.name for model in models.all()] == ["n"]
    assert len(told) == 2


def test_a_process_that_was_replaced_keeps_no_core_free() -> None:
    models = registry(("m", "1"))
    models.replace(served("m", "1", "process"))
    assert models.works_apart()
    models.replace(served("m", "1"))
    assert not models.works_apart()
