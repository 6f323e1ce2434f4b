"""Framing that is lost and found: captures of signed connections that begin in the middle, and bytes that are none."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.strategies_frames import CANCEL, DATA, END_STREAM, OPEN, PING, client_streams, frame
from tensorwire.protocol import resync
from tensorwire.protocol.capture_splitter import Piece
from tensorwire.protocol.captured_handshake import NOT_CAPTURED, Handshake
from tensorwire.protocol.header import HEADER, Header
from tensorwire.protocol.resync import Resync, SearchBudget
from tensorwire.protocol.signed_capture_splitter import SignedSplitter
from tests.support.sessions import big_session, small_session

SUITES = ("hmac-sha256", "aes-256-gmac")
WHY = "the start of the connection was not captured"
TAG = bytes(range(200, 216))


@dataclass
class Sent:
    """What one side sent: bytes, where its records begin, and the headers of each."""

    data: bytes
    places: list[int]
    frames: list[list[Header]]

    def after(self, cut: int) -> list[Header]:
        return [header for place, some in zip(self.places, self.frames, strict=True) if place >= cut for header in some]


def headers_of(frames: bytes) -> list[Header]:
    found = []
    while frames:
        found.append(HEADER.unpack_from(frames))
        frames = frames[32 + found[-1][0] :]
    return found


def sent(session: list[tuple[bool, bytes]], side: bool) -> Sent:
    """One direction of a signed session: the client's preface, HELLO and AUTH, or the server's WELCOME, come first."""
    data = b"".join(part for one, part in session if one is side)
    at = 8 if side else 0
    for _ in range(2 if side else 1):
        at += 32 + int.from_bytes(data[at : at + 4], "little")
    places, frames = [], []
    while at < len(data):
        nbytes = int.from_bytes(data[at : at + 4], "little")
        places.append(at)
        frames.append(headers_of(data[at + 4 : at + 4 + nbytes]))
        at += 4 + nbytes + 16
    return Sent(data, places, frames)


def read(*runs: bytes | int, lost: str = WHY) -> list[Piece]:
    splitter = SignedSplitter(Handshake(), lost)
    found: list[Piece] = []
    for run in runs:
        found += splitter.skip(run) if isinstance(run, int) else splitter.feed(run)
    return found + splitter.finish()


def in_runs(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def shown(found: list[Piece]) -> list[Header]:
    return [piece.header for piece in found if piece.header is not None and not piece.cut]


def check(one: Sent, cut: int, found: list[Piece]) -> None:
    """All of what was sent in whole records behind the cut is shown, and before that nothing that was not sent."""
    frames, expected = shown(found), one.after(cut)
    assert frames[len(frames) - len(expected) :] == expected, cut
    earlier = [header for some in one.frames for header in some] + headers_of(one.data[8 : one.places[0]])
    assert set(frames[: len(frames) - len(expected)]) <= set(earlier), cut
    if expected:
        assert {piece.check for piece in found if piece.record is not None} == {NOT_CAPTURED}
        assert all(piece.record.number is None for piece in found if piece.record is not None)


@pytest.mark.parametrize("size", [1 << 20, 97])
@pytest.mark.parametrize("side", [True, False], ids=["client", "server"])
@pytest.mark.parametrize("mac", SUITES)
def test_a_signed_session_cut_at_every_byte_is_read_from_the_next_record_on(mac: str, side: bool, size: int) -> None:
    one = sent(small_session(mac), side)
    for cut in range(9 if side else 1, one.places[-1] + 1):
        check(one, cut, read(*in_runs(one.data[cut:], size)))


@pytest.mark.parametrize("size", [1448, 65536])
@pytest.mark.parametrize("side", [True, False], ids=["client", "server"])
def test_a_cut_anywhere_in_a_big_body_is_read_from_the_next_record_on(side: bool, size: int) -> None:
    one = sent(big_session(16 << 20, 1 << 20, "hmac-sha256"), side)
    chance = random.Random(5)
    edges = [place + step for place in one.places[:4] for step in (-17, -16, -1, 0, 1, 3, 4, 5, 36, 37)]
    for cut in [*edges, *(chance.randrange(one.places[-1]) for _ in range(6))]:
        check(one, max(cut, 9), read(*in_runs(one.data[max(cut, 9) :], size)))


@pytest.mark.parametrize("known", [False, True], ids=["mid-session", "whole session"])
def test_a_segment_lost_anywhere_costs_the_records_that_it_touches(known: bool) -> None:
    for session in (small_session("hmac-sha256"), big_session(200_000, 16384, "hmac-sha256")):
        one = sent(session, False)
        chance = random.Random(7)
        for _ in range(150):
            at = chance.randrange(one.places[0], one.places[-1])
            gap = min(chance.choice((1, 16, 100, 1448, 20_000)), len(one.data) - at)
            before, behind = one.data[:at], one.data[at + gap :]
            if known:
                found = read(before, gap, *in_runs(behind, 1448), lost="")
            else:
                found = read(before[one.places[0] :], gap, *in_runs(behind, 1448))
            frames, expected = shown(found), one.after(at + gap)
            assert frames[len(frames) - len(expected) :] == expected
            assert set(frames) <= {header for some in one.frames for header in some} | set(
                headers_of(one.data[: one.places[0]])
            )


def test_frames_of_an_unsigned_session_are_read_from_the_next_run_on() -> None:
    for side in (True, False):
        runs = [data for one, data in small_session() if one is side][1:]
        for cut in range(1, len(runs[0])):
            found = read(runs[0][cut:], *runs[1:])
            assert shown(found)[-len(runs[1:]) :] == [header for run in runs[1:] for header in headers_of(run)], cut


def record(*frames: bytes) -> bytes:
    nbytes = sum(map(len, frames))
    return nbytes.to_bytes(4, "little") + b"".join(frames) + TAG


def test_a_record_of_the_most_frames_is_found() -> None:
    frames = [frame(CANCEL, stream_id) for stream_id in range(1, 2049)]
    for size in (1 << 20, 1448, 7):
        assert len(shown(read(*in_runs(b"tail of a record" + record(*frames), size)))) == 2048


@pytest.mark.parametrize(
    "data",
    [
        record(frame(PING, body=b"12345678"))[:-17],  # not all there
        record(frame(PING, body=b"12345678") + b"\\0" * 31),
        record(frame(PING, body=b"12345678") + b"\\0" * 32),
        record(frame(PING, body=b"12345678")) + bytes(36),  # no record behind it
        record(frame(OPEN, 1, END_STREAM, seq=1)),
        record(frame(OPEN, 1, END_STREAM, ext=b"\\x09\\x01x")),
        record(frame(DATA, 0, END_STREAM)),
    ],
)
def test_what_is_no_whole_record_is_not_shown(data: bytes) -> None:
    found = read(b"..." + data)
    assert shown(found) == []
    assert found[-1].problem == f"{WHY}; {3 + len(data)} bytes could not be read as frames"


def test_a_true_record_inside_a_false_one_is_found() -> None:
    true = record(frame(PING, body=b"12345678"))
    false = (60_000).to_bytes(4, "little") + frame(CANCEL, 1)
    for size in (1 << 20, 500):
        assert len(shown(read(*in_runs(b"." + false + true + true, size)))) == 2


# --- bytes that are no records ---------------------------------------------------------------------------------------


class Counted:
    """Counts how many headers are looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.headers = 0
        whole = resync.plausible

        def counting(header: Header) -> bool:
            self.headers += 1
            return whole(header)

        monkeypatch.setattr(resync, "plausible", counting)


def hostile() -> Iterator[tuple[str, bytes]]:
    cancel = frame(CANCEL, 1)
    yield "zeros", bytes(1 << 18)
    yield "random", random.Random(1).randbytes(1 << 18)
    ping = frame(PING, body=b"....\xff\xff\0\0")  # which ends in an n
    yield "a great record that does not fit before each of its frames", b"." + ping * 2500
    yield (
        "frames that end one byte before their records",
        b"".join((32 * n + 33).to_bytes(4, "little") + cancel * n for n in [200] * 40),
    )
    yield "records whose tails are none", record(*[cancel] * 2047, cancel[:-1] + b"\1") * 4
    near = record(cancel) + (32 * 2047).to_bytes(4, "little") + cancel[:16]
    yield "records that are found and lost at once, before heads of great ones", (near + cancel * 20) * 300
    yield "a head in every word", bytes((64, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0)) * 16_384


@pytest.mark.parametrize("data", [data for _, data in hostile()], ids=[name for name, _ in hostile()])
def test_work_grows_with_the_bytes_and_no_faster(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    for size in (1 << 20, 1448):
        counted.headers = 0
        tracemalloc.start()
        splitter = SignedSplitter(Handshake(), WHY)
        for run in in_runs(data, size):
            splitter.feed(run)
        splitter.finish()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert counted.headers <= len(data) // 4 + 4096
        assert peak < 4 << 20


def tokens(chance: np.random.Generator, kind: str) -> bytes:
    """A megabyte of what tensors hold."""
    if kind == "random":
        return chance.bytes(1 << 20)
    if kind == "float32":
        return chance.standard_normal(1 << 18).astype(np.float32).tobytes()
    dtype = np.int32 if "int32" in kind else np.int64
    ids = chance.integers(0, 30_000, (1 << 20) // np.dtype(dtype).itemsize).astype(dtype).reshape(-1, 64)
    if "padded" in kind:
        ids[np.arange(64) >= chance.integers(4, 60, len(ids))[:, None]] = 0
    return ids.tobytes()


@pytest.mark.parametrize("kind", ["random", "float32", "int32 tokens", "int32 tokens, padded", "int64 tokens, padded"])
def test_no_record_is_seen_in_the_numbers_of_a_tensor(kind: str) -> None:
    """In 4 MiB of each, and none in some gigabytes (see the note of the commit); never proven, since bytes are free."""
    chance = np.random.default_rng(3)
    for _ in range(4):
        seek = Resync(WHY, frames=False, records=True, budget=SearchBudget())
        assert seek.feed(memoryview(tokens(chance, kind))) is None
        assert seek.finish() is None


@given(client_streams() | st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=30), st.integers(0, 60))
def test_property_nothing_is_lost_count_of_however_it_is_split(data: bytes, sizes: list[int], gap: int) -> None:
    splitter = SignedSplitter(Handshake(), WHY)
    found: list[Piece] = []
    rest = data
    for n, size in enumerate(sizes):
        found += splitter.feed(rest[:size])
        if n == 3:
            found += splitter.skip(gap)
        rest = rest[size:]
    found += splitter.feed(rest) + splitter.finish()
    assert all(piece.problem.isascii() and len(piece.body) <= 32 for piece in found)
