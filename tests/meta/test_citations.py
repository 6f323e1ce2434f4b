"""What code, tests and pages cite of the protocol's page is there: every `SPEC n.n` leads to a section or paragraph."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "protocol" / "SPEC.md").read_text(encoding="utf-8")
# "## 7. ...", "### 6.5 ..." and paragraphs "7.5. ..."
NUMBERS = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\b|^(\d+\.\d+)\. ", PAGE, re.MULTILINE))
PLACES = {section or paragraph for section, paragraph in NUMBERS}
CITATION = re.compile(r"\bSPEC (\d+(?:\.\d+)?(?:(?:, | and | to )\d+(?:\.\d+)?)*)")
WORDS = re.compile(r"\bSPEC(?:: ?[A-Za-z]| [Ss]ection)")  # "SPEC: tensors" is found by nobody


def sources() -> list[Path]:
    """Tracked and new text files of every part."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.fbs", "*.md", "*.c", "*.h"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    own = {Path(__file__).resolve(), ROOT / "protocol" / "SPEC.md"}
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file() and path not in own]


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sources()}


def test_the_page_has_its_sections() -> None:
    assert {str(n) for n in range(1, 23)} <= PLACES
    assert {"3.2", "6.5", "7.3", "8.4", "18.6", "19.4"} <= PLACES


def test_every_citation_leads_somewhere(texts: dict[str, str]) -> None:
    cited = [
        (name, number)
        for name, text in texts.items()
        for found in CITATION.findall(text)
        for number in re.findall(r"\d+(?:\.\d+)?", found)
    ]
    assert len(cited) > 30
    assert [(name, number) for name, number in cited if number not in PLACES] == []


def test_citations_are_numbers(texts: dict[str, str]) -> None:
    assert [(name, m.group()) for name, text in texts.items() if (m := WORDS.search(text))] == []


def test_the_page_cites_itself_rightly() -> None:
    inside = re.findall(r"\((?:section )?(\d+\.\d+)\)|\bsection (\d+(?:\.\d+)?)\b", PAGE)
    assert [number for pair in inside for number in pair if number and number not in PLACES] == []
