"""The import contracts and type checkers see through the directory links: a planted error must be found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("protocol", "codec", "gpu", "server", "clients")
BIN = Path(sys.executable).parent


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """Return a copy of the package with its links, small enough to plant an error in."""
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "src", tmp_path / "src", symlinks=True, ignore=shutil.ignore_patterns("*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("tests", "fuzz", "bench"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "empty.py").write_text('"""Nothing."""\n')
    return tmp_path


def run(tool: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / tool, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(cwd / "src"), "HOME": str(cwd)},
    )


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_a_link_into_the_root_folder(part: str) -> None:
    link = ROOT / "src" / "tensorwire" / part
    assert link.is_symlink()
    assert link.resolve() == ROOT / part


def test_a_stray_import_from_the_root_fails_loudly() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import protocol"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode != 0
    assert "ImportError" in done.stderr


def test_import_linter_finds_a_planted_import(copied_tree: Path) -> None:
    (copied_tree / "protocol" / "planted.py").write_text('"""Planted."""\n\nimport asyncio as asyncio\n')
    done = run("lint-imports", "--no-cache", cwd=copied_tree)
    assert done.returncode != 0
    assert "tensorwire.protocol.planted -> asyncio" in done.stdout


def test_mypy_finds_a_planted_type_error(copied_tree: Path) -> None:
    (copied_tree / "protocol" / "planted.py").write_text('"""Planted."""\n\nWRONG: int = "text"\n')
    done = run("mypy", "src/tensorwire/protocol/planted.py", cwd=copied_tree)
    assert done.returncode != 0
    assert "planted.py:3" in done.stdout


def test_mypy_checks_every_file_behind_the_links() -> None:
    """The configured run names the links, so no file of a part is left out."""
    text = (ROOT / "pyproject.toml").read_text()
    assert 'files = ["src/tensorwire"' in text
    seen = {
        path.relative_to(ROOT / "src" / "tensorwire")
        for part in PARTS
        for path in (ROOT / "src" / "tensorwire" / part).rglob("*.py")
    }
    assert Path("protocol/__init__.py") in seen


def test_pyright_finds_planted_type_errors(copied_tree: Path) -> None:
    for path in copied_tree.glob("*/**/*.py"):  # what the other modules say is `make types`'s business
        path.write_text("")
    for part in ("protocol", "server"):
        (copied_tree / part / "planted.py").write_text('"""Planted."""\n\nWRONG: int = "text"\n')
    done = run("pyright", cwd=copied_tree)
    assert done.returncode != 0
    for part in ("protocol", "server"):
        assert f"{part}/planted.py:3" in done.stdout, done.stdout + done.stderr
