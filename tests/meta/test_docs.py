"""The pages say what the code does: settings, model keys, links, paths."""

from __future__ import annotations

import importlib.util
import inspect
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
    from tensorwire.server.engine import model_toml

    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for section in (model_toml.Model, model_toml.Input, model_toml.Image):
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


def test_the_readme_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_the_client_page_names_every_option_and_verb() -> None:
    from tensorwire import aio, connect
    from tensorwire.clients import blocking

    page = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    for client in (blocking.Client, aio.Client):
        verbs = [name for name, _ in inspect.getmembers(client, callable) if not name.startswith("_")]
        assert "infer" in verbs
        for verb in verbs:
            assert f"`{verb}(" in page or verb == "wait_connected", verb
        for option in [*inspect.signature(client.infer).parameters][3:]:
            assert f"`{option}`" in page, option
    for option in {**inspect.signature(connect).parameters, **inspect.signature(aio.connect).parameters}:
        assert f"`{option}`" in page or option == "url", option


def test_the_errors_page_names_every_error_and_exit_code() -> None:
    from tensorwire.clients import errors
    from tensorwire.clients.cli.failures import EXIT_CODE_HELP

    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    kinds = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.TensorwireError)
    ]
    assert len(kinds) > 25
    for kind in kinds:
        assert f"`{kind.__name__}`" in page or f"errors.{kind.__name__}`" in page, kind.__name__
        row = re.search(rf"^\| `{kind.__name__}`(?: \(`\w+`\))? \| ([A-Z_]+) \|", page, re.MULTILINE)
        assert row is None or row[1] == kind.status.name, kind.__name__
    for code, meaning in EXIT_CODE_HELP:
        assert f"| {int(code)} | {meaning}" in page.replace(
            "; for `health` and `check`: something is wrong", " (for health and check: something is wrong)"
        ), code
