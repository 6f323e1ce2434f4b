"""The examples of the C client, called as their first comments say: with ASan and UBSan, on a real server."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from tensorwire.codec import FREE, TensorSpec, dtype_by_name, encode_metadata
from tensorwire.protocol import Message
from tests.integration.models import ECHO, RAISES, flat
from tests.support import c_programs
from tests.support.peer import Peer, PeerConnection
from tests.support.server import ServerProcess, running_server, write_model

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("c-programs")]


@pytest.fixture(scope="module")
def examples() -> Path:
    return c_programs.build("examples", sanitized=True) / "examples"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = tmp_path_factory.mktemp("c_examples") / "models"
    write_model(models, "echo", ECHO, flat(16))
    write_model(models, "four", ECHO, flat(4))
    write_model(models, "large", ECHO, flat(65536))
    write_model(models, "raises", RAISES, flat(16, warmup=False))
    with running_server(models) as running:
        yield running


@pytest.fixture
def url(server: ServerProcess) -> str:
    return "tw://{}:{}".format(*server.address)


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return c_programs.run(program, *arguments)


# -- classify


def test_classify_sends_a_npy_file_and_prints_what_came_back(examples: Path, url: str, tmp_path: Path) -> None:
    x = np.arange(32, dtype=np.float32).reshape(2, 16)
    np.save(tmp_path / "x.npy", x)
    done = run(examples / "classify", url, "echo", "x", tmp_path / "x.npy")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("y float32 [2, 16], 128 bytes\n  0 1 2 3 4 5 6 7 ...\n  largest: 31 at 31\n")
    assert re.search(r"\d+ us in the server, \d+ of them in the model", done.stdout)


def test_classify_sends_a_raw_file(examples: Path, url: str, tmp_path: Path) -> None:
    (tmp_path / "x.raw").write_bytes(np.linspace(-1, 0, 16, dtype=np.float32).tobytes())
    done = run(examples / "classify", url, "echo", "x", "1x16", tmp_path / "x.raw")
    assert done.returncode == 0
    assert "y float32 [1, 16], 64 bytes\n  -1 -0.933333" in done.stdout
    assert "largest: 0 at 15" in done.stdout


@pytest.mark.parametrize(("model", "shape", "size"), [("echo", "1x16", 64), ("large", "2x65536", 524288)])
def test_classify_makes_random_values(examples: Path, url: str, model: str, shape: str, size: int) -> None:
    done = run(examples / "classify", url, model, "x", shape)
    assert done.returncode == 0
    assert f"[{shape.replace('x', ', ')}], {size} bytes" in done.stdout


def test_classify_says_what_is_wrong(examples: Path, url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "doubles.npy", np.zeros((1, 16)))
    np.save(tmp_path / "fortran.npy", np.zeros((2, 16), np.float32, order="F"))
    (tmp_path / "short.raw").write_bytes(bytes(63))
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff")
    refused = {
        (url, "none", "x", "1x16"): "NOT_FOUND",
        (url, "raises", "x", "1x16"): "INTERNAL",
        (url, "echo", "z", "1x16"): "INVALID_ARGUMENT",
        (url, "echo", "x", "1x17"): "INVALID_ARGUMENT",
        ("http://h", "echo", "x", "1x16"): "http://h",
        (url, "echo", "x", tmp_path / "doubles.npy"): "expected float32",
        (url, "echo", "x", tmp_path / "fortran.npy"): "expected float32 in C order",
        (url, "echo", "x", tmp_path / "cut.npy"): "its header is too long",
        (url, "echo", "x", tmp_path / "none.npy"): "No such file",
        (url, "echo", "x", "1x16", tmp_path / "short.raw"): "its length",
        (url, "echo", "x", "4294967296x4294967296x4294967296"): "too large",
        (url, "echo", "x", "photo.jpg"): "expected a shape",
        (url,): "usage",
    }
    for arguments, words in refused.items():
        done = run(examples / "classify", *arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert words in done.stderr
        assert "\x1b" not in done.stderr


@pytest.mark.parametrize("program", ["classify", "twire-load"])
def test_names_of_outputs_reach_no_terminal_as_they_are(examples: Path, program: str) -> None:
    load = c_programs.build("load", sanitized=True)
    named = encode_metadata("m", "", [TensorSpec("y\x1b[31m", dtype_by_name("float32"), (FREE, FREE))])

    def answer(peer: PeerConnection, message: Message) -> None:
        peer.send(message.stream_id, named, bytes(message.ext), bytes(64))

    with Peer(answer) as peer:
        if program == "classify":
            done = run(examples / program, peer.url, "m", "x", "1x16")
        else:
            wanted = ["--model", "m", "--input", "x=float32:1x16", "--output", "y=float32:1x16"]
            done = run(load / program, "--url", peer.url, *wanted)
    assert "y?[31m float32 [1, 16]" in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr


# -- pipeline


def test_pipeline_makes_every_call(examples: Path, url: str) -> None:
    for in_flight in (1, 64, 3000):
        done = run(examples / "pipeline", url, "echo", "x", 2000, in_flight)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("2000 calls, 0 failed")


def test_pipeline_counts_failures_and_outlives_a_lost_connection(examples: Path, url: str) -> None:
    done = run(examples / "pipeline", url, "raises", "x", 20, 4)
    assert done.returncode == 1
    assert done.stdout.startswith("20 calls, 20 failed")

    def vanish(peer: PeerConnection, message: Message) -> None:
        if len(peer.messages) == 5:
            peer.vanish()
        else:
            peer.reply(message)

    with Peer(vanish) as peer:
        done = run(examples / "pipeline", peer.url, "m", "x", 100, 4)
    assert done.returncode == 1
    assert re.match(r"\d+ calls, [1-4] failed", done.stdout)


# -- loop


def test_loop_prints_every_reply(examples: Path, server: ServerProcess) -> None:
    host, port = server.address
    done = run(examples / "loop", host, port, "four", "x", 5)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [f"stream {number}: 16 bytes" for number in range(1, 6)]
    done = run(examples / "loop", host, port, "echo", "x", 2)
    assert done.stdout.count("expected float32[-1, 16]") == 2


def test_loop_ends_with_its_connection(examples: Path) -> None:
    with Peer(lambda peer, _message: peer.vanish()) as peer:
        host, _, port = peer.url.removeprefix("tw://").partition(":")
        done = run(examples / "loop", host, port, "m", "x", 3)
    assert done.returncode in (0, 1)
    assert "LOST" in done.stdout + done.stderr or "closed" in done.stderr


def test_loop_lets_no_call_outlive_its_deadline(examples: Path) -> None:
    with Peer(lambda _peer, _message: None) as peer:
        host, _, port = peer.url.removeprefix("tw://").partition(":")
        done = run(examples / "loop", host, port, "m", "x", 2)
    assert done.returncode == 0
    assert done.stdout.count("deadline") + done.stdout.count("DEADLINE") >= 2


# -- loop_client


class Rounds:
    """`loop_client`: one round a line, and what became of it."""

    def __init__(self, examples: Path, url: str, model: str, width: int) -> None:
        self.process = subprocess.Popen(
            [str(examples / "loop_client"), url, model, "x", str(width)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, calls: int, milliseconds: int) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{calls} {milliseconds}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_a_loop_of_ones_own_waits_for_nothing_but_its_events(examples: Path, tmp_path: Path) -> None:
    """Hundreds of calls of 256 KiB to a server that has stopped: written in part, over in time, no frame lost."""
    write_model(tmp_path / "models", "large", ECHO, flat(65536))
    with (
        running_server(tmp_path / "models") as server,
        Rounds(examples, "tw://{}:{}".format(*server.address), "large", 65536) as rounds,
    ):
        assert rounds(30, 60000) == "30 calls: 30 good, 0 late, 0 failed\n"
        for _ in range(2):
            server.process.send_signal(signal.SIGSTOP)
            assert rounds(300, 400) == "300 calls: 0 good, 300 late, 0 failed\n"
            server.process.send_signal(signal.SIGCONT)
            assert rounds(30, 60000) == "30 calls: 30 good, 0 late, 0 failed\n"
        _, errors = rounds.process.communicate("", timeout=30)
        assert (rounds.process.returncode, errors) == (0, "")


def test_a_loop_of_ones_own_sees_the_end_of_a_connection_without_calls(examples: Path) -> None:
    with Peer() as peer, Rounds(examples, peer.url, "m", 4) as rounds:
        assert rounds(2, 30000) == "2 calls: 2 good, 0 late, 0 failed\n"
        peer.connection().goaway(0, "enough")
        peer.connection().hang_up()
        assert rounds.process.wait(30) == 1
        assert rounds.process.stderr is not None
        assert rounds.process.stderr.read() == "loop_client: closed: the server's connection ended without CLOSE\n"


# -- robot


def test_robot_acts_on_what_it_is_told(examples: Path, url: str) -> None:
    done = run(examples / "robot", url, "echo", "x", 30, 50)
    assert done.returncode == 0
    found = re.match(r"30 steps, (\d+) with a fresh action, 1 connections, last action (\d+)", done.stdout)
    assert found is not None
    assert int(found[1]) > 10  # a busy machine may miss some
    assert int(found[2]) > 10  # echo: the action is the number of the step


def test_robot_moves_on_when_an_answer_is_late_and_when_the_connection_is_lost(examples: Path) -> None:
    def answer(peer: PeerConnection, message: Message) -> None:
        if len(peer.messages) == 3:
            return  # late for ever
        if len(peer.messages) == 6:
            peer.vanish()
        else:
            peer.reply(message)

    with Peer(answer) as peer:
        done = run(examples / "robot", peer.url, "m", "x", 20, 50)
    found = re.match(r"20 steps, (\d+) with a fresh action, (\d+) connections", done.stdout)
    assert found is not None
    assert int(found[2]) >= 3
    assert 8 <= int(found[1]) < 20
    assert "last trouble: " in done.stdout


def test_robot_without_a_server_holds_still(examples: Path) -> None:
    with Peer() as peer:
        gone = peer.url
    done = run(examples / "robot", gone, "m", "x", 5, 10)
    assert done.returncode == 1
    assert done.stdout.startswith("5 steps, 0 with a fresh action, 0 connections, last action 0\nlast trouble: ")
