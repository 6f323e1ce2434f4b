"""The fuzz harness: each target runs under coverage for a moment, and what is planted is found, saved and told."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fuzz import target
from fuzz.__main__ import main
from fuzz.run import Run
from fuzz.target import FUZZ, MemoryHungryInputError, SlowInputError, load, run_timed, run_traced
from tests.fuzz import planted

ROOT = FUZZ.parent
RUNS = 1_000
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris has no wheel for this Python and machine; tests/fuzz/test_corpus.py runs without it",
)


def finished(run: Run) -> Run:
    """The run, once its worker has ended: by the count of its inputs, however fast the machine is."""
    run.start()
    assert run.process is not None
    try:
        run.process.wait(90)
    finally:
        run.stop()
    assert run.ended()
    return run


@needs_atheris
@pytest.mark.parametrize("name", target.NAMES)
def test_a_short_run_finds_nothing_and_covers_something(name: str, tmp_path: Path) -> None:
    run = finished(Run(name, seconds=60, runs=RUNS, seeds=False, build=tmp_path))
    result = run.result()
    assert result.findings == [], run.last_words()
    assert not run.failed, run.last_words()
    assert result.executions >= RUNS
    assert result.features > 300  # without coverage there would be two or three


@needs_atheris
def test_a_bug_is_found_by_coverage_saved_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fuzz.run.BUILD", tmp_path)
    status = main(["--target", "tests.fuzz.planted", "--seconds", "40", "--jobs", "1"])
    said = capsys.readouterr().err
    findings = list((tmp_path / "planted" / "findings").iterdir())
    assert status == 1
    assert len(findings) == 1
    assert f"--target tests.fuzz.planted --replay {findings[0]}" in said
    assert "planted: an extension with RETRY_AFTER" in said
    again = subprocess.run(
        [sys.executable, "-m", "fuzz", "--target", "tests.fuzz.planted", "--replay", str(findings[0])],
        cwd=ROOT, env={"PYTHONPATH": "src:."}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert again.returncode != 0
    assert "planted: an extension with RETRY_AFTER" in again.stderr


def test_a_slow_input_is_a_finding_only_if_it_is_slow_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "CPU_SECONDS", 0.001)
    with pytest.raises(SlowInputError, match="ms for 8 bytes"):
        run_timed(planted.TARGET, b"slowonce")
    run_timed(planted.TARGET, b"")
    times = iter((0.05, 0.0001, 0.05))
    monkeypatch.setattr(target, "_timed", lambda *_: next(times))
    run_timed(planted.TARGET, b"")


def test_an_input_that_allocates_more_than_its_length_explains_is_a_finding() -> None:
    with pytest.raises(MemoryHungryInputError, match="for 3 of input"):
        run_traced(planted.TARGET, b"hog")
    run_traced(planted.TARGET, b"")


def test_what_another_thread_allocates_meanwhile_is_no_finding() -> None:
    elsewhere = iter((1 << 22,))

    def check(_: bytes) -> None:
        thread = threading.Thread(target=bytearray, args=(next(elsewhere, 0),))
        thread.start()
        thread.join()

    run_traced(dataclasses.replace(planted.TARGET, check=check), b"")


@pytest.mark.parametrize("name", target.NAMES)
def test_a_target_states_its_refusals_and_invariants(name: str) -> None:
    text = sys.modules[load(name).check.__module__].__doc__ or ""
    assert "May be refused with:" in text
    assert "Invariants:" in text
