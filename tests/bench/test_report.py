"""The tables: every peer has a row, with its figures or with the reason why there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import figures, plots, report, targets
from bench.measure import Sample
from bench.works import WORKS


def sample(p50: float) -> Sample:
    return Sample(100, 1.0, {"50": p50, "90": 2 * p50, "99": 3 * p50, "99.9": 4 * p50}, server_cpu=0.25)


@pytest.fixture
def results() -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key in ("A.python", "O.1000", "S.64"):
        samples = {"raw_echo": [sample(10), sample(20)], "ours": [sample(5), sample(5)]}
        rows[key] = figures.rows(WORKS[key], samples)
        rows[key]["mosec_server"] = {"reason": "missing: no Python package 'mosec'"}
    return {
        "machine": report.machine(), "rounds": 2, "starts": 1, "seconds": 0.4,
        "works": rows, "targets": targets.judged(rows),
        "missing": {"mosec_server": "no Python package 'mosec'"},
    }  # fmt: skip


def test_the_report_tells_figures_reasons_targets_and_what_it_ran_on(results: dict[str, Any]) -> None:
    text = report.markdown(results)
    assert "| tensorwire | 5 (5-5) | 0.375 (0.25-0.5) | - | 15 | 3 | 25% |" in text
    assert "| Mosec | missing: no Python package 'mosec' |" in text
    assert "| A p50, blocking client, x raw echo <= 1.15 | 0.375 (0.25-0.5) | met |" in text
    assert "Missing peers: Mosec: no Python package 'mosec'" in text
    assert results["machine"]["cpu"] in text
    assert f"numpy {results['machine']['packages']['numpy']}" in text


def test_sweeps_are_one_table_each_with_a_column_a_peer(results: dict[str, Any]) -> None:
    text = report.markdown(results)
    assert "| 1,000 calls/s offered | 100; 15 / 45 | 100; 5 / 15 |" in text
    assert "| 64 B echoed | 0.0064 (0.0064-0.0064) |" in text


def test_plots_are_the_same_for_the_same_figures(results: dict[str, Any], tmp_path: Path) -> None:
    pictures = []
    for name in ("one", "two"):
        report.write(results, tmp_path / name)
        pictures.append([(tmp_path / name / f"{plot}.svg").read_bytes() for plot in report.PLOTS])
    assert pictures[0] == pictures[1]
    assert all(b"tensorwire" in picture for picture in pictures[0])


def test_plots_of_works_that_were_not_run_are_not_drawn(results: dict[str, Any], tmp_path: Path) -> None:
    del results["works"]["O.1000"]
    plots.draw(results, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latency.svg", "sizes.svg"]
