"""twire-load and raw-load: what they count, when they complain. With ASan and UBSan, against real servers."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tensorwire.protocol import Message, Status
from tests.integration.models import ECHO, RAISES, SLEEPS, flat
from tests.support import c_programs
from tests.support.peer import Peer, PeerConnection
from tests.support.server import ServerProcess, running_server, write_model

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("c-programs")]

PLUS_ONE = "def build():\n    return lambda inputs: {'y': inputs['x'] + 1}\n"
PAIR = """\
backend = "python"
engine = "inline"
max_batch = 8
[[inputs]]
name = "a"
dtype = "float16"
shape = [-1, 3]
[[inputs]]
name = "b"
dtype = "int64"
shape = [-1, 5]
[[outputs]]
name = "a"
dtype = "float16"
shape = [-1, 3]
[[outputs]]
name = "b"
dtype = "int64"
shape = [-1, 5]
"""
ECHO_PAIR = "def build():\n    return lambda inputs: {'a': inputs['a'], 'b': inputs['b']}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("c_load")


@pytest.fixture(scope="module")
def programs() -> Path:
    return c_programs.build("load", sanitized=True)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    models = folder / "models"
    write_model(models, "echo", ECHO, flat(16))
    write_model(models, "large", ECHO, flat(65536))
    write_model(models, "pair", ECHO_PAIR, PAIR)
    write_model(models, "plus_one", PLUS_ONE, flat(16))
    write_model(models, "raises", RAISES, flat(16, warmup=False))
    write_model(models, "sleeps", SLEEPS, flat(1, engine="process", max_batch=1, warmup=False))
    with running_server(models, "--unix", str(folder / "socket")) as running:
        yield running


class Load:
    """twire-load against one server."""

    def __init__(self, program: Path, server: ServerProcess) -> None:
        self.program = program
        self.url = "tw://{}:{}".format(*server.address)

    def __call__(self, *arguments: object, model: str = "echo", **options: str) -> subprocess.CompletedProcess[str]:
        given = {"url": self.url, "input": "x=float32:1x16", **options}
        named = [word for name, value in given.items() for word in (f"--{name}", value)]
        return c_programs.run(self.program, "--model", model, *named, "--json", *arguments)


@pytest.fixture
def load(programs: Path, server: ServerProcess) -> Load:
    return Load(programs / "twire-load", server)


# -- what is counted


def test_every_call_is_made_counted_and_timed(load: Load) -> None:
    done = load("--connections", 2, "--in-flight", 8, "--calls", 4000, "--echo")
    found = c_programs.report(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert (found["calls"], found["errors"], found["errors_by_status"]) == (4000, 0, {})
    assert found["rate"] == pytest.approx(found["calls"] / found["seconds"], rel=1e-3)
    steps = [found[name] for name in ("p50_us", "p90_us", "p99_us", "p99_9_us", "max_us")]
    assert steps[0] > 0
    assert steps == sorted(steps)
    assert found["cpu_seconds"] > 0
    # 64 bytes of tensor and a header of 24 at least, both ways
    assert min(found["bytes_in"], found["bytes_out"]) > 4000 * 88
    assert max(found["bytes_in"], found["bytes_out"]) < 4000 * 512
    assert found["connections_lost"] == 0


def test_contents_are_compared_for_the_first_reply_of_a_connection_and_every_thousandth(load: Load) -> None:
    found = c_programs.report(load("--connections", 2, "--in-flight", 1, "--calls", 3500, "--echo"))
    # each connection answers some share of 3,500: 1 and one more for each further 1,000
    assert found["checked"] in (4, 5)
    assert c_programs.report(load("--calls", 10))["checked"] == 0


@pytest.mark.parametrize(
    ("model", "inputs"),
    [("large", ["x=float32:1x65536"]), ("pair", ["a=float16:2x3", "b=int64:2x5"]), ("echo", ["x=float32:3x16"])],
)
def test_large_and_several_tensors_are_echoed(
    programs: Path, server: ServerProcess, model: str, inputs: list[str]
) -> None:
    named = [word for tensor in inputs for word in ("--input", tensor)]
    where = ["--url", "tw://{}:{}".format(*server.address), "--model", model, "--connections", 2, "--in-flight", 3]
    done = c_programs.run(programs / "twire-load", *where, *named, "--calls", 60, "--echo", "--json")
    found = c_programs.report(done)
    assert (done.returncode, done.stderr, found["calls"], found["errors"]) == (0, "", 60, 0)
    assert found["checked"] == 2


def test_unix_sockets_are_an_address_too(load: Load, folder: Path) -> None:
    found = c_programs.report(load("--calls", 50, "--echo", url=f"tw+unix://{folder / 'socket'}"))
    assert (found["calls"], found["errors"]) == (50, 0)


def test_a_duration_ends_the_run_and_warm_up_is_not_recorded(load: Load, server: ServerProcess) -> None:
    before = served(server)
    found = c_programs.report(load("--in-flight", 4, "--duration", 0.5, "--warmup", 0.5))
    assert found["seconds"] == pytest.approx(0.5, abs=0.4)
    assert 0 < found["calls"] < served(server) - before
    before = served(server)
    found = c_programs.report(load("--in-flight", 4, "--calls", 100, "--warmup", 0.2))
    assert found["calls"] == 100
    assert served(server) - before > 100


def served(server: ServerProcess) -> float:
    """Calls that echo has answered."""
    lines = [line for line in server.page("/metrics").splitlines() if line.startswith("tensorwire_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'model="echo"' in line)


def test_an_open_loop_sends_at_its_rate(load: Load) -> None:
    found = c_programs.report(load("--rate", 200, "--in-flight", 50, "--duration", 1))
    assert found["calls"] == 200
    assert found["seconds"] == pytest.approx(1, abs=0.5)


def test_an_open_loop_times_each_call_from_when_it_was_due(load: Load) -> None:
    """The model takes 1 s a call and one is in flight: the third call, due after 20 ms, is over after 3 s."""
    slow = {"model": "sleeps", "input": "x=float32:1x1"}  # its input is 1.0: seconds
    closed = c_programs.report(load("--calls", 2, **slow))
    assert closed["max_us"] < 1.9e6
    found = c_programs.report(load("--rate", 100, "--in-flight", 1, "--calls", 3, **slow))
    assert found["max_us"] > 2.9e6
    assert found["max_lateness_us"] > 1.9e6


def test_interrupted_it_reports_what_was_measured(load: Load, server: ServerProcess) -> None:
    before = served(server)
    command = [
        str(load.program),
        "--url",
        load.url,
        "--model",
        "echo",
        "--input",
        "x=float32:1x16",
        "--duration",
        "100",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while served(server) == before:
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        printed, complained = running.communicate(timeout=30)
    assert (running.returncode, complained) == (0, "")
    assert "calls/s" in printed


# -- what goes wrong


def test_an_answer_that_is_no_echo_ends_the_run(load: Load) -> None:
    done = load("--calls", 100, "--echo", model="plus_one")
    assert done.returncode == 1
    assert "the values of output 0 are not those of input x" in done.stderr
    assert load("--calls", 100, model="plus_one").returncode == 0


@pytest.mark.parametrize("output", ["y=float32:1x5", "y=float32:16", "y=int32:1x16", "z=float32:1x16"])
def test_an_answer_of_another_shape_ends_the_run(load: Load, output: str) -> None:
    done = load("--calls", 100, output=output)
    assert done.returncode == 1
    assert "wrong reply: y float32 [1, 16], expected" in done.stderr


def test_an_answer_of_the_expected_shape_is_right(load: Load) -> None:
    assert load("--calls", 100, output="y=float32:1x16").returncode == 0


def test_a_reply_of_another_call_is_noticed(programs: Path) -> None:
    """Every slot sends other values: a server that answers two calls crosswise gives itself away."""
    held: list[tuple[int, bytes, bytes, bytes]] = []

    def crossed(peer: PeerConnection, message: Message) -> None:
        held.append((message.stream_id, bytes(message.meta), bytes(message.ext), bytes(message.body)))
        if len(held) == 2:
            (first, meta, ext, body), (second, _, _, other_body) = held
            peer.send(first, meta, ext, other_body)
            peer.send(second, meta, ext, body)

    with Peer(crossed) as peer:
        done = against(programs, peer, "--in-flight", 2, "--calls", 2, "--echo")
    assert done.returncode == 1
    assert "the values of output 0 are not those of input x" in done.stderr


def against(programs: Path, peer: Peer, *arguments: object) -> subprocess.CompletedProcess[str]:
    where = ["--url", peer.url, "--model", "m", "--input", "x=float32:1x16"]
    return c_programs.run(programs / "twire-load", *where, "--json", *arguments)


def test_a_reply_whose_body_does_not_fit_its_dims_ends_the_run(programs: Path) -> None:
    def short(peer: PeerConnection, message: Message) -> None:
        peer.send(message.stream_id, bytes(message.meta), bytes(message.ext), bytes(60))

    with Peer(short) as peer:
        done = against(programs, peer, "--calls", 10)
    assert done.returncode == 1
    assert "wrong reply" in done.stderr


@pytest.mark.parametrize(
    ("model", "shape", "status"),
    [("raises", "1x16", "INTERNAL"), ("none", "1x16", "NOT_FOUND"), ("echo", "1x15", "INVALID_ARGUMENT")],
)
def test_failed_calls_are_counted_by_status(load: Load, model: str, shape: str, status: str) -> None:
    done = load("--in-flight", 4, "--calls", 40, model=model, input=f"x=float32:{shape}")
    found = c_programs.report(done)
    assert done.returncode == 1
    assert (found["calls"], found["errors"], found["errors_by_status"]) == (0, 40, {status: 40})
    assert f"first failed call: {status}" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_deadline_ends_calls(load: Load) -> None:
    done = load("--calls", 3, "--deadline", 30, model="sleeps", input="x=float32:1x1")
    assert c_programs.report(done)["errors_by_status"] == {"DEADLINE_EXCEEDED": 3}


def test_a_server_that_refuses_some_calls_does_not_stop_the_others(programs: Path) -> None:
    def every_other(peer: PeerConnection, message: Message) -> None:
        if message.stream_id % 2:
            peer.end(message.stream_id, Status.RESOURCE_EXHAUSTED, "full")
        else:
            peer.reply(message)

    with Peer(every_other) as peer:
        found = c_programs.report(against(programs, peer, "--in-flight", 3, "--calls", 100, "--echo"))
    assert (found["calls"], found["errors_by_status"]) == (50, {"RESOURCE_EXHAUSTED": 50})


@pytest.mark.parametrize("rate", [[], ["--rate", 1000]])
def test_a_lost_connection_fails_its_calls_and_the_others_go_on(programs: Path, rate: list[object]) -> None:
    def vanish(peer: PeerConnection, message: Message) -> None:
        if peer.number == 1 and len(peer.messages) == 5:
            peer.vanish()
        else:
            peer.reply(message)

    with Peer(vanish) as peer:
        assert [c.number for c in peer.connections] == []
        done = against(programs, peer, "--connections", 2, "--in-flight", 2, "--calls", 300, *rate)
    found = c_programs.report(done)
    assert done.returncode == 5
    assert found["connections_lost"] == 1
    # UNAVAILABLE: queued, not sent before the end was seen
    assert "E_LOST" in found["errors_by_status"]
    assert set(found["errors_by_status"]) <= {"E_LOST", "UNAVAILABLE"}
    assert 1 <= found["errors"] <= 2
    assert found["calls"] + found["errors"] == 300
    assert "is lost" in done.stderr


def test_when_every_connection_is_lost_the_run_ends(programs: Path) -> None:
    with Peer(lambda peer, _message: peer.vanish()) as peer:
        done = against(programs, peer, "--connections", 2, "--in-flight", 2, "--calls", 300)
    assert done.returncode == 5
    assert c_programs.report(done)["connections_lost"] == 2


def test_without_a_server_it_says_so(load: Load, unused_port: int) -> None:
    done = load(url=f"tw://127.0.0.1:{unused_port}")
    assert done.returncode == 3
    assert "no connection" in done.stderr
    assert "is the server running?" in done.stderr


def test_a_server_of_another_protocol_is_told_apart(programs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = "tw://{}:{}".format(*listener.getsockname())
        done = c_programs.run(programs / "twire-load", "--url", url, "--model", "m", "--input", "x=int8:1")
        thread.join(10)
    assert (done.returncode, done.stdout) == (3, "")
    assert "HTTP" in done.stderr


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that nobody listens on while it is held."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs --model and --input"),
        (["--model", "m", "--input", "x"], "expected NAME=DTYPE:SHAPE, such as x=float32:1x16"),
        (["--model", "m", "--input", "x=float33:1"], "float33 is no dtype"),
        (["--model", "m", "--input", "x=float32:1x"], "expected a shape such as"),
        (["--model", "m", "--input", "x=float32:1x-1"], "expected a shape such as"),
        (["--model", "m", "--input", "x=float32x1"], "is no dtype"),
        (["--model", "m", "--input", "x=float32:1073741824x1073741824x1073741824"], "above 1 GiB"),
        (["--model", "m", "--input", "x=float32:1x1x1x1x1x1x1x1x1"], "above 8 dims"),
        (["--model", "m", "--input", "x=int8:1", "--input", "x=int8:1"], "x"),
        (["--calls", "0"], "--calls is 0, expected a whole number from 1"),
        (["--calls", "1e3"], "--calls is 1e3"),
        (["--duration", "nan"], "--duration is nan, expected seconds"),
        (["--rate", "0"], "--rate is 0, expected more than 0"),
        (["--rate", "-1"], "--rate is -1"),
        (["--threads", "2"], "--threads is 2"),
        (["--calls", "1", "--duration", "1"], "give one of the two"),
        (["--model", "m", "--input", "x=int8:1", "--url", "http://h:1"], "expected tw://host:port"),
        (["--model", "m", "--input", "x=int8:1", "--url", "tw://h:1/path"], "expected tw://host:port"),
        (["--none"], "unrecognized option"),
        (["word"], "word is one word too many"),
    ],
)
def test_wrong_options_are_refused_and_named(programs: Path, arguments: list[str], words: str) -> None:
    done = c_programs.run(programs / "twire-load", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize("program", ["twire-load", "raw-load"])
def test_help_lists_the_options(programs: Path, program: str) -> None:
    done = c_programs.run(programs / program, "--help")
    assert done.returncode == 0
    for option in ("--connections", "--in-flight", "--calls", "--duration", "--rate", "--warmup", "--pin", "--json"):
        assert option in done.stdout


# -- raw-load


@pytest.fixture
def raw_echo() -> Iterator[str]:
    """The raw echo reference, with threads: three u32 say the bytes of a request, of a reply, and whether to echo."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer(sock: socket.socket) -> None:
            with sock, sock.makefile("rwb") as stream:
                request, reply, echo = struct.unpack("<III", stream.read(12))
                ready = (np.arange(reply) % 256).astype(np.uint8).tobytes() if reply < 1 << 24 else b""
                while message := stream.read(min(request, 1 << 24)):
                    stream.write(message if echo else ready)
                    stream.flush()

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=quiet, args=(sock,), daemon=True).start()

        def quiet(sock: socket.socket) -> None:
            try:
                answer(sock)
            except (OSError, struct.error):
                return

        threading.Thread(target=accept, daemon=True).start()
        yield "{}:{}".format(*listener.getsockname())
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("request_bytes", "reply_bytes", "options"),
    [(226, 234, ["--connections", 3, "--in-flight", 8]), (1_000_000, 400_000, ["--in-flight", 2]), (1, 1, []),
     (300_000, 300_000, ["--echo", "--connections", 2]), (226, 234, ["--rate", 2000, "--in-flight", 10])],
)  # fmt: skip
def test_raw_load_counts_the_bytes(
    programs: Path, raw_echo: str, request_bytes: int, reply_bytes: int, options: list[object]
) -> None:
    where = ["--address", raw_echo, "--request", request_bytes, "--reply", reply_bytes, *options]
    done = c_programs.run(programs / "raw-load", *where, "--calls", 200, "--json")
    found = c_programs.report(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert (found["calls"], found["errors"]) == (200, 0)
    assert (found["bytes_out"], found["bytes_in"]) == (200 * request_bytes, 200 * reply_bytes)


def test_what_a_full_socket_leaves_unsent_is_sent_later(programs: Path, raw_echo: str, load: Load) -> None:
    size = 12_000_000  # more than the kernel buffers
    done = c_programs.run(
        programs / "raw-load",
        "--address",
        raw_echo,
        "--request",
        size,
        "--reply",
        size,
        "--echo",
        "--calls",
        3,
        "--json",
    )
    assert (done.returncode, c_programs.report(done)["bytes_out"]) == (0, 3 * size)
    done = load("--in-flight", 4, "--calls", 12, "--echo", model="large", input="x=float32:8x65536")
    assert (done.returncode, c_programs.report(done)["calls"]) == (0, 12)


def test_raw_load_compares_the_first_reply(programs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(bytes(range(100)) + b"\0" * 134)
                sock.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        address = "{}:{}".format(*listener.getsockname())
        done = c_programs.run(programs / "raw-load", "--address", address, "--request", 226, "--reply", 234)
        thread.join(10)
    assert done.returncode == 1
    assert "byte 100 is 0, expected 100" in done.stderr


# -- the histogram

HISTOGRAM = """
#include <stdio.h>
#include "load/histogram.h"
static load_histogram all;
int main(void) {
  unsigned long long value;
  for (uint32_t b = 0; b + 1 < HISTOGRAM_BUCKETS; b++) /* every bucket begins where the one before it ends */
    if (histogram_bucket(histogram_top(b)) != b || histogram_bucket(histogram_top(b) + 1) != b + 1) return 1;
  if (histogram_bucket(UINT64_MAX) != HISTOGRAM_BUCKETS - 1) return 2;
  if (histogram_percentile(&all, 50) != 0) return 3;
  while (scanf("%llu", &value) == 1) histogram_record(&all, value);
  for (double p = 0; p <= 100; p += 0.5) printf("%llu\\n", (unsigned long long)histogram_percentile(&all, p));
  return 0;
}
"""


@pytest.mark.parametrize("most", [10, 3000, 1_000_000, 10**13])
def test_percentiles_are_right_to_a_tenth_of_a_percent(tmp_path: Path, most: int) -> None:
    (tmp_path / "test.c").write_text(HISTOGRAM)
    command = [
        "cc",
        "-std=c11",
        "-Wall",
        "-Werror",
        "-fsanitize=undefined",
        f"-I{c_programs.C}",
        "test.c",
        "-o",
        "test",
    ]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
    values = np.sort(np.random.default_rng(1).integers(0, most, 999))
    done = subprocess.run(
        [tmp_path / "test"], input="\n".join(map(str, values)), capture_output=True, text=True, check=True, timeout=60
    )
    found = np.array([int(line) for line in done.stdout.split()])
    ranks = np.maximum(1, np.ceil(np.arange(0, 100.5, 0.5) / 100 * 999 - 1e-6)).astype(int)
    exact = values[ranks - 1]
    assert len(found) == 201
    assert (found >= exact).all()
    assert (found <= exact * 1.001).all()
