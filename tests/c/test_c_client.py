"""The C client against real servers: live ones over TCP and a Unix socket, one that dies, one that drains, others."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.models import ECHO, RAISES, SLEEPS, flat
from tests.support.server import ServerProcess, running_server, write_model
from tests.vectors import wire

pytestmark = pytest.mark.timeout(180)

DTYPES = ["bool", "int8", "int64", "uint8", "float16", "float32", "float64"]
ECHO_OF = """
backend = "python"
engine = "inline"
max_batch = 2
warmup = false
[[inputs]]
name = "x"
dtype = "{dtype}"
shape = [-1, {width}]
[[outputs]]
name = "y"
dtype = "{dtype}"
shape = [-1, {width}]
"""
ECHO_OTHER = """
def build():
    return lambda inputs: {"y": inputs["NAME"]}
"""
KIND_OF = """
backend = "python"
engine = "inline"
max_batch = 0
warmup = false
[[inputs]]
name = "{name}"
dtype = "{dtype}"
shape = [-1]
kind = "{kind}"
[[outputs]]
name = "y"
dtype = "{dtype}"
shape = [-1]
kind = "{kind}"
"""
BIG = {"image": 3 * 224 * 224, "huge": 4 * 1024 * 1024}  # 602,112 bytes and 16 MiB of float32


class Caller:
    """The program `call`: one command, its answers."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answers(self) -> list[str]:
        assert self.process.stdout is not None
        lines = list(
            itertools.takewhile(lambda line: line not in {".\n", ""}, iter(self.process.stdout.readline, None))
        )
        return [line.rstrip("\n") for line in lines]

    def __call__(self, command: str) -> list[str]:
        self.send(command)
        return self.answers()

    def finish(self) -> None:
        """The program ends well: with sanitizers that means no leak, no bad access, no undefined behaviour."""
        _, errors = self.process.communicate(timeout=30)
        assert (self.process.returncode, errors) == (0, "")


@pytest.fixture(params=["call", "call-sanitized"])
def call(request: pytest.FixtureRequest, programs: Path) -> Iterator[Caller]:
    caller = Caller(programs / request.param)
    try:
        yield caller
        caller.finish()
    finally:
        caller.process.kill()
        caller.process.communicate()


def write_models(folder: Path) -> Path:
    write_model(folder, "echo", ECHO, flat())
    write_model(folder, "raises", RAISES, flat(warmup=False))
    write_model(folder, "sleeps", SLEEPS, flat(1, engine="process", max_batch=1, warmup=False))
    for kind, dtype in (("strings", "uint8"), ("ragged", "float32")):
        write_model(
            folder,
            kind,
            ECHO_OTHER.replace("NAME", kind),
            KIND_OF.format(name=kind, dtype=dtype, kind=kind.rstrip("s")),
        )
    for dtype in DTYPES:
        write_model(folder, f"echo-{dtype}", ECHO, ECHO_OF.format(dtype=dtype, width=5))
    for name, width in BIG.items():
        write_model(folder, name, ECHO, ECHO_OF.format(dtype="float32", width=width))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("c")
    with running_server(write_models(folder / "models"), "--unix", str(folder / "s")) as running:
        yield running


@pytest.fixture
def doomed(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of its own, for a test that ends it."""
    write_model(tmp_path / "models", "sleeps", SLEEPS, flat(1, engine="process", max_batch=1, warmup=False))
    with running_server(tmp_path / "models") as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ServerProcess]:
    """One that a test may stop."""
    write_model(tmp_path / "models", "echo", ECHO, flat())
    write_model(tmp_path / "models", "huge", ECHO, ECHO_OF.format(dtype="float32", width=BIG["huge"]))
    with running_server(tmp_path / "models", "--unix", str(tmp_path / "s")) as running:
        yield running


def url_of(server: ServerProcess) -> str:
    return "tw://{}:{}".format(*server.address)


def unix_of(server: ServerProcess) -> str:
    return "tw+unix://" + server.ready.partition("tw+unix://")[2].split()[0].rstrip(",;")


@pytest.fixture(params=[url_of, unix_of], ids=["tcp", "unix"])
def connected(request: pytest.FixtureRequest, call: Caller, server: ServerProcess) -> Caller:
    assert call(f"connect {request.param(server)} 5000") == ["connected"]
    return call


# -- calls


def test_every_dtype_comes_back_as_it_was_sent(connected: Caller) -> None:
    for dtype in DTYPES:
        connected(f"model echo-{dtype} x {dtype} 2,5")
        assert connected("infer 5000 0") == ["reply OK 0 1 1 "]


@pytest.mark.parametrize("kind", ["strings", "ragged"])
def test_strings_and_ragged_rows_come_back_as_they_were_sent(connected: Caller, kind: str) -> None:
    reply, same = connected(kind)
    assert reply.startswith("reply OK")
    assert same == "same 1 1"


@pytest.mark.parametrize("model", BIG)
def test_bodies_above_the_inline_cap_come_back_as_they_were_sent(connected: Caller, model: str) -> None:
    connected(f"model {model} x float32 1,{BIG[model]}")
    assert connected("infer 20000 0") == ["reply OK 0 1 1 "]
    assert connected("infer 20000 0") == ["reply OK 0 1 1 "]


def test_a_large_body_is_received_into_the_callers_memory_or_refused_with_its_size(connected: Caller) -> None:
    width = BIG["image"]
    connected(f"model image x float32 1,{width}")
    connected(f"memory {4 * width}")
    assert connected("infer 5000 0") == ["reply OK 0 1 1 "]
    connected(f"memory {4 * width - 1}")
    (reply,) = connected("infer 5000 0")
    assert reply.startswith("reply RESOURCE_EXHAUSTED")
    assert str(4 * width) in reply
    connected("memory 0")
    assert connected("infer 5000 0") == ["reply OK 0 1 1 "]


def test_sixty_four_in_flight(connected: Caller) -> None:
    connected("model echo x float32 3,4")
    for _ in range(5):
        assert connected("submit 64 5000") == ["submitted OK "]
        assert connected("poll 64 5000") == ["reply OK 0 1 1 "] * 64
    connected(f"model image x float32 1,{BIG['image']}")
    assert connected("submit 16 20000") == ["submitted OK "]
    assert connected("poll 16 20000") == ["reply OK 0 1 1 "] * 16


def test_timing_is_given_when_asked_for(connected: Caller) -> None:
    connected("model echo x float32 1,4")
    (reply,) = connected("infer 5000 1")
    assert int(reply.partition("total=")[2]) > 0


def test_no_tensor_elements(connected: Caller) -> None:
    connected("model echo x float32 0,4")
    (reply,) = connected("infer 5000 0")
    assert reply.split()[1] in {"OK", "INVALID_ARGUMENT"}  # whether a model takes no rows is the server's affair
    connected("model echo x float32 1,4")
    assert connected("infer 5000 0") == ["reply OK 0 1 1 "]


# -- errors of one call


def test_errors_name_code_reason_and_request(connected: Caller) -> None:
    connected("model nowhere x float32 1,4")
    (reply,) = connected("infer 5000 0")
    assert reply.startswith("reply NOT_FOUND 1 0 0 NOT_FOUND: model 'nowhere'")
    assert reply.count("-1") == 1, "the request id, once"
    connected("model echo x float32 1,5")
    (reply,) = connected("infer 5000 0")
    assert reply.startswith("reply INVALID_ARGUMENT")
    assert "'x'" in reply
    connected("model raises x float32 1,4")
    (reply,) = connected("infer 5000 0")
    assert reply.split()[1] != "OK"
    assert "\x1b" not in reply
    assert connected("alive") == ["alive 1 "]


def test_a_deadline_ends_the_call_and_nothing_else(connected: Caller) -> None:
    connected("model sleeps x float32 1,1")
    connected("values 1.5")
    (reply,) = connected("infer 100 0")
    words = reply.split()
    assert words[:2] == ["reply", "DEADLINE_EXCEEDED"]
    assert words[3:6] == ["0", "0", "DEADLINE_EXCEEDED:"]
    assert (words[2] == "1") == ("(not started: safe to retry)" in reply)  # another test's call may still be asleep
    connected("model echo x float32 1,4")
    assert connected("infer 5000 0") == ["reply OK 0 1 1 "]


def test_a_cancelled_call_is_over_at_once(connected: Caller) -> None:
    connected("model sleeps x float32 1,1")
    connected("values 1.0")
    assert connected("submit 1 0") == ["submitted OK "]
    connected("cancel")
    (reply,) = connected("poll 1 50")
    assert reply.startswith("reply CANCELLED")
    assert connected("poll 1 50") == ["again"]


def test_a_poll_that_waits_in_vain_ends_in_time(connected: Caller) -> None:
    connected("model sleeps x float32 1,1")
    connected("values 0.5")
    assert connected("submit 1 0") == ["submitted OK "]
    assert connected("poll 1 20") == ["again"]
    assert connected("poll 1 10000") == ["reply OK 0 1 1 "]


def test_wrong_arguments_are_refused_before_anything_is_sent(connected: Caller) -> None:
    assert connected("misuse") == ["refused 15"]


# -- a server that has stopped


@contextlib.contextmanager
def stopped(server: ServerProcess) -> Iterator[None]:
    """It reads nothing meanwhile; its kernel takes what fits in its buffers."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("address", [url_of, unix_of], ids=["tcp", "unix"])
def test_a_flush_ends_with_the_deadline_and_the_connection_goes_on(
    call: Caller, own_server: ServerProcess, address: Callable[[ServerProcess], str]
) -> None:
    assert call(f"connect {address(own_server)} 5000") == ["connected"]
    call(f"model huge x float32 4,{BIG['huge']}")  # 64 MiB
    with stopped(own_server):
        assert call("queue 1 300") == ["submitted OK "]
        assert call("flush") == ["flushed DEADLINE_EXCEEDED"]
        (reply,) = call("poll 1 0")
        assert reply.startswith(
            "reply DEADLINE_EXCEEDED 0 0 0 DEADLINE_EXCEEDED: the deadline passed before the reply came"
        )
        assert call("flush") == ["flushed E_AGAIN"], "what is left is of a call that is over: nobody waits for it"
        (reply,) = call("infer 200 0")
        assert reply.startswith("reply DEADLINE_EXCEEDED"), "another call waits behind it, and not for ever"
    call("model echo x float32 1,4")
    assert call("infer 60000 0") == ["reply OK 0 1 1 "], "the frame that was begun is finished, the next one follows it"
    assert call("flush") == ["flushed OK"]


# -- the end of a connection


def test_a_server_killed_within_a_call_is_never_success(call: Caller, doomed: ServerProcess) -> None:
    assert call(f"connect {url_of(doomed)} 5000") == ["connected"]
    call("model sleeps x float32 1,1")
    call("values 30")
    assert call("submit 1 0") == ["submitted OK "]
    assert call("poll 1 300") == ["again"]  # it has begun
    call.send("poll 1 20000")
    os.kill(doomed.process.pid, signal.SIGKILL)
    (reply,) = call.answers()
    assert reply.startswith("reply E_LOST 0 0 0 E_LOST")
    (refused,) = call("submit 1 0")
    assert refused.startswith("submitted E_CLOSED")


def test_a_draining_server_finishes_what_runs_and_takes_no_more(call: Caller, doomed: ServerProcess) -> None:
    assert call(f"connect {url_of(doomed)} 5000") == ["connected"]
    call("model sleeps x float32 1,1")
    call("values 1.5")
    assert call("submit 1 0") == ["submitted OK "]
    call("poll 1 200")  # so that it has begun
    doomed.process.send_signal(signal.SIGTERM)
    call("poll 1 300")
    (alive,) = call("alive")
    assert alive.startswith("alive 0 the server drains (SHUTDOWN)")
    (refused,) = call("submit 1 0")
    assert refused.startswith("submitted E_BUSY"), "the reply is under way"
    assert call("poll 1 10000") == ["reply OK 0 1 1 "]
    (refused,) = call("submit 1 0")
    assert refused.split()[1] in {"UNAVAILABLE", "E_CLOSED"}
    assert doomed.process.wait(30) == 0


# -- connecting


@contextlib.contextmanager
def foreign(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that answers in its own way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _ = listener.accept()
                with peer:
                    answer(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tw://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.close()
            thread.join(20)


def answer_with(data: bytes) -> Callable[[socket.socket], None]:
    def answer(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(data)
        peer.recv(4096)

    return answer


VERSION = b"version: client speaks 1..1 draft 1, server speaks 2..3 draft 0"
REFUSALS = [
    (answer_with(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "E_PROTOCOL", ["not a tensorwire server", "HTTP", "7412"]),
    (answer_with(b"\x15\x03\x01\x00\x02\x02\x46"), "E_PROTOCOL", ["not a tensorwire server"]),
    (answer_with(b"SSH-2.0-OpenSSH_9.6\r\n"), "E_PROTOCOL", ["SSH"]),
    (answer_with(b"\x1b[31m evil \r\n" * 4), "E_PROTOCOL", ["\\x1b[31m"]),
    (answer_with(wire.frame(wire.CLOSE, aux=7, meta=VERSION)), "E_REFUSED", ["VERSION", VERSION.decode()]),
    (lambda peer: None, "E_", [""]),
    (lambda peer: peer.recv(1 << 20) and peer.recv(1 << 20) and None, "DEADLINE_EXCEEDED", ["handshake", "in time"]),
]


@pytest.mark.parametrize(
    ("answer", "code", "words"), REFUSALS, ids=["http", "tls", "ssh", "ansi", "version", "gone", "silent"]
)
def test_whoever_is_no_server_of_ours_gives_one_helpful_error(
    call: Caller, answer: Callable[[socket.socket], None], code: str, words: list[str]
) -> None:
    with foreign(answer) as url:
        (failure,) = call(f"connect {url} 400")
    assert failure.startswith(f"failed {code}")
    assert "\x1b" not in failure
    assert all(word in failure for word in words), failure


@contextlib.contextmanager
def silent_address(port: int) -> Iterator[None]:
    """127.0.0.2 with this port answers no SYN: a listener whose queue is full."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.2", port))
        listener.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        yield


@pytest.mark.parametrize("names", ["127.0.0.2,127.0.0.1", "127.0.0.3,127.0.0.2,127.0.0.3,127.0.0.1"])
def test_an_address_that_is_silent_or_refuses_costs_the_next_one_little(
    programs: Path, server: ServerProcess, names: str
) -> None:
    """127.0.0.2 is silent, 127.0.0.3 refuses: with a minute for it, the good one is reached within half of that."""
    port = server.address[1]
    with silent_address(port):
        began = time.monotonic()
        done = subprocess.run(
            [str(programs / "call")],
            input=f"connect tw://{names}:{port} 60000\nmodel echo x float32 1,4\ninfer 60000 0\n",
            env={**os.environ, "LD_PRELOAD": str(programs / "addresses.so")},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert time.monotonic() - began < 30
    assert done.stdout.splitlines() == ["connected", ".", ".", "reply OK 0 1 1 ", "."]


def test_a_name_without_an_address_that_answers_fails_in_time(programs: Path, server: ServerProcess) -> None:
    port = server.address[1]
    with silent_address(port):
        done = subprocess.run(
            [str(programs / "call")], input=f"connect tw://127.0.0.2,127.0.0.3,127.0.0.2:{port} 600\n",
            env={**os.environ, "LD_PRELOAD": str(programs / "addresses.so")},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.stdout.startswith("failed E_SYSTEM cannot connect to tw://127.0.0.2")
    assert "timed out" in done.stdout


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("http://127.0.0.1:80", "E_ADDRESS", "tw://host:port"),
        ("tw://127.0.0.1:99999", "E_ADDRESS", "1 to 65535"),
        ("tw://[::1", "E_ADDRESS", "tw://host:port"),
        ("tw+unix://relative", "E_ADDRESS", "tw+unix:///path"),
        ("tw+unix:///nowhere/at/all", "E_SYSTEM", "Does the server run?"),
        ("tw://127.0.0.1:1", "E_SYSTEM", "Does the server run?"),
    ],
)
def test_an_address_that_leads_nowhere_says_so(call: Caller, url: str, code: str, words: str) -> None:
    (failure,) = call(f"connect {url} 2000")
    assert failure.startswith(f"failed {code}")
    assert words in failure


def test_options_out_of_bounds_are_refused(call: Caller, server: ServerProcess) -> None:
    (failure,) = call(f"connect {url_of(server)} 2000 100")
    assert failure.startswith("failed E_ARGUMENT")
    assert "65536" in failure


def test_the_wrapper_in_cpp_says_the_same(programs: Path, server: ServerProcess) -> None:
    done = subprocess.run(
        [str(programs / "wrapper-sanitized"), url_of(server)], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "infer 114echo",
        "11111111 submit",
        "11111111 loop 111",
        "error 511",
        "no tensor after an error",
    ]
