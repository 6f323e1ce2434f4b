"""The C client with a key: against a real server, against every turned bit, and built without libcrypto."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.c.test_c_client import Caller, url_of, write_models
from tests.c.test_c_vectors import Play
from tests.support import c_programs
from tests.support.server import ServerProcess, running_server
from tests.vectors import wire
from tests.vectors.sealed import GMAC, HMAC, NONE, READY_FRAME, SECRET, Session

pytestmark = [pytest.mark.timeout(170), pytest.mark.xdist_group("c-signed")]

SUITES = [HMAC, GMAC]
BOTH = f"{HMAC},{GMAC}"
WRONG = "A" * 43


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("c_signed")


@pytest.fixture(scope="module")
def key(folder: Path) -> str:
    made = subprocess.run(
        [Path(sys.executable).parent / "tensorwire", "keys", "new", "--principal", "c", "--out", folder / "c.key",
         folder / "keys.toml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return (folder / "c.key").read_text().strip()


@pytest.fixture(scope="module")
def server(folder: Path, key: str) -> Iterator[ServerProcess]:
    assert key
    with running_server(write_models(folder / "models"), "--keys", str(folder / "keys.toml")) as server:
        yield server


@pytest.fixture(params=["call", "call-sanitized"])
def call(request: pytest.FixtureRequest, programs: Path) -> Iterator[Caller]:
    caller = Caller(programs / request.param)
    try:
        yield caller
        caller.finish()
    finally:
        caller.process.kill()
        caller.process.communicate()


@pytest.fixture(scope="module")
def play(programs: Path) -> Play:
    return Play(programs / "play-sanitized")


# -- a real server


@pytest.mark.parametrize("mac", SUITES)
def test_small_and_large_bodies_come_back_as_sent_in_each_suite(
    call: Caller, server: ServerProcess, key: str, mac: str
) -> None:
    assert call(f"connect {url_of(server)} 5000 0 {key} {mac}") == ["connected"]
    for model in ("echo x float32 1,4", "image x float32 2,150528", "huge x float32 1,4194304"):
        call(f"model {model}")
        (reply,) = call("infer 20000 1")
        assert reply.startswith("reply OK 0 1 1 total="), model
    call("model echo x float32 1,4")
    assert call("submit 200 20000") == ["submitted OK "]
    assert [line[:15] for line in call("poll 200 20000")] == ["reply OK 0 1 1 "] * 200
    call("close")


@pytest.mark.parametrize("mac", SUITES)
def test_an_upload_cancelled_halfway_leaves_the_session_sound(
    call: Caller, server: ServerProcess, key: str, mac: str
) -> None:
    """Records that are sealed go out whole, though their call is given up: else every later tag were wrong."""
    call(f"connect {url_of(server)} 5000 0 {key} {mac}")
    call("model huge x float32 1,4194304")
    for _ in range(3):
        (reply,) = call("infer 3 0")
        assert reply.split(" ")[1] in {"DEADLINE_EXCEEDED", "OK"}
    call("model echo x float32 1,4")
    (reply,) = call("infer 20000 0")
    assert reply.startswith("reply OK 0 1 1")
    call("close")


def test_the_environment_gives_the_key_where_the_options_do_not(
    programs: Path, server: ServerProcess, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORWIRE_KEY", key)
    caller = Caller(programs / "call-sanitized")
    assert caller(f"connect {url_of(server)} 5000") == ["connected"]
    caller("close")
    assert caller(f"connect {url_of(server)} 5000 0 nobody:{WRONG}")[0].startswith("failed E_AUTH ")
    caller.finish()


def test_a_wrong_secret_an_unknown_id_and_no_key_are_refused_and_no_secret_is_told(
    call: Caller, server: ServerProcess, key: str
) -> None:
    name, _, secret = key.partition(":")
    for wrong in (f"{name}:{WRONG}", f"nobody:{secret}", f"{name}-2:{secret}"):
        (answer,) = call(f"connect {url_of(server)} 5000 0 {wrong}")
        assert answer.startswith("failed E_AUTH "), answer
        assert "unknown key, wrong secret, or a key that is not valid now" in answer
        assert secret not in answer
        assert WRONG not in answer
    (answer,) = call(f"connect {url_of(server)} 5000")
    assert answer.startswith(("failed E_AUTH ", "failed E_REFUSED ")), answer
    (answer,) = call(f"connect {url_of(server)} 5000 0 {key} none")
    assert answer.startswith("failed E_REFUSED "), answer


@pytest.mark.parametrize(
    "malformed",
    ["robot", "robot:", f":{WRONG}", f"robot:{WRONG[:-1]}", f"id:{WRONG}A", f"id:{WRONG[:-1]}B", f"id:{WRONG[:-1]}+",
     f"i d:{WRONG}".replace(" ", "/"), f"{'i' * 65}:{WRONG}", f"id:x:{WRONG[2:]}"],
)  # fmt: skip
def test_a_malformed_key_is_refused_before_anything_is_sent_and_not_shown(call: Caller, malformed: str) -> None:
    (answer,) = call(f"connect tw://127.0.0.1:1 5000 0 {malformed}")
    assert answer.startswith("failed E_ARGUMENT the key is malformed (it is not shown"), answer
    assert malformed not in answer


@pytest.mark.parametrize("macs", ["sha256", "hmac-sha256,", ",", "none,none", "hmac-sha256,,none", "HMAC-SHA256"])
def test_a_list_of_macs_that_is_none_is_refused(call: Caller, macs: str) -> None:
    (answer,) = call(f"connect tw://127.0.0.1:1 5000 0 id:{WRONG} {macs}")
    assert answer.startswith("failed E_ARGUMENT options: macs is malformed"), answer


def test_a_mac_without_a_key_is_refused(call: Caller) -> None:
    (answer,) = call("connect tw://127.0.0.1:1 5000 0 - hmac-sha256,none")
    assert answer.startswith("failed E_ARGUMENT options: macs names a MAC that needs a key"), answer


def test_an_address_with_a_key_in_it_is_refused_and_not_shown(call: Caller, key: str) -> None:
    for scheme in ("tw://", "tw+unix://"):
        (answer,) = call(f"connect {scheme}{key}@127.0.0.1:7411 5000")
        assert answer.startswith("failed E_ADDRESS the address has an '@'"), answer
        assert key.partition(":")[2] not in answer


def test_the_load_program_drives_a_signed_server(server: ServerProcess, key: str) -> None:
    load = c_programs.build("load", sanitized=True) / "twire-load"
    named = ["--url", url_of(server), "--model", "image", "--input", "x=float32:1x150528", "--echo", "--json"]
    for mac in SUITES:
        for large in (False, True):
            what = named if large else [*named[:2], "--model", "echo", "--input", "x=float32:1x4", *named[6:]]
            done = c_programs.run(load, *what, "--mac", mac, "--calls", 40, "--in-flight", 4, key=key)
            found = c_programs.report(done)
            assert (found["calls"], found["errors"]) == (40, 0)
    done = c_programs.run(load, *named, "--calls", 1, key="malformed")
    assert done.returncode != 0
    assert "the key is malformed" in done.stderr
    done = c_programs.run(load, *named, "--calls", 1, key=f"nobody:{WRONG}")
    assert done.returncode != 0
    assert "AUTHENTICATION" in done.stderr


@pytest.mark.parametrize("model", ["echo x float32 1,4", "image x float32 2,150528"])
@pytest.mark.parametrize("mac", SUITES)
def test_signed_calls_allocate_nothing_in_the_steady_state(
    programs: Path, server: ServerProcess, key: str, mac: str, model: str
) -> None:
    def mallocs(calls: int) -> int:
        commands = [f"connect {url_of(server)} 5000 0 {key} {mac}", f"model {model}", *["infer 20000 0"] * calls]
        done = subprocess.run(
            [programs / "call"], input="\n".join(commands) + "\n", capture_output=True, text=True, check=True,
            env={**os.environ, "LD_PRELOAD": str(programs / "mallocs.so")},
        )  # fmt: skip
        assert done.stdout.count("reply OK 0 1 1") == calls
        return int(done.stderr.split()[-1])

    assert mallocs(10) == mallocs(110)


# -- turned bits

CALLS = 4  # max_streams of the vectors' server


def recorded(session: Session) -> tuple[bytes, list[tuple[int, int, int]]]:
    """What a server says in a session, and (first byte, end, events that came before) of each record and of WELCOME."""
    body = bytes(range(256)) * 64
    reply = wire.frame(wire.DATA, stream=1, flags=1, meta=wire.metadata("1"), body=b"0123456789ab")
    first = wire.frame(wire.DATA, stream=2, flags=3, ext=wire.body_length(65536 + 300), meta=b"meta")
    chunks = [wire.frame(wire.DATA, stream=2, flags=2, body=body) for _ in range(4)]
    last = wire.frame(wire.DATA, stream=2, flags=1, body=body[:300])
    end = wire.frame(wire.END, stream=3, aux=5, meta=b"no such model")
    pieces = [
        (session.welcome, 0),
        (session.ready, 0),
        (session.server(1, reply), 0),
        (session.server(2, first), 1),
        *((session.server(3 + n, chunk), 1) for n, chunk in enumerate(chunks)),
        (session.server(7, last), 1),
        (session.server(8, wire.frame(wire.PING, body=b"question"), end), 2),
        (session.server(9, wire.frame(wire.GOAWAY, stream=4, aux=13, meta=b"bye")), 3),
        (session.server(10, wire.frame(wire.CLOSE, aux=13, meta=b"bye")), 4),
    ]
    at, spans = 0, []
    for data, before in pieces:
        spans.append((at, at + len(data), before))
        at += len(data)
    return b"".join(data for data, _ in pieces), spans


@pytest.mark.parametrize("mac", SUITES)
def test_every_turned_bit_of_a_session_is_refused_and_nothing_of_its_record_is_told(play: Play, mac: str) -> None:
    """Of the body of a large chunk only the first and last 24 bytes, since each bit is a session of its own."""
    session = Session(mac=mac, offers=(mac,))
    data, spans = recorded(session)
    start = f"core {wire.CLIENT_NONCE.hex()} vectors/1 {wire.CHUNK} {wire.MAX_MESSAGE} 0"
    ranges = []
    for first, end, before in spans:
        if end - first > 16000:
            ranges += [(first, first + 60, before), (end - 40, end, before)]
        else:
            ranges.append((first, end, before))
    commands = [f"flips {first} {end} {CALLS} {data.hex()}" for first, end, _ in ranges]
    answers = play.run([f"key vectors {SECRET.hex()} {mac}", start, *commands])[2:]
    bits = 0
    for (first, end, before), [(name, fields)] in zip(ranges, answers, strict=True):
        assert name == "flips"
        assert fields["untouched"] == "4,1", "the session as it is ends with the server's CLOSE"
        assert (fields["ended_well"], int(fields["messages"])) == ("0", before), (first, end)
        bits += int(fields["bits"])
    assert bits > 10_000


def test_without_records_a_proof_still_stands_at_the_beginning(play: Play) -> None:
    session = Session(mac=NONE, offers=(HMAC, NONE))
    start = f"core {wire.CLIENT_NONCE.hex()} vectors/1 {wire.CHUNK} {wire.MAX_MESSAGE} 0"
    data = session.welcome + READY_FRAME + wire.frame(wire.CLOSE, aux=13)
    key = f"key vectors {SECRET.hex()} hmac-sha256,none"
    (answer,) = play.run([key, start, f"flips 0 {len(session.welcome)} 0 {data.hex()}"])[-1]
    assert (answer[1]["ended_well"], answer[1]["untouched"]) == ("0", "0,1")


def test_the_end_of_bytes_without_a_signed_close_leaves_calls_unknown(play: Play) -> None:
    session = Session()
    start = f"core {wire.CLIENT_NONCE.hex()} vectors/1 {wire.CHUNK} {wire.MAX_MESSAGE} 0"
    for last in (b"", wire.frame(wire.CLOSE), session.server(1, wire.frame(wire.CLOSE))[:-1]):
        said = (session.welcome + session.ready).hex()
        commands = [start, f"receive {said}", "open 1 0 0 - - - -", "sends", f"receive {last.hex() or '-'}", "eof"]
        answers = play.run([f"key vectors {SECRET.hex()} {HMAC}", *commands])
        ends = [(name, fields.get("status")) for answer in answers[5:] for name, fields in answer]
        assert ends[0] == ("outcome", "-1"), last
        assert ends[-1][0] == "closed"


# -- built without libcrypto


@pytest.fixture(scope="module")
def without_crypto(programs: Path) -> Path:
    return programs / "without-crypto"


def test_a_library_without_libcrypto_says_so_when_it_is_given_a_key(without_crypto: Path) -> None:
    linked = subprocess.run(["ldd", without_crypto / "libtwire.so"], capture_output=True, text=True, check=True).stdout
    assert "libcrypto" not in linked
    caller = Caller(without_crypto / "call-sanitized")
    (answer,) = caller(f"connect tw://127.0.0.1:1 5000 0 id:{WRONG}")
    caller.finish()
    assert answer.startswith("failed E_ARGUMENT a key is given, but this library was built without libcrypto"), answer
    environment = {**os.environ, "TENSORWIRE_KEY": f"id:{WRONG}"}
    done = subprocess.run(
        [without_crypto / "call-sanitized"], input="connect tw://127.0.0.1:1 5000\n", capture_output=True, text=True,
        check=False, env=environment,
    )  # fmt: skip
    assert "built without libcrypto" in done.stdout


def test_the_library_with_libcrypto_is_linked_to_it(programs: Path) -> None:
    linked = subprocess.run(["ldd", programs / "libtwire.so"], capture_output=True, text=True, check=True).stdout
    assert "libcrypto" in linked
