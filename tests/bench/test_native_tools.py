"""What load generators print becomes a Sample, and a call that failed is not a figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import native_tools
from bench.measure import MissingError

PRINTED = {"calls": 10, "errors": 0, "seconds": 0.5, "p50_us": 1, "p90_us": 2, "p99_us": 3, "p99_9_us": 4, "max_us": 9}


def test_our_load_generators_give_calls_seconds_and_percentiles() -> None:
    sample = native_tools.from_json(PRINTED)
    assert (sample.calls, sample.elapsed) == (10, 0.5)
    assert sample.percentiles == {"50": 1.0, "90": 2.0, "99": 3.0, "99.9": 4.0}


def test_calls_that_failed_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="3 errors"):
        native_tools.from_json({**PRINTED, "errors": 3})


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("finished in 2.50s, 400.00 req/s", 2.5),
        ("finished in 120.00ms, 9 req/s", 0.12),
        ("finished in 950us, x", 0.00095),
    ],
)
def test_the_time_that_h2load_prints_is_read_in_its_unit(said: str, seconds: float) -> None:
    assert native_tools.seconds_of(said) == pytest.approx(seconds)


def test_h2load_without_a_time_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="how long"):
        native_tools.seconds_of("nothing of the kind")


def test_a_program_that_ends_badly_is_an_error_with_its_last_words() -> None:
    with pytest.raises(RuntimeError, match=r"sh ended with 3: last words"):
        native_tools.run(["/bin/sh", "-c", "echo first >&2; echo last words >&2; exit 3"])


def test_a_program_that_was_not_built_is_missing_and_the_message_says_who_builds_it() -> None:
    with pytest.raises(MissingError, match=r"build/c/absent.*make bench"):
        native_tools.built(Path(native_tools.LOAD, "absent"))
