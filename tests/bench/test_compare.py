"""Two runs agree where the intervals they state of themselves have a point in common."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench import compare, figures


def results(reference: list[float], ours: list[float]) -> dict[str, Any]:
    one, other = figures.summary(reference), figures.summary(ours)
    return {"works": {"A.python": {"raw_echo": one, "ours": {**other, "x_ref": figures.ratio(other, one)}}}}


@pytest.mark.parametrize(
    ("one", "other", "have"),
    [([1, 2], [2, 3], True), ([1, 2], [2.1, 3], False), ([1, 9], [4, 5], True), ([4, 5], [1, 3.9], False)],
)
def test_closed_intervals_overlap_where_they_share_a_point(one: list[float], other: list[float], have: bool) -> None:
    assert compare.overlap(one, other) is have
    assert compare.overlap(other, one) is have


def test_what_is_compared_is_the_ratio_and_for_the_reference_its_value() -> None:
    lines = compare.compare(results([10, 11], [20, 22]), results([100, 110], [200, 220]))
    assert [(line["peer"], line["what"], line["agrees"]) for line in lines] == [
        ("raw_echo", "value", False),
        ("ours", "x ref", True),
    ]


def test_what_only_one_run_has_or_could_not_measure_is_not_compared() -> None:
    old, new = results([10], [20]), results([10], [20])
    old["works"]["D"] = old["works"]["A.python"]
    new["works"]["A.python"]["ours"] = {"reason": "missing: x"}
    assert [(line["work"], line["peer"]) for line in compare.compare(old, new)] == [("A.python", "raw_echo")]


@pytest.mark.parametrize(("ours", "status"), [([20.0, 22.0] * 3, 0), ([40.0, 44.0] * 3, 1)])
def test_the_command_says_figure_by_figure_and_exits_with_1_where_ratios_are_apart(
    ours: list[float], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "old.json", tmp_path / "new.json"]
    paths[0].write_text(json.dumps(results([10.0, 11.0] * 3, [20.0, 22.0] * 3)))
    paths[1].write_text(json.dumps(results([10.0, 11.0] * 3, ours)))
    monkeypatch.setattr(sys, "argv", ["bench", "--compare", *map(str, paths)])
    assert command.main() == status
    said = capsys.readouterr().out
    assert "| A.python | tensorwire | x ref | 2 (2-2) |" in said
    assert f"{2 - status} of 2 figures agree" in said


def test_two_runs_that_share_no_figure_do_not_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "none.json"
    path.write_text(json.dumps({"works": {"A.python": {"ours": {"reason": "missing: x"}}}}))
    monkeypatch.setattr(sys, "argv", ["bench", "--compare", str(path), str(path)])
    assert command.main() == 1


def test_figures_of_too_few_rounds_for_an_interval_are_summed_up_apart() -> None:
    few, enough = results([10.0, 11.0], [20.0, 22.0]), results([10.0, 11.0] * 3, [20.0, 22.0] * 3)
    assert compare.table(compare.compare(few, enough)).endswith(
        "2 of 2 figures of fewer than 6 rounds within their range"
    )
    said = compare.table(compare.compare(enough, enough))
    assert said.endswith("2 of 2 figures agree within their own 95% intervals")
