"""The audit log of a real server: whole, true and harmless, whatever its callers name themselves and ask for."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tensorwire.codec import FREE, TensorSpec, encode_metadata
from tensorwire.protocol import Status
from tensorwire.protocol.handshake import AGENT
from tensorwire.protocol.limits import PREFACE
from tensorwire.server.key_file import secret_text
from tests.attacks.conftest import Target
from tests.attacks.guarded import SECRETS, Guest, Stranger, audit_lines, guarded_server, hello
from tests.attacks.peer import END, FLOAT, LIMIT, call, metadata, service
from tests.attacks.signed import Insider

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

EVIL = '\x1b[2J\x9b31m\r\n{"event":"call","principal":"root"}\x85\u2028\u202e\x00\x7f\\"'


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Target]:
    with guarded_server(tmp_path) as target:
        yield target


def stopped(target: Target) -> list[dict[str, Any]]:
    """All lines, once the server has ended."""
    assert target.server.terminate() == 0
    return audit_lines(target.log.with_name("audit"))


def guess(target: Target, key_id: bytes) -> None:
    """A handshake that fails, by somebody who calls himself that."""
    with Stranger(target.address) as peer:
        first = hello(key_id, {AGENT: EVIL.encode()[:128]})
        peer.send(PREFACE + first)
        peer.send(Insider(first, peer.frame_bytes(), bytes(32)).auth())
        assert b"unknown key" in peer.until_end()


def test_nothing_that_a_peer_names_forges_a_line_or_reaches_a_terminal(guarded: Target) -> None:
    names = [EVIL.encode()[:64], b"\xff\xfe\x00\x1b[31m", b"\n", b'","principal":"root', "\u202e".encode() * 21]
    for name in names:
        guess(guarded, name)
    with Guest(guarded.address) as peer:
        evil = EVIL + "n" * 100
        peer.send(call(1, meta=metadata(evil)))
        peer.send(call(2, meta=encode_metadata("echo", evil, [TensorSpec("x", FLOAT, (FREE, FREE))])))
        peer.send(service(3, "$" + evil, b"\x80"))
        assert {peer.receive().kind for _ in range(3)} == {END}
    lines = stopped(guarded)
    raw = guarded.log.with_name("audit").read_bytes()
    assert set(raw) <= {10, *range(32, 127)}
    assert len(lines) == len(names) + 1 + 3 + 1
    assert max(map(len, raw.splitlines())) < 4096
    values = [value for line in lines for value in line.values() if isinstance(value, str)]
    assert all(value.isprintable() for value in values)  # also after it was read, on its way to a terminal
    assert {line["principal"] for line in lines} == {None, "mallory-of-ads"}


def test_no_secret_and_no_tensor_is_in_any_file_that_the_server_writes(guarded: Target) -> None:
    guess(guarded, b"alice")
    with Guest(guarded.address, "alice") as peer:
        peer.send(call(1, body=b"tensor contents!"))
        peer.receive()
        metrics = guarded.server.page("/metrics")
    stopped(guarded)
    written = metrics + guarded.log.read_text() + guarded.log.with_name("audit").read_text()
    for secret in SECRETS.values():
        assert secret_text(secret) not in written
        assert secret.hex() not in written
    assert "tensor contents" not in written
    assert "alice-of-ads" in written


def test_the_ids_are_those_that_callers_were_told_and_every_call_is_there_once(guarded: Target) -> None:
    told = []
    with Guest(guarded.address, "alice") as peer:
        for stream_id in range(1, 401):
            if stream_id % 4:
                assert peer.works(stream_id)
            else:
                peer.send(call(stream_id, meta=metadata("secret-model")))
                refused = peer.receive()
                assert refused.aux == Status.NOT_FOUND
                told += re.findall(r"\[request ([0-9a-f]{16}-\d+)\]", refused.text)
        served = guarded.metric("requests_total", model="echo", status="OK")
    lines = stopped(guarded)
    calls = [line for line in lines if line["event"] == "call"]
    assert len(calls) == 400
    assert len({line["request_id"] for line in calls}) == 400
    assert [line["request_id"] for line in calls if line["model"] == "secret-model"] == told
    done = [line for line in calls if line["status"] == "OK"]
    assert len(done) == served == 300
    assert all((line["bytes_in"], line["bytes_out"], line["key_id"]) == (16, 16, "alice") for line in done)
    assert [line["event"] for line in lines if line["event"] != "call"] == ["authentication", "connection"]
    assert sorted(line["time"] for line in lines) == [line["time"] for line in lines]


def test_masked_it_names_nobody_and_still_joins(tmp_path: Path) -> None:
    salt = tmp_path / "salt"
    salt.write_bytes(os.urandom(32))
    found = []
    for run in ("one", "two"):
        folder = tmp_path / run
        folder.mkdir()
        with guarded_server(folder, "--audit-mask", "principal,key_id,peer", "--audit-salt", str(salt)) as target:
            with Guest(target.address, "alice") as peer:
                assert peer.works(1)
            lines = stopped(target)
            assert "alice" not in (folder / "audit").read_text()
            assert "127.0.0.1" not in (folder / "audit").read_text()
            found += [(line["principal"], line["key_id"], line["peer"]) for line in lines]
    assert len(found) == 6
    assert len(set(found)) == 1
    assert len({*found[0]}) == 3


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_sighup_goes_on_in_a_new_file(guarded: Target) -> None:
    path = guarded.log.with_name("audit")
    with Guest(guarded.address) as peer:
        assert peer.works(1)
        until(lambda: len(audit_lines(path)) == 2)
        old = path.rename(path.with_name("audit.1"))
        guarded.server.process.send_signal(signal.SIGHUP)
        until(path.exists)
        assert peer.works(2)
    assert [line["event"] for line in stopped(guarded)] == ["call", "connection"]
    assert [line["event"] for line in audit_lines(old)] == ["authentication", "call"]


def test_a_full_disk_disturbs_no_call_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "audit").symlink_to("/dev/full")
    with guarded_server(tmp_path) as target:
        with Guest(target.address) as peer:
            for stream_id in range(1, 1001):
                assert peer.works(stream_id)
            until(lambda: target.metric("audit_lines_lost_total") == 1001)
            assert target.metric("audit_lines_total") == 0
        assert target.server.terminate() == 0
        assert target.log.read_text().count("cannot be written") == 1


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--audit-mask", "prinzipal"), "prinzipal cannot be masked; choose of principal, key_id, peer, model"),
        (("--audit-salt", "{folder}/none"), "No such file"),
        (("--audit-salt", "{folder}/keys.short"), "expected at least 16 random ones"),
        (("--audit", "{folder}/none/audit"), "No such file"),
    ],
)
def test_what_cannot_be_is_told_at_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: tuple[str, str], text: str
) -> None:
    (tmp_path / "keys.short").write_bytes(b"short")
    given = [flag.format(folder=tmp_path) for flag in flags]
    with pytest.raises(AssertionError, match="did not start"), guarded_server(tmp_path, *given):
        pass
    said = capfd.readouterr().err + (tmp_path / "server.log").read_text()
    assert text in said
    assert "Traceback" not in said


def test_a_flood_of_strangers_leaves_lines_of_calls_alone(guarded: Target) -> None:
    with Guest(guarded.address, "alice") as peer:
        for stream_id in range(1, 51):
            for _ in range(8):
                with suppress(OSError), Stranger(guarded.address) as stranger:
                    stranger.send(b"GET / HTTP/1.1\r\n\r\n")
            assert peer.works(stream_id)
        until(lambda: guarded.metric("connections") == 1)
    lines = stopped(guarded)
    assert sum(line["event"] == "call" for line in lines) == 50
    strangers = sum(line.get("outcome") == "refused" for line in lines)
    missing = sum(line["lines"] for line in lines if line["event"] == "lost")
    assert strangers + missing == 400
