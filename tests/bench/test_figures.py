"""Medians, intervals and ratios of rounds."""

from __future__ import annotations

import math
from itertools import product

import pytest

from bench import figures
from bench.measure import Sample
from bench.works import WORKS


def sample(p50: float, calls: int = 100, elapsed: float = 1.0) -> Sample:
    return Sample(calls, elapsed, {"50": p50, "90": 2 * p50, "99": 3 * p50, "99.9": 4 * p50}, server_cpu=0.5)


@pytest.mark.parametrize(("n", "low"), [(1, 0), (5, 0), (6, 0), (9, 1), (10, 1), (12, 2), (20, 5)])
def test_the_interval_of_the_median_is_the_order_statistics_that_cover_it_in_95_of_100_runs(n: int, low: int) -> None:
    values = [float(value) for value in range(n)]
    assert figures.interval(values[::-1]) == (values[low], values[n - 1 - low])


@pytest.mark.parametrize("n", [6, 9, 10, 12])
def test_the_interval_holds_the_true_median_at_least_95_times_in_100(n: int) -> None:
    """Every run of n rounds, each above or below the true median with the same chance: counted, not sampled."""
    low = int(figures.interval(list(range(n)))[0])
    covered = sum(low < sum(rounds) < n - low for rounds in product((0, 1), repeat=n))
    assert covered / 2**n >= 0.95
    tighter = sum(low + 1 < sum(rounds) < n - low - 1 for rounds in product((0, 1), repeat=n))
    assert tighter / 2**n < 0.95


def test_a_ratio_is_taken_round_by_round_and_not_of_the_medians() -> None:
    ratio = figures.ratio(figures.summary([1.0, 10.0, 100.0]), figures.summary([1.0, 5.0, 400.0]))
    assert ratio["rounds"] == [1.0, 2.0, 0.25]
    assert ratio["median"] == 1.0


def test_rows_have_their_ratios_to_the_reference_and_to_grpc_but_not_to_themselves() -> None:
    rows = figures.rows(
        WORKS["A.python"],
        {
            "raw_echo": [sample(10), sample(20)],
            "ours": [sample(15), sample(40)],
            "grpc_aio": [sample(100), sample(100)],
        },
    )
    assert rows["ours"]["x_ref"]["rounds"] == [1.5, 2.0]
    assert rows["ours"]["x_grpc"]["rounds"] == [0.15, 0.4]
    assert "x_ref" not in rows["raw_echo"]
    assert "x_grpc" not in rows["grpc_aio"]


def test_a_work_names_its_own_reference() -> None:
    rows = figures.rows(WORKS["E.8x8"], {"in_process": [sample(1, calls=1000)], "ours": [sample(1, calls=700)]})
    assert rows["ours"]["x_ref"]["median"] == pytest.approx(0.7)


def test_a_row_has_range_percentiles_tail_and_the_share_of_the_server_s_core() -> None:
    row = figures.row(WORKS["A.python"], [sample(10), sample(30), sample(20)])
    assert (row["median"], row["min"], row["max"]) == (20, 10, 30)
    assert row["percentiles_us"] == {"50": 20, "90": 40, "99": 60, "99.9": 80}
    assert row["tail"]["median"] == 3.0
    assert row["server_cpu_share"] == 0.5
    assert row["server_cpu_us_per_call"] == pytest.approx(5000)


def test_the_figure_is_in_the_unit_of_its_work() -> None:
    one = sample(10, calls=50, elapsed=0.5)
    assert one.figure(WORKS["A.python"]) == 10
    assert one.figure(WORKS["B.python"]) == 100
    assert math.isclose(one.figure(WORKS["D"]), 100 * (16 << 20) / 1e6)
    assert Sample(1000, 3.0, value=1.5).figure(WORKS["F"]) == 1.5
