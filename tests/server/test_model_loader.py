"""A model that leaves the choice to us runs on the loop only if its largest batch costs less than a hand-over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorwire.server.engine.spec import ModelSpec
from tensorwire.server.model_loader import ModelLoadError, choose_placement, scan_models
from tests.server.engine.helpers import ECHO, ECHO_TOML, model_folder


def spec(device: str = "cpu") -> ModelSpec:
    return ModelSpec("m", "1", Path("/m/1"), "python", (), (), Path("/m/1/model.py"), max_batch=32, device=device)


@pytest.mark.parametrize(
    ("seconds", "effective", "placement"),
    [
        ({1: 20e-6}, 1, "inline"),
        ({1: 20e-6, 32: 90e-6}, 32, "inline"),
        ({1: 20e-6, 32: 400e-6}, 32, "process"),
        ({1: 20e-6, 8: 60e-6, 32: 400e-6}, 8, "inline"),
        ({1: 5e-3}, 1, "process"),
        ({}, 32, "process"),
    ],
)
def test_the_largest_batch_that_will_run_decides(seconds: dict[int, float], effective: int, placement: str) -> None:
    assert choose_placement(spec(), seconds, effective) == placement


def test_a_model_on_a_device_never_runs_on_the_loop() -> None:
    assert choose_placement(spec("cuda:0"), {1: 1e-6}, 1) == "process"


def test_a_folder_without_models_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="not a folder"):
        scan_models(tmp_path / "none")
    with pytest.raises(ModelLoadError, match=r"expected <name>/<version>/model.toml"):
        scan_models(tmp_path)


def test_links_are_served_by_their_own_names_and_may_lead_to_allowed_folders(tmp_path: Path) -> None:
    stored = model_folder(tmp_path / "store" / "artifact", ECHO_TOML, name="artifact", version="9f3a")
    (tmp_path / "store" / "blob").write_text(ECHO)
    (stored / "model.py").symlink_to("../../../blob")
    (tmp_path / "M" / "prod").mkdir(parents=True)
    for version in ("1", "2"):
        (tmp_path / "M" / "prod" / version).symlink_to(stored)
    with pytest.raises(ModelLoadError, match=r"(?s)prod/1/.*'model\.py' is a link.*prod/2/.*--link-roots"):
        scan_models(tmp_path / "M")
    specs = scan_models(tmp_path / "M", [tmp_path / "store"])
    assert [(spec.name, spec.version) for spec in specs] == [("prod", "1"), ("prod", "2")]


def test_every_broken_model_is_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / "model.toml").write_text("backend = 'none'")
    with pytest.raises(ModelLoadError, match=r"(?s)one.*two"):
        scan_models(tmp_path)
