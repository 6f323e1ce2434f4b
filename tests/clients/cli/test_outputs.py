"""Replies as text: JSON that programs read, .npy that numpy reads, numbers that people read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from tensorwire.clients.cli import outputs
from tensorwire.clients.cli.failures import Failure
from tensorwire.clients.results import Result, Timing
from tensorwire.codec import RaggedArray

LABELS = ("ape", "bee", "cat")


def reply(**arrays: Any) -> Result:
    result = Result(arrays)
    result.model, result.model_version = "m", "1"
    result.connection_id, result.stream_id = bytes(8), 7
    result.timing = None
    return result


def test_json_holds_every_value_and_the_best_labels() -> None:
    shown = outputs.reply_as_json(reply(p=np.array([[0.1, 0.7, 0.2]], np.float32)), LABELS, top=2)
    assert shown["model"] == "m"
    assert shown["request_id"] == "0000000000000000-7"
    assert shown["outputs"]["p"]["shape"] == [1, 3]
    assert [best["label"] for best in shown["top"]["p"][0]] == ["bee", "cat"]
    json.dumps(shown, allow_nan=False)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([1, 2], np.int64), [1, 2]),
        (np.array([True]), [True]),
        (np.array([1.0, np.nan, -np.inf], np.float32), [1.0, None, None]),
        (np.array([1 + 2j], np.complex64), [[1.0, 2.0]]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
        (np.array([["a", "b"], ["c", "d"]], dtype=object), [["a", "b"], ["c", "d"]]),
        (np.array("a", dtype=object), "a"),
        (np.array([2**64 - 1], np.uint64), [2**64 - 1]),
        (np.array(3.0), 3.0),
        (np.zeros((2, 0)), [[], []]),
        (RaggedArray.from_rows([[1, 2], [3]], np.int32), [[1, 2], [3]]),
    ],
)
def test_every_kind_of_value_has_a_json_form(array: Any, expected: Any) -> None:
    value = outputs.as_list(array)
    assert value == expected
    json.dumps(value, allow_nan=False)


def test_float8_and_bfloat16_have_a_json_form() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert outputs.as_list(np.array([0.5, 2.0], ml_dtypes.bfloat16)) == [0.5, 2.0]


def test_scores_that_are_no_numbers_and_large_ones_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    result = reply(p=np.array([[np.nan, np.inf, 1.0]], np.float32), n=np.array([2**53 + 1, 2**53 - 1, 1]))
    shown = outputs.reply_as_json(result, LABELS, top=3)["top"]
    assert [best["score"] for best in shown["p"][0]] == [None, 1.0, None]
    assert [best["score"] for best in shown["n"][0]] == [2**53 + 1, 2**53 - 1, 1]
    json.dumps(shown, allow_nan=False)
    outputs.print_reply(result, LABELS, top=3)
    assert str(2**53 + 1) in capsys.readouterr().out


def test_one_output_goes_to_an_npy_file_and_several_to_an_npz(tmp_path: Path) -> None:
    y = np.arange(3.0)
    outputs.write_npy(reply(y=y), tmp_path / "y.npy")
    assert np.load(tmp_path / "y.npy").tolist() == [0, 1, 2]
    outputs.write_npy(reply(y=y, z=y + 1), tmp_path / "all.npz")
    assert np.load(tmp_path / "all.npz")["z"].tolist() == [1, 2, 3]


def test_what_npy_cannot_hold_is_said(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"2 outputs: use --output npy=FILE\.npz"):
        outputs.write_npy(reply(y=np.ones(1), z=np.ones(1)), None)
    with pytest.raises(Failure, match="use --output json"):
        outputs.write_npy(reply(t=np.array(["a"], dtype=object)), tmp_path / "t.npy")
    with pytest.raises(Failure, match="cannot write"):
        outputs.write_npy(reply(y=np.ones(1)), tmp_path / "absent" / "y.npy")


def test_a_file_called_npz_is_one_whatever_the_number_of_outputs(tmp_path: Path) -> None:
    outputs.write_npy(reply(y=np.arange(3)), tmp_path / "one.npz")
    outputs.write_npy(reply(y=np.arange(3), z=np.ones(2)), tmp_path / "two.npz")
    for name, count in (("one.npz", 1), ("two.npz", 2)):
        with np.load(tmp_path / name) as archive:
            assert len(archive.files) == count
            assert archive["y"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("text", ["xml", "json=x", "npy=", "table=1"])
def test_an_unknown_output_format_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected table, json, npy or npy=FILE"):
        outputs.OutputFormat().convert(text, None, None)
    assert outputs.OutputFormat().convert("npy=a=b.npy", None, None) == ("npy", Path("a=b.npy"))


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(0.4, "0 us"), (874, "874 us"), (12_345, "12.35 ms"), (123_456, "123 ms"), (4_560_000, "4.56 s"), (np.nan, "-")],
)
def test_durations_have_three_digits_and_a_unit(microseconds: float, text: str) -> None:
    assert outputs.duration(microseconds) == text


def test_a_histogram_counts_every_call() -> None:
    rows = outputs.histogram(np.sort(np.random.default_rng(1).exponential(0.01, 1000)))
    assert sum(int(row.split()[-1]) for row in rows) == 1000
    assert max(map(len, rows)) <= 80
    assert outputs.histogram(np.empty(0)) == []
    assert outputs.histogram(np.full(5, 0.001))


def test_control_characters_of_a_label_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    outputs.print_reply(reply(p=np.array([[0.1, 0.9]], np.float32)), ("ok", "\x1b[31mred"), top=2)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "red" in shown


def test_timing_shows_each_phase_with_its_share(capsys: pytest.CaptureFixture[str]) -> None:
    outputs.print_timing([Timing(10, 20, 0, 30, 400, 40, 500, 1000)])
    shown = capsys.readouterr().out
    for phase in ("receive", "batch wait", "compute", "400 us", "40%", "round trip"):
        assert phase in shown


def test_tables_fit_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    outputs.print_reply(reply(long_name_of_an_output=np.ones((1, 512, 7, 7), np.float32)), (), top=5)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_npy_goes_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr("sys.stdout", stdout)
    outputs.write_npy(reply(y=np.arange(2)), None)
    stdout.buffer.seek(0)
    assert np.load(stdout.buffer).tolist() == [0, 1]
