"""The commands against a real server process: what they print, to whom, and how they end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from PIL import Image

from tensorwire.clients.cli.failures import ExitCode
from tensorwire.clients.cli.group import cli

from .conftest import ROOT, running_server

pytestmark = pytest.mark.xdist_group("cli")


def run(server: str, *args: str, stdin: bytes = b"") -> Any:
    return CliRunner(env={"TENSORWIRE_URL": server, "COLUMNS": "80"}).invoke(
        cli, args, prog_name="tensorwire", input=stdin
    )


def ok(server: str, *args: str, stdin: bytes = b"") -> str:
    result = run(server, *args, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stderr == ""
    output: str = result.stdout
    assert max(map(len, output.splitlines()), default=0) <= 80 or "--json" in args or "json" in args
    return output


# --- send ----------------------------------------------------------------------------------------------------------


def test_send_prints_the_first_values_of_each_output(server: str) -> None:
    output = ok(server, "send", "echo", "--input", "x=[1, 2, 3]")
    assert "float32[1,3]" in output
    assert "1, 2, 3" in output


def test_send_as_json_is_one_line_per_reply(server: str) -> None:
    for form in (("-o", "json"), ("--json",)):
        lines = ok(server, "send", "echo", "-i", "[1,2]", *form, "--repeat", "3", "--timing").splitlines()
    assert len(lines) == 3
    reply = json.loads(lines[0])
    assert reply["outputs"]["y"] == {"dtype": "float32", "shape": [1, 2], "data": [[1.0, 2.0]]}
    assert reply["timing_us"]["round_trip"] >= reply["timing_us"]["server_total"]


def test_an_optional_input_may_be_sent_or_left_out(server: str) -> None:
    for inputs, want in ((["-i", "3"], 6), (["-i", "x=3"], 6), (["-i", "times=5", "-i", "x=3"], 15)):
        assert json.loads(ok(server, "send", "moods", *inputs, "-o", "json"))["outputs"]["y"]["data"] == [want]
    failed = run(server, "send", "moods", "-i", "time=5")
    assert "it takes x: int64[-1]; times: int64[-1]" in failed.stderr
    about = json.loads(ok(server, "describe", "moods", "--json"))
    assert [[spec["name"] for spec in about[side]] for side in ("inputs", "optional")] == [["x"], ["times"]]
    shown = ok(server, "describe", "moods")
    assert "times: int64[-1]" in shown
    assert "--input x=random" in shown
    assert "--input times" not in shown


def test_send_names_the_labels_of_a_photo(server: str, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (0, 255, 51)).save(tmp_path / "green.png")
    output = ok(server, "send", "pixels", "--input", f"x=@{tmp_path / 'green.png'}", "--top", "2")
    rows = [line.split() for line in output.splitlines()]
    assert ["green", "1.0000", "1"] in rows
    assert ["blue", "0.2000", "2"] in rows
    assert "red" not in output


def test_send_reads_npy_from_a_pipe_and_writes_it_to_one(server: str, tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    file = io.BytesIO()
    np.save(file, array)
    result = run(server, "send", "echo", "--input", "x=-", "--output", "npy", stdin=file.getvalue())
    assert result.exit_code == 0
    assert np.array_equal(np.load(io.BytesIO(result.stdout_bytes)), array)
    assert result.stderr == ""
    timed = run(server, "send", "echo", "--input", "x=-", "--output", "npy", "--timing", stdin=file.getvalue())
    assert np.array_equal(np.load(io.BytesIO(timed.stdout_bytes)), array)
    assert "round trip" in timed.stderr
    shown = ok(server, "send", "echo", "-i", "random:float32:2x5", "-o", f"npy={tmp_path / 'y.npy'}", "--timing")
    assert "round trip" in shown
    assert np.load(tmp_path / "y.npy").shape == (2, 5)


def test_send_shows_the_timing_and_the_spread_of_repeats(server: str) -> None:
    output = ok(server, "send", "echo", "--input", "x=random", "--timing", "--repeat", "5")
    for shown in ("receive", "compute", "server total", "round trip", "5 calls: min", "mean of 5 calls"):
        assert shown in output


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("nothing", "-i", "x=1"), ExitCode.REMOTE, "nothing"),
        (("echo", "-i", "x=[1]", "--model-version", "9"), ExitCode.REMOTE, "9"),
        (("echo", "-i", "y=[1]"), ExitCode.USAGE, "no input 'y': it takes x: float32[-1,-1]"),
        (("echo", "-i", "x=@absent.npy"), ExitCode.USAGE, "cannot read 'absent.npy'"),
        (("moods", "-i", "x=[-1]"), ExitCode.REMOTE, "negative numbers are beyond me"),
        (("moods", "-i", "x=[300]", "--deadline", "50ms"), ExitCode.DEADLINE, "deadline"),
    ],
)
def test_send_fails_with_one_line_and_its_exit_code(
    server: str, args: tuple[str, ...], code: ExitCode, message: str
) -> None:
    result = run(server, "send", *args)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_what_send_captured_decode_prints_frame_by_frame(server: str, tmp_path: Path) -> None:
    file = str(tmp_path / "call.twcap")
    ok(server, "send", "echo", "--input", "x=[1,2]", "--capture", file)
    lines = run(server, "decode", file).stdout.splitlines()
    frames = " ".join(lines)
    for name in ("HELLO", "WELCOME", "AUTH", "READY", "OPEN", "DATA"):
        assert name in frames
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("content", [None, b"", b"this is no capture"])
def test_decode_of_something_else_is_refused_in_one_line(server: str, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "no.twcap"
    if content is not None:
        file.write_bytes(content)
    result = run(server, "decode", str(file))
    assert result.exit_code == ExitCode.USAGE
    assert "no.twcap" in result.stderr
    assert result.stderr.count("\n") == 1


# --- what a server has ---------------------------------------------------------------------------------------------


def test_models_lists_names_versions_and_states(server: str) -> None:
    output = ok(server, "models")
    for name in ("echo", "pixels", "moods", "idle"):
        assert name in output
    assert {entry["model"] for entry in json.loads(ok(server, "models", "--json"))} == {"echo", "pixels", "moods"}


def test_describe_shows_signature_hints_and_a_call_to_try(server: str) -> None:
    output = ok(server, "describe", "pixels")
    for shown in ("x: float32[-1,3,8,8]", "8 x 8 pixels", "p: float32[-1,3]", "3: red, green", "--input x=@photo.jpg"):
        assert shown in output
    about = json.loads(ok(server, "describe", "pixels", "--json"))
    assert about["inputs"][0] == {"name": "x", "dtype": "float32", "kind": "dense", "shape": [-1, 3, 8, 8]}
    assert about["labels"] == ["red", "green", "blue"]
    assert run(server, "describe", "nothing").exit_code == ExitCode.REMOTE


def test_health_of_one_model_and_of_all(server: str) -> None:
    assert "idle" in ok(server, "health", "echo")
    assert len(json.loads(ok(server, "health", "--json"))) == 3
    assert run(server, "health", "nothing").exit_code == ExitCode.REMOTE


def test_ping_prints_each_round_trip_and_a_summary(server: str) -> None:
    lines = ok(server, "ping", "--count", "3", "--interval", "1ms").splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("min ")
    trip = json.loads(ok(server, "ping", "--count", "2", "--interval", "1ms", "--json"))["round_trip_us"]
    assert 0 < trip["min"] <= trip["median"] <= trip["max"]


def test_completion_of_model_names_asks_the_server(server: str) -> None:
    words = {"COMP_WORDS": "tensorwire describe p", "COMP_CWORD": "2", "_TENSORWIRE_COMPLETE": "bash_complete"}
    result = CliRunner(env={"TENSORWIRE_URL": server, **words}).invoke(
        cli, [], prog_name="tensorwire", complete_var="_TENSORWIRE_COMPLETE"
    )
    assert "pixels" in result.output
    assert "echo" not in result.output


# --- bench ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [("--concurrency", "4"), ("--rate", "300", "--connections", "2")])
def test_bench_counts_its_calls_and_prints_percentiles(server: str, mode: tuple[str, ...]) -> None:
    report = json.loads(ok(server, "bench", "echo", *mode, "--requests", "200", "--json"))
    assert report["requests"] == 200
    assert report["failed"] == 0
    assert report["latency_us"]["p50"] <= report["latency_us"]["p99.9"] <= report["latency_us"]["max"]
    output = ok(server, "bench", "echo", *mode, "--duration", "200ms", "--warmup", "50ms")
    for shown in ("requests/s", "p50", "p99.9", "#"):
        assert shown in output


def test_bench_counts_failures_and_fails_if_nothing_succeeds(server: str) -> None:
    result = run(server, "bench", "moods", "--input", "x=[-1]", "--requests", "5")
    assert result.exit_code == ExitCode.REMOTE
    assert "failed: " in result.stdout
    assert "no call succeeded" in result.stderr


def test_an_interrupted_bench_prints_what_it_has(server: str) -> None:
    command = [
        sys.executable,
        "-m",
        "tensorwire",
        "bench",
        "echo",
        "--duration",
        "60",
        "--warmup",
        "1ms",
        "--url",
        server,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as bench:
        process = psutil.Process(bench.pid)
        while not (any("uvloop" in file.path for file in process.memory_maps()) and process.net_connections()):
            assert bench.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)  # connected, with the loop that carries the load: past the warm-up, and some calls more
        bench.send_signal(signal.SIGINT)
        output, error = bench.communicate(timeout=20)
    assert bench.returncode == 0, error
    assert "p99.9" in output


@pytest.mark.parametrize("mode", [("--concurrency", "2"), ("--rate", "100")])
def test_a_bench_whose_server_dies_prints_what_it_has_and_says_so(models: Path, mode: tuple[str, ...]) -> None:
    with running_server(models) as (url, process):
        timer = threading.Timer(1.0, process.kill)
        timer.start()
        result = run(url, "bench", "echo", *mode, "--duration", "60", "--warmup", "1ms")
        timer.join()
    assert result.exit_code in (ExitCode.LOST, ExitCode.NO_CONNECTION)
    assert "p99.9" in result.stdout
    assert result.stderr.count("\n") == 1


def test_a_watched_health_ends_with_ctrl_c(server: str) -> None:
    command = [sys.executable, "-m", "tensorwire", "health", "echo", "--watch", "--url", server]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as watch:
        assert watch.stdout is not None
        assert "echo/1 idle" in watch.stdout.readline()
        watch.send_signal(signal.SIGINT)
        _, error = watch.communicate(timeout=20)
    assert watch.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in error
