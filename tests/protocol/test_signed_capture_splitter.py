"""One direction of a signed connection in a capture: records, tags with and without the key, gaps, wrong bytes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tensorwire.protocol.capture_splitter import Piece, Record
from tensorwire.protocol.captured_handshake import BAD, GOOD, NOT_CHECKED, Handshake, SecretFor
from tensorwire.protocol.limits import PREFACE
from tensorwire.protocol.signed_capture_splitter import SignedSplitter
from tests.support.sessions import KEY_ID, SECRET, big_session, small_session

SUITES = ("hmac-sha256", "aes-256-gmac")
Session = list[tuple[bool, bytes]]


def with_key(key_id: bytes) -> bytes | None:
    return SECRET if key_id == KEY_ID else None


def read(session: Session, secret_for: SecretFor | None = with_key, step: int = 0) -> dict[bool, list[Piece]]:
    """The pieces of each direction; `step`: bytes handed over at a time, 0 = all."""
    handshake = Handshake(secret_for)
    splitters = {side: SignedSplitter(handshake) for side in (True, False)}
    found: dict[bool, list[Piece]] = {True: [], False: []}
    for side, data in session:
        for at in range(0, len(data), step or len(data)):
            found[side] += splitters[side].feed(data[at : at + (step or len(data))])
    for side, splitter in splitters.items():
        found[side] += splitter.finish()
    return found


def records(found: dict[bool, list[Piece]]) -> list[Piece]:
    return [piece for side in found for piece in found[side] if piece.record is not None]


def frames(found: dict[bool, list[Piece]]) -> list[tuple[bool, object, bytes, bytes, bytes, int]]:
    return [
        (side, piece.header, piece.ext, piece.meta, piece.body, piece.missing)
        for side in found
        for piece in found[side]
        if piece.header is not None and piece.header[1] > 3  # the handshake differs
    ]


def joined(session: Session, side: bool) -> bytes:
    return b"".join(data for one, data in session if one == side)


def turned(session: Session, index: int, at: int, bit: int = 0) -> Session:
    """One bit of one write changed."""
    changed = list(session)
    side, data = changed[index]
    at %= len(data)
    changed[index] = (side, data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :])
    return changed


@pytest.mark.parametrize("mac", SUITES)
@pytest.mark.parametrize("make", [small_session, big_session])
def test_the_frames_of_a_signed_session_are_those_of_the_same_without_signing(
    make: Callable[..., Session], mac: str
) -> None:
    signed = read(make(mac=mac))
    assert frames(signed) == frames(read(make()))
    assert all(not piece.problem for side in signed for piece in signed[side])


@pytest.mark.parametrize("mac", SUITES)
def test_every_tag_and_both_proofs_are_good_with_the_key(mac: str) -> None:
    for make in (small_session, big_session):
        found = read(make(mac=mac))
        assert {piece.check for piece in records(found)} == {GOOD}
        for side in (True, False):
            numbers = [piece.record.number for piece in found[side] if piece.record is not None]
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= 2
        proofs = {piece.header[1]: piece.check for side in found for piece in found[side] if piece.header is not None}
        assert (proofs[1], proofs[2], proofs[3]) == ("", GOOD, GOOD)


@pytest.mark.parametrize("mac", SUITES)
def test_without_the_key_nothing_is_checked_and_all_is_shown(mac: str) -> None:
    session = small_session(mac)
    for secret_for in (None, lambda key_id: None):
        found = read(session, secret_for)
        assert {piece.check for piece in records(found)} == {NOT_CHECKED}
        assert frames(found) == frames(read(session))


@pytest.mark.parametrize("mac", SUITES)
def test_with_another_secret_the_proof_is_bad_and_tags_are_not_judged(mac: str) -> None:
    found = read(small_session(mac), lambda key_id: bytes(32))
    welcome = next(piece for piece in found[False] if piece.header is not None)
    assert welcome.check == BAD
    assert {piece.check for piece in records(found)} == {NOT_CHECKED}


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("mac", SUITES)
def test_a_split_anywhere_changes_nothing(mac: str, step: int) -> None:
    session = small_session(mac)
    assert read(session, step=step) == read(session)


@pytest.mark.parametrize("mac", SUITES)
def test_a_turned_bit_under_a_tag_makes_this_one_bad_and_no_other(mac: str) -> None:
    session = big_session(mac=mac)
    index = max(range(len(session)), key=lambda n: len(session[n][1]))
    good = records(read(session))
    for at in (-1, -200, len(session[index][1]) // 2):
        found = records(read(turned(session, index, at)))
        assert [piece.check for piece in found].count(BAD) == 1
        assert len(found) == len(good)


def test_a_turned_bit_of_the_handshake_makes_its_proof_bad() -> None:
    session = small_session("hmac-sha256")
    found = read(turned(session, 0, 8 + 32 + 8 + 8 + 4 + 5))  # the client's nonce
    assert next(piece for piece in found[False] if piece.header is not None).check == BAD


def test_a_gap_within_a_record_costs_its_tag_alone() -> None:
    session = big_session(mac="hmac-sha256")
    data = joined(session, True)
    handshake = Handshake(with_key)
    server, client = SignedSplitter(handshake), SignedSplitter(handshake)
    at = len(data) - 200_000  # within a chunk
    hello = len(PREFACE) + 32 + int.from_bytes(data[8:12], "little")
    found = client.feed(data[:hello])
    server.feed(joined(session, False))
    found += client.feed(data[hello:at]) + client.skip(1000) + client.feed(data[at + 1000 :]) + client.finish()
    checks = [piece.check for piece in found if piece.record is not None]
    assert checks.count(NOT_CHECKED) == 1
    assert checks.count(GOOD) == len(checks) - 1 > 3
    assert sum(piece.missing for piece in found) == 1000


def test_a_gap_between_records_is_found_again_without_numbers() -> None:
    session = small_session("hmac-sha256")
    writes = [data for side, data in session if not side]
    handshake = Handshake(with_key)
    client, server = SignedSplitter(handshake), SignedSplitter(handshake)
    client.feed(joined(session, True))
    found = server.feed(writes[0]) + server.feed(writes[1])
    found += (
        server.skip(len(writes[2])) + [piece for data in writes[3:] for piece in server.feed(data)] + server.finish()
    )
    assert [piece.record.number for piece in found if piece.record is not None][-1] is None
    assert [piece.check for piece in found if piece.record is not None][-1] == NOT_CHECKED
    assert any("are missing in the capture" in piece.problem for piece in found)


CROSSES = "FRAME: a frame does not end where its record"
UNREAD = "bytes could not be read as records"


def begun(nbytes: int, length: int) -> bytes:
    """A record's n and the beginning of a CLOSE in it."""
    return nbytes.to_bytes(4, "little") + length.to_bytes(4, "little") + b"\x0f"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (begun(31, 0) + bytes(55), f"FRAME: record of 31 bytes; a frame has 32 at least; 64 {UNREAD}"),
        (begun(1_048_609, 0)[:4], f"TOO_LARGE: record of 1048609 bytes; at most 1048608; 4 {UNREAD}"),
        (begun(33, 2) + bytes(60), CROSSES),
        (begun(40, 0) + bytes(60), CROSSES),
        (begun(40, 0), "cut off: 9 bytes of a record are in the capture"),
    ],
)
def test_a_record_that_is_none_says_why(data: bytes, problem: str) -> None:
    session = small_session("hmac-sha256")
    found = read([*session[:3], (True, data)])  # preface and HELLO, WELCOME, AUTH
    assert any(piece.problem.startswith(problem) for piece in found[True]), [piece.problem for piece in found[True]]


def test_a_second_connection_in_one_capture_begins_anew() -> None:
    once = small_session("hmac-sha256")
    twice = read([*once, *small_session("aes-256-gmac"), *small_session()])
    assert {piece.check for piece in records(twice)} == {GOOD}
    assert len(frames(twice)) == 3 * len(frames(read(once)))


def test_a_record_is_a_piece_with_its_tag_behind_its_frames() -> None:
    found = read(small_session("hmac-sha256"))[False]
    ready = next(n for n, piece in enumerate(found) if piece.header is not None and piece.header[1] == 4)
    header, record = found[ready].header, found[ready + 1]
    assert header is not None
    assert record.header is None
    assert len(record.body) == 16
    assert record.record == Record(0, 32 + header[0])


def test_any_bytes_are_read_without_an_exception_and_within_bounds() -> None:
    rng = random.Random(11)
    session = small_session("hmac-sha256")
    for _ in range(300):
        edited = turned(session, rng.randrange(len(session)), rng.randrange(1 << 16), rng.randrange(8))
        del edited[rng.randrange(len(edited))]
        found = read(edited, with_key if rng.random() < 0.8 else None, rng.choice((0, 1, 5, 333)))
        assert sum(len(piece.body) for side in found for piece in found[side]) <= sum(len(d) for _, d in edited)
