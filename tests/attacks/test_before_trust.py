"""Who has proven nothing yet, at a real server that wants keys: little time, 4 KiB, one order of frames, no credit.

Meanwhile somebody with a key works on, from another address.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tensorwire.protocol import ErrorCode, FrameType
from tensorwire.protocol.handshake import pack_entries
from tensorwire.protocol.header import END_STREAM, HEADER_SIZE
from tensorwire.protocol.limits import MAX_HANDSHAKE, PREFACE
from tests.attacks.conftest import Target
from tests.attacks.guarded import (
    OTHER,
    PATIENCE,
    SECRETS,
    Guest,
    Stranger,
    audit_lines,
    auth,
    guarded_server,
    hello,
    working,
)
from tests.attacks.peer import CLOSE, ECHO, ECHO_BODY, ECHO_EXT, LIMIT, SOAK, call, frame, greeting, size
from tests.attacks.signed import Insider
from tests.support.certificates import make_certificates, tls_port

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

TIMEOUT = 2.0  # seconds; the server's default
KINDS = range(20)
UNKNOWN = 0x7A7A  # an entry of a type that nobody knows: ignored, but counted


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with guarded_server(tmp_path_factory.mktemp("guarded")) as target:
        yield target


# -- two seconds -------------------------------------------------------------------------------------------------------

FIRST = PREFACE + hello(b"mallory")
SLOW: dict[str, tuple[bytes, bool]] = {  # what is said at once, and whether the rest of HELLO comes byte by byte
    "nothing": (b"", False),
    "a byte a second": (b"", True),
    "half a preface": (PREFACE[:4], False),
    "the preface": (PREFACE, False),
    "the preface, then a byte a second": (PREFACE, True),
    "a header": (FIRST[: len(PREFACE) + HEADER_SIZE], False),
    "HELLO but for its end": (FIRST[:-3], True),
    "HELLO": (FIRST, False),
    "HELLO, then a byte of AUTH a second": (FIRST, True),
}


def test_who_does_not_come_to_the_point_has_two_seconds(guarded: Target) -> None:
    before = guarded.metric("authentications_total", outcome="timeout")
    rest = {what: (FIRST + auth(bytes(32)))[len(said) :] for what, (said, _) in SLOW.items()}
    with working(guarded), contextlib.ExitStack() as stack:
        began = time.monotonic()
        peers = {what: stack.enter_context(Stranger(guarded.address)) for what in SLOW}
        for what, (said, _) in SLOW.items():
            peers[what].send(said)
        ended: dict[str, float] = {}
        while len(ended) < len(peers):
            passed = time.monotonic() - began
            assert passed < TIMEOUT + 5, set(peers) - set(ended)
            for what, peer in peers.items():
                if what in ended:
                    continue
                peer.socket.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while piece := peer.socket.recv(4096):
                        assert piece[4] != FrameType.READY
                    ended[what] = passed
                if what not in ended and SLOW[what][1] and int(passed) < int(passed + 0.05):
                    with contextlib.suppress(OSError):
                        peer.socket.send(rest[what][int(passed) : int(passed) + 1])
            time.sleep(0.05)
        assert min(ended.values()) > TIMEOUT - 0.05
        assert max(ended.values()) < TIMEOUT + 3  # the time to close, and a machine that does other things
    assert guarded.metric("authentications_total", outcome="timeout") == before + len(SLOW)


# -- 4 KiB -------------------------------------------------------------------------------------------------------------


def padded(total: int) -> bytes:
    """A good HELLO with so many bytes of entries."""
    missing = total - (len(hello(b"mallory")) - HEADER_SIZE) - 4
    return hello(b"mallory", {UNKNOWN: bytes(missing)})


def test_a_hello_of_4096_bytes_is_taken_and_hashed_and_one_more_is_too_many(guarded: Target) -> None:
    with Stranger(guarded.address) as peer:
        first = padded(MAX_HANDSHAKE)
        assert len(first) == HEADER_SIZE + MAX_HANDSHAKE
        peer.send(PREFACE + first)
        peer.send(Insider(first, peer.frame_bytes(), SECRETS["mallory"]).auth())
        assert peer._read(4 + 5)[8] == FrameType.READY
    with Stranger(guarded.address) as peer:
        peer.send(PREFACE + padded(MAX_HANDSHAKE + 1))
        assert peer.closed_with().aux == ErrorCode.TOO_LARGE


def test_an_auth_above_4_kib_is_refused_by_its_header(guarded: Target) -> None:
    with Stranger(guarded.address) as peer:
        peer.socket.settimeout(1)
        peer.send(FIRST)
        peer.frame_bytes()
        peer.send(frame(FrameType.AUTH, length=MAX_HANDSHAKE + 1, meta_len=MAX_HANDSHAKE + 1))
        said = peer.until_end()
        assert said[4 + 4] == CLOSE
        assert b"too large" in said or b"4096" in said


def test_a_thousand_entries_are_read_in_no_time(guarded: Target) -> None:
    with working(guarded) as worker:
        many = pack_entries([(number, b"") for number in range(0x100, 0x100 + 980)])
        for _ in range(200):
            with Stranger(guarded.address) as peer:
                peer.send(PREFACE + frame(FrameType.HELLO, meta=many))
                assert peer.closed_with().aux == ErrorCode.HANDSHAKE
    assert max(worker.times) < PATIENCE


# -- every frame in every state ----------------------------------------------------------------------------------------


def full(kind: int) -> bytes:
    """A frame of this type that would do something, if it were looked at."""
    if kind in (FrameType.OPEN, FrameType.DATA):
        return frame(kind, flags=END_STREAM, stream_id=1, ext=ECHO_EXT, meta=ECHO, body=ECHO_BODY)
    return frame(kind, stream_id=1 if kind == FrameType.CANCEL else 0, body=bytes(8) if kind in (11, 12) else b"")


STATES = ("preface", "hello", "auth, unread", "auth", "after a wrong AUTH", "after AUTH, not sealed")


@pytest.mark.parametrize("state", STATES)
def test_no_frame_of_any_type_does_anything_before_its_sender_is_known(guarded: Target, state: str) -> None:
    served = guarded.metric("requests_total", model="echo")
    accepted = guarded.metric("authentications_total", outcome="accepted")
    for kind in KINDS:
        with Stranger(guarded.address) as peer:
            first = hello(b"mallory")
            good = {"hello": FrameType.HELLO, "auth": FrameType.AUTH, "auth, unread": FrameType.AUTH}.get(state)
            if kind == good:
                continue
            if state == "preface":
                peer.send(full(kind) + full(FrameType.OPEN))
            elif state == "hello":
                peer.send(PREFACE + full(kind) + full(FrameType.OPEN))
            elif state == "auth, unread":  # in one write with HELLO
                peer.send(PREFACE + first + full(kind) + full(FrameType.OPEN))
            else:
                peer.send(PREFACE + first)
                welcome = peer.frame_bytes()
                insider = Insider(first, welcome, SECRETS["mallory"])
                if state == "after a wrong AUTH":
                    peer.send(Insider(first, welcome, bytes(32)).auth() + full(kind) + call(1))
                elif state == "auth":
                    peer.send(full(kind) + full(FrameType.OPEN))
                else:
                    peer.send(insider.auth() + full(kind) + call(1))
            said = peer.until_end()
            assert ECHO_BODY not in said, (state, kind)
            assert said or kind == CLOSE, (state, kind)  # it says why
    done = guarded.metric("authentications_total", outcome="accepted") - accepted
    assert done == (len(KINDS) if state == "after AUTH, not sealed" else 0)
    assert guarded.metric("requests_total", model="echo") == served


def test_a_client_without_a_key_is_told_that_it_needs_one_and_nothing_else(guarded: Target) -> None:
    with Stranger(guarded.address) as peer:
        peer.send(greeting())
        closed = peer.closed_with()
        assert closed.aux == ErrorCode.AUTHENTICATION
        assert "key" in closed.text


# -- floods of connections ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.soak
@pytest.mark.parametrize("said", [b"", FIRST], ids=["silent", "HELLO"])
def test_thousands_of_strangers_keep_nobody_with_a_key_out(guarded: Target, said: bytes) -> None:
    memory = guarded.rss
    strangers: list[socket.socket] = []
    with many_files(), working(guarded) as worker:
        try:
            for number in range(size(1500, 10_000)):
                one = socket.create_connection(guarded.address, timeout=10)
                strangers.append(one)
                one.sendall(said)
                if number % 300 == 299:
                    with Guest(guarded.address, "alice", source=OTHER) as newcomer:
                        assert newcomer.works(1)
                    assert guarded.metric("connections_pending") <= 256
        finally:
            for one in strangers:
                one.close()
    times = sorted(worker.times)
    assert times[len(times) * 99 // 100 if SOAK else -1] < 2 * PATIENCE
    assert guarded.metric("connections_dropped_total", reason="too_many_pending") > 0
    assert guarded.rss < memory + (64 << 20)


# -- sources that keep failing -----------------------------------------------------------------------------------------


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Target]:
    """A server that makes no exception for loopback; who fails five times is refused for a second."""
    rules = ("--penalty-exempt", "", "--penalty-failures", "5", "--penalty-seconds", "1")
    with guarded_server(tmp_path, *rules) as target:
        yield target


def fail(target: Target, times: int) -> int:
    """Guess so often; how many guesses were answered."""
    answered = 0
    for _ in range(times):
        with contextlib.suppress(OSError, EOFError), Stranger(target.address) as peer:
            first = hello(b"alice")
            peer.send(PREFACE + first)
            peer.send(Insider(first, peer.frame_bytes(), os.urandom(32)).auth())
            answered += b"unknown key" in peer.until_end()
    return answered


def refused(target: Target) -> bool:
    """Whether the door is shut at once, without a word."""
    try:
        with Stranger(target.address) as peer:
            peer.send(FIRST)
            return peer.until_end() == b""
    except OSError:
        return True


def test_who_keeps_failing_is_refused_at_accept_and_nobody_else_is(strict: Target) -> None:
    with working(strict):
        with Guest(strict.address, "mallory") as earlier:
            assert fail(strict, 4) == 4
            with Guest(strict.address, "mallory"):  # a success: all is forgotten
                pass
            assert fail(strict, 40) == 5
            assert refused(strict)
            assert earlier.works(1)  # what is there stays
        with Guest(strict.address, "alice", source="127.0.0.3") as other:
            assert other.works(1)
        assert strict.metric("penalties_total") == 1
        assert strict.metric("connections_dropped_total", reason="penalty") >= 36
        assert strict.metric("authentications_total", outcome="authentication") == 9
        end = time.monotonic() + 10
        while refused(strict):
            assert time.monotonic() < end
            time.sleep(0.1)
        with Guest(strict.address, "mallory") as again:
            assert again.works(1)
    assert strict.log.read_text().count("refused for a while") == 1
    lines = audit_lines(strict.log.with_name("audit"))
    assert sum(line.get("reason") == "authentication" for line in lines) == 9  # none for who was refused at accept


def test_noise_that_is_no_handshake_brings_the_same(strict: Target) -> None:
    for _ in range(5):
        with contextlib.suppress(OSError), Stranger(strict.address) as peer:
            peer.send(b"GET / HTTP/1.1\r\n\r\n")
            peer.until_end()
    assert refused(strict)


def test_what_fails_within_tls_counts_as_well_and_is_refused_before_it(tmp_path: Path) -> None:
    rules = ("--penalty-exempt", "", "--penalty-failures", "4", "--penalty-seconds", "30")
    with guarded_server(tmp_path, *rules, *make_certificates(tmp_path).flags) as target:
        port = tls_port(target.server)
        for first in (b"GET / HTTP/1.1\r\n\r\n", FIRST, b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\x00\x05again"):
            with contextlib.suppress(OSError), Stranger(("127.0.0.1", port)) as peer:
                peer.send(first)
                assert peer.until_end()
        with contextlib.suppress(OSError), Stranger(("127.0.0.1", port)) as peer:
            peer.send(FIRST)
            assert peer.until_end() == b""
        assert refused(target)  # the other port has the same sources
        assert target.metric("authentications_total", outcome="plaintext") == 2
        assert target.metric("authentications_total", outcome="tls_handshake") == 2
        with Guest(target.address, "alice", source=OTHER) as other:
            assert other.works(1)


def test_looking_at_the_port_brings_nothing(strict: Target) -> None:
    for _ in range(20):
        Stranger(strict.address).socket.close()
    with Guest(strict.address, "mallory") as peer:
        assert peer.works(1)
    assert not refused(strict)


def test_a_unix_socket_has_no_source(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with guarded_server(tmp_path, "--penalty-exempt", "", "--penalty-failures", "2", "--unix", str(path)) as target:
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))
                peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert b"tensorwire" in peer.recv(4096)
        assert target.metric("penalties_total") == 0


def test_what_a_stranger_calls_itself_is_not_believed(strict: Target) -> None:
    with Stranger(strict.address) as peer:
        first = hello(b"alice")
        peer.send(PREFACE + first)
        peer.send(Insider(first, peer.frame_bytes(), SECRETS["mallory"]).auth())
        assert b"unknown key" in peer.until_end()
    strict.server.terminate()
    (line,) = audit_lines(strict.log.with_name("audit"))
    assert (line["outcome"], line["reason"]) == ("refused", "authentication")
    assert (line["principal"], line["key_id"]) == (None, "alice")
