"""The pages say what the code does: settings, model keys, links, paths."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])


def test_the_configuration_page_is_generated_from_the_settings() -> None:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text(encoding="utf-8") == module.render(), "run: python docs/generate.py"


def test_the_models_page_names_every_key_of_model_toml() -> None:
    from tensorwire.server.engine import spec

    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for section in (spec._Model, spec._Input, spec._Image):
        for key in section.model_fields:
            assert f"`{key}`" in page or f"`[[{key}]]`" in page or f"`[inputs.{key}]`" in page, key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_walk_through_the_code_names_files_that_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    for path in re.findall(r"\b(?:clients|codec|gpu|protocol|server)/[\w/]+\.(?:py|fbs|md)\b", page + picture):
        assert (ROOT / path).is_file(), path
