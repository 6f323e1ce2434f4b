"""Guessing keys: an id that is not known, a wrong secret and a key that is not valid now are refused alike.

Alike in every byte but nonces, proofs and tags; in the work that is done; in the time that it takes.
"""

from __future__ import annotations

import gc
import os
import random
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from types import FrameType as PythonFrame

import pytest

from tensorwire.protocol import Authenticated, Closed, Config, Connection, ErrorCode, Role, signing
from tensorwire.protocol.handshake import PROOF
from tensorwire.protocol.limits import PREFACE
from tensorwire.server.keys import KeyStore
from tests.attacks.conftest import Target
from tests.attacks.guarded import SECRETS, Guest, Stranger, auth, guarded_server, hello, key_file
from tests.attacks.peer import CLOSE, LIMIT, call
from tests.attacks.signed import Insider, entries_of, frames_of, with_entries
from tests.protocol.wiring import BOOT_ID, CONNECTION_ID, SERVER_NONCE, feed, wire_bytes

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.xdist_group("attacks")]

TRIES = 10_000

# Five characters each, since a longer id is more to hash, for whoever sent it.
GUESSES: dict[str, tuple[bytes, bytes]] = {
    "unknown": (b"nobod", bytes(32)),
    "wrong secret": (b"alice", bytes(32)),
    "ended": (b"ended", SECRETS["ended"]),
    "not begun": (b"early", SECRETS["early"]),
    "ended, wrong secret": (b"ended", bytes(32)),
    "no text": (b"\x00\xff\x1b\r\n", bytes(32)),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> KeyStore:
    return KeyStore(key_file(tmp_path_factory.mktemp("keys") / "keys.toml"))


def server(store: KeyStore) -> Connection:
    config = Config(Role.SERVER, mac_algorithms=("hmac-sha256",), keyless=False)
    return Connection(
        config, nonce=SERVER_NONCE, now=0.0, connection_id=CONNECTION_ID, boot_id=BOOT_ID, secret_of=store.secret_of
    )


def guess(store: KeyStore, first: bytes, secret: bytes) -> tuple[bytes, bytes, Connection]:
    """One handshake with this HELLO and secret: WELCOME, what follows AUTH, and the server."""
    connection = server(store)
    feed(connection, PREFACE + first)
    welcome = wire_bytes(connection)
    events = feed(connection, Insider(first, welcome, secret).auth())
    assert isinstance(events[-1], Closed)
    assert events[-1].code == ErrorCode.AUTHENTICATION
    return welcome, wire_bytes(connection), connection


@pytest.mark.parametrize("what", GUESSES)
def test_every_byte_but_proof_and_tag_is_the_same(store: KeyStore, what: str) -> None:
    key_id, secret = GUESSES[what]
    welcome, refusal, _ = guess(store, hello(key_id), secret)
    alike, same, _ = guess(store, hello(b"an id that nobody has"), bytes(32))
    assert len(entries_of(welcome)[PROOF]) == 32
    assert with_entries(welcome, entries_of(welcome) | {PROOF: b""}) == with_entries(
        alike, entries_of(alike) | {PROOF: b""}
    )
    assert refusal[:-16] == same[:-16]
    (last,) = frames_of(refusal[4:-16])
    assert struct.unpack_from("<I", refusal)[0] == len(last)
    assert last[4] == CLOSE


def test_a_right_guess_would_be_seen_by_these_tests(store: KeyStore) -> None:
    first = hello(b"alice")
    connection = server(store)
    feed(connection, PREFACE + first)
    events = feed(connection, Insider(first, wire_bytes(connection), SECRETS["alice"]).auth())
    assert isinstance(events[-1], Authenticated)


def test_the_proof_of_a_welcome_tells_nothing_of_whether_the_key_is_there(store: KeyStore) -> None:
    """With the same nonces the proof of an unknown id is the same each time, as that of a known one is."""
    proofs = {}
    for key_id in (b"nobod", b"alice", b"ended"):
        first = hello(key_id)
        said = {bytes(entries_of(guess(store, first, bytes(32))[0])[PROOF]) for _ in range(3)}
        assert len(said) == 1
        proofs[key_id] = said.pop()
    assert len(set(proofs.values())) == 3


Work = list[str]


def work_of(act: Callable[[], object]) -> Work:
    """Every function that is called, also of C, in order."""
    calls: Work = []

    def note(frame: PythonFrame, event: str, argument: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_qualname)
        elif event == "c_call":
            calls.append(getattr(argument, "__qualname__", "?"))

    previous = sys.getprofile()
    gc.disable()  # what others hang on the collector comes when it likes
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(previous)
        gc.enable()
    return calls


def refused_work(store: KeyStore, key_id: bytes, secret: bytes) -> Work:
    connection = server(store)
    first = hello(key_id)
    work = work_of(lambda: feed(connection, PREFACE + first))
    answer = Insider(first, wire_bytes(connection), secret).auth()
    return work + work_of(lambda: feed(connection, answer))


@pytest.mark.skipif(not signing.__file__.endswith(".py"), reason="compiled functions are not seen one by one")
@pytest.mark.parametrize("what", GUESSES)
def test_the_same_work_is_done_whatever_is_wrong(store: KeyStore, what: str) -> None:
    refused_work(store, b"alice", bytes(32))  # what both sides agree on is remembered from the first time on
    work = refused_work(store, *GUESSES[what])
    assert work == refused_work(store, b"alice", bytes(32))
    assert sum(name in {"hmac_sha256", "HMAC.digest", "hmac_digest"} for name in work) >= 5


def timed(store: KeyStore, first: bytes, answer: bytes) -> float:
    """Seconds that a server takes to refuse this HELLO and this AUTH."""
    connection = server(store)
    hands = PREFACE + first
    began = perf_counter()
    feed(connection, hands)
    wire_bytes(connection)
    feed(connection, answer)
    wire_bytes(connection)
    return perf_counter() - began


def difference(store: KeyStore, one: bytes, other: bytes) -> tuple[float, float]:
    """How much longer the refusal of `one` takes, in seconds, by 10,000 tries of both in random order; and its z value
    (Mann and Whitney): beyond 5 it is no chance.
    """
    order = [0, 1] * (TRIES // 2)
    random.Random(1).shuffle(order)
    hands = [(hello(key_id), auth(os.urandom(32))) for key_id in (one, other)]
    for first, answer in hands * 50:
        timed(store, first, answer)
    taken: tuple[list[float], list[float]] = ([], [])
    for which in order:
        taken[which].append(timed(store, *hands[which]))
    return median(taken[0]) - median(taken[1]), z_value(*taken)


def z_value(one: list[float], other: list[float]) -> float:
    """Of Mann and Whitney's U: how far the ranks of `one` are from what chance gives, in standard deviations."""
    m, n = len(one), len(other)
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    ranks = sum(rank for rank, (_, which) in enumerate(ranked, 1) if which == 0)
    return float((ranks - m * (m + n + 1) / 2) / (m * n * (m + n + 1) / 12) ** 0.5)


def one_hmac() -> float:
    """Seconds that one HMAC takes here: the least that a server could leave out."""
    times = []
    for _ in range(2000):
        began = perf_counter()
        signing.hmac_sha256(bytes(32), bytes(64))
        times.append(perf_counter() - began)
    return median(times)


def shows(store: KeyStore, one: bytes, other: bytes) -> bool:
    """Whether the time tells these two ids apart. Other work on the machine may once look like it, not three times."""

    def once() -> bool:
        seconds, z = difference(store, one, other)
        return abs(seconds) > one_hmac() / 2 and abs(z) > 5

    return all(once() for _ in range(3))


@pytest.mark.parametrize("key_id", [b"alice", b"ended", b"early"])
def test_the_time_of_a_refusal_tells_nothing(store: KeyStore, key_id: bytes) -> None:
    assert not shows(store, key_id, b"nobod")


@pytest.mark.skipif(not signing.__file__.endswith(".py"), reason="compiled functions cannot be exchanged")
def test_a_server_that_left_out_one_proof_would_be_found_out(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = signing.KeySchedule.client_proof
    nobody = store.find(b"nobod")[0].secret
    schedule = signing.KeySchedule.__init__
    dummies: set[int] = set()

    def begin(self: signing.KeySchedule, secret: bytes, *rest: bytes) -> None:
        schedule(self, secret, *rest)
        (dummies.add if secret == nobody else dummies.discard)(id(self))

    def hasty(self: signing.KeySchedule, frame: bytes) -> bytes:
        return bytes(32) if id(self) in dummies else honest(self, frame)

    monkeypatch.setattr(signing.KeySchedule, "__init__", begin)
    monkeypatch.setattr(signing.KeySchedule, "client_proof", hasty)
    assert shows(store, b"alice", b"nobod")
    assert refused_work(store, b"alice", bytes(32)) != refused_work(store, b"nobod", bytes(32))


# -- the same at a real server -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with guarded_server(tmp_path_factory.mktemp("guarded")) as target:
        yield target


def asked(target: Target, key_id: bytes, secret: bytes) -> tuple[int, bytes]:
    """What a guess brings at the socket: the size of WELCOME, and all that follows it but for the tag at its end."""
    with Stranger(target.address) as peer:
        first = hello(key_id)
        peer.send(PREFACE + first)
        welcome = peer.frame_bytes()
        peer.send(Insider(first, welcome, secret).auth() + call(1))
        return len(welcome), peer.until_end()[:-16]


def test_a_real_server_answers_all_guesses_alike(guarded: Target) -> None:
    answers = {asked(guarded, *guess) for guess in GUESSES.values()}
    assert len(answers) == 1
    ((_, refusal),) = answers
    assert b"unknown key, wrong secret, or a key that is not valid now" in refusal
    assert guarded.metric("authentications_total", outcome="authentication") == len(GUESSES)
    with Guest(guarded.address, "alice") as peer:
        assert peer.works(1)


def test_guesses_at_the_same_time_take_nothing_from_others(guarded: Target) -> None:
    stop = threading.Event()

    def guess_on() -> None:
        while not stop.is_set():
            asked(guarded, b"alice", os.urandom(32))

    with Guest(guarded.address) as peer:
        guesser = threading.Thread(target=guess_on, daemon=True)
        guesser.start()
        taken = []
        for stream_id in range(1, 301):
            began = perf_counter()
            assert peer.works(stream_id)
            taken.append(perf_counter() - began)
        stop.set()
        guesser.join(10)
    assert median(taken) < 0.05
