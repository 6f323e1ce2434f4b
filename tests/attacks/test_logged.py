"""What a peer can have the server write, to its log, its admin pages and its answers: escaped, capped, no internals."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from tensorwire.codec import FREE, Kind, TensorSpec, encode_metadata
from tensorwire.protocol import ErrorCode, FrameType, Status, pack_extension
from tensorwire.protocol.handshake import AGENT, KEY_ID, pack_entries, parse_entries
from tensorwire.protocol.header import HEADER_SIZE
from tests.attacks.conftest import LINE_LIMIT, Bystander, Target, check_log, others_served
from tests.attacks.peer import (
    AUTH,
    BYTES,
    CLOSE,
    END,
    FLOAT,
    LIMIT,
    Raw,
    call,
    dims,
    frame,
    greeting,
    metadata,
    service,
)
from tests.support.server import running_server, write_model

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

EVIL = "\x1b[2J\x9b31m\r\nlevel=error forged\x85\u2028\u202e\x00\x7f"
MIB = 1 << 20


@pytest.fixture
def others(running: Target) -> Iterator[Bystander]:
    with others_served(running) as bystander:
        yield bystander


def hello_with(agent: bytes, key_id: bytes = b"") -> bytes:
    first = greeting()
    entries = parse_entries(first[8 + HEADER_SIZE :])
    entries |= {AGENT: agent} | ({KEY_ID: key_id} if key_id else {})
    return first[:8] + frame(FrameType.HELLO, meta=pack_entries(sorted(entries.items())))


def hostile_calls() -> list[bytes]:
    """One call per field of a call that holds text."""
    name = EVIL + "n" * 100
    strings = TensorSpec("x", BYTES, (1,), Kind.STRING)
    text = EVIL.encode() * 20
    return [
        call(1, meta=metadata(name)),
        call(2, meta=encode_metadata("echo", name, [TensorSpec("x", FLOAT, (FREE, FREE))])),
        call(3, meta=metadata("echo", name)),
        call(4, meta=metadata("$" + name)),
        call(5, meta=encode_metadata("echo", "", [strings]), ext=pack_extension(dims=dims(len(text))), body=text),
        service(6, "$describe", msgpack.packb({"model": EVIL * 500})),
        service(7, "$describe", msgpack.packb({"model": "echo", "version": EVIL * 500})),
        service(8, "$health", msgpack.packb({EVIL: EVIL, "watch": EVIL})),
        service(9, "$health", EVIL.encode() * 500),
        call(10, meta=metadata("shouts")),
        call(11, meta=EVIL.encode()),
    ]


@pytest.mark.usefixtures("others")
def test_every_text_of_a_peer_is_answered_and_logged_as_harmless(running: Target) -> None:
    before = running.log.stat().st_size
    with Raw(running.address, hands=False) as peer:  # a server without keys
        peer.send(hello_with(EVIL.encode() * 3, EVIL.encode()[:64]))
        answer = peer.receive()
        assert (answer.kind, answer.aux) == (CLOSE, ErrorCode.AUTHENTICATION)
        assert answer.text.isprintable()
    with Raw(running.address, hands=False) as peer:
        peer.send(hello_with(EVIL.encode() * 3) + AUTH)
        assert [peer.receive().kind for _ in range(2)] == [FrameType.WELCOME, FrameType.READY]
        calls = hostile_calls()
        for data in calls:
            peer.send(data)
            answer = peer.receive()
            assert answer.kind == END
            assert answer.text.isprintable()
            assert len(answer.meta) <= 1024
        peer.send(frame(CLOSE, aux=1, meta=(EVIL * 20).encode()[:1000]))
        assert peer.rest() == []
    for garbage in (EVIL.encode() * 100, b"GET / HTTP/1.1\r\nX: " + EVIL.encode(), b"\x16\x03\x01" + EVIL.encode()):
        with Raw(running.address, hands=False) as peer:
            peer.send(garbage)
            peer.socket.settimeout(10)
            while peer.socket.recv(1 << 16):
                pass
    time.sleep(0.05)
    written = running.log.read_text(encoding="utf-8")[before:]
    assert len(written) < 32 << 10
    assert "\nlevel=error" not in written
    check_log(running)


@pytest.mark.parametrize(
    "path", ["/" + "%1b[2J", "/\x1b[2J\x9b", "/" + "a" * 5000, "/../../etc/passwd", "/metrics\x00"]
)
def test_the_admin_port_repeats_nothing_that_it_was_asked(running: Target, path: str) -> None:
    host, _, port = running.server.admin.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as asking:
        asking.sendall(f"GET {path} HTTP/1.1\r\nX: \x1b[2J\r\n\r\n".encode())
        answer = b""
        while piece := asking.recv(1 << 16):
            answer += piece
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
    assert path.encode()[1:] not in answer
    assert b"\x1b" not in answer
    check_log(running)


PATHS = """
import os
def build():
    def run(inputs):
        open("{folder}/secret.bin")
    return run
"""
CONSOLE = """
def build():
    def run(inputs):
        print("\\x1b[2Jfrom the model")
        raise RuntimeError("\\x1b[2J\\r\\n" + "A" * (1 << 20))
    return run
"""
FLAT = """
backend = "python"
engine = "{engine}"
max_batch = 4
warmup = false
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, -1]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, -1]
"""


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_what_a_model_raises_names_no_folder_of_the_server(tmp_path: Path, engine: str) -> None:
    models = tmp_path / "models"
    write_model(models, "paths", PATHS.format(folder=tmp_path), FLAT.format(engine=engine))
    with running_server(models) as server, Raw(server.address) as peer:
        peer.send(call(1, meta=metadata("paths")))
        answer = peer.receive()
        assert (answer.kind, answer.aux) == (END, Status.INTERNAL)
        assert "FileNotFoundError" in answer.text
        assert "secret.bin" in answer.text  # what its owner needs to find it
        assert str(tmp_path) not in answer.text
        assert "/" not in answer.text
        assert "[request " in answer.text


@pytest.mark.parametrize("engine", ["inline", "process"])
def test_the_console_log_obeys_nothing_that_a_model_raises(tmp_path: Path, engine: str) -> None:
    write_model(tmp_path / "models", "shouts", CONSOLE, FLAT.format(engine=engine))
    log = tmp_path / "server.log"
    with running_server(tmp_path / "models", "--log-format", "console", log=log) as server:
        with Raw(server.address) as peer:
            peer.send(call(1, meta=metadata("shouts")))
            assert peer.receive().aux == Status.INTERNAL
        assert server.terminate() == 0
    text = log.read_text(encoding="utf-8")
    assert "RuntimeError" in text
    assert len(text) < 64 << 10
    for line in text.splitlines():
        assert len(line) < LINE_LIMIT
        if "from the model" not in line:  # what the model itself prints is its owner's
            assert line.isprintable(), line[:200]
