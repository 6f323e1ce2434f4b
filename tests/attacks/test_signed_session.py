"""A recorded signed session with an attacker in the middle: changed, replayed, reordered, dropped, reflected, spliced.

Whatever is done to the bytes, the receiver is told what the records before the first change say, and then only that
the connection is over. Sans-IO: fresh ends with the nonces of the recording hear the changed session.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, repeat

import pytest

from tensorwire.protocol import Closed, ErrorCode, Event, FrameType, Message, MessageAborted
from tensorwire.protocol.header import HEADER, HEADER_SIZE
from tests.attacks.peer import LIMIT, SOAK
from tests.attacks.signed import (
    BIG,
    CALLS,
    SUITES,
    End,
    Recording,
    Side,
    flipped,
    frames_of,
    large,
    server,
    small,
)
from tests.protocol.wiring import CLIENT_NONCE, SERVER_NONCE

pytestmark = [pytest.mark.timeout(LIMIT), pytest.mark.parametrize("suite", SUITES)]

receivers = pytest.mark.parametrize("receiver", ["server", "client"])
OTHER_NONCES = (b"\x01" * 32, b"\x02" * 32)


def heard(side: Side, data: bytes, step: int = 1 << 30) -> tuple[End, list[Event]]:
    """A fresh end hears these bytes, so many at a time, and the end of the stream."""
    end = side.fresh()
    end.feed(data, repeat(step))
    end.end_of_stream()
    return end, end.events


def check_refused(side: Side, data: bytes, good: int) -> Closed:
    """Of `data` only the first `good` pieces are believed, and the end of it is no orderly one."""
    end, events = heard(side, data)
    *before, closed = events
    assert [event for event in before if not isinstance(event, MessageAborted)] == side.events(good)
    assert isinstance(closed, Closed)
    assert closed != side.last
    assert not end.places, "memory was never given back"
    assert end.connection.open_streams == 0
    return closed


def check_wrong_tag(side: Side, data: bytes, good: int) -> None:
    """So, and because of the tag."""
    closed = check_refused(side, data, good)
    assert closed.code is ErrorCode.AUTHENTICATION
    assert not closed.remote


def frame_count(recording: Recording) -> int:
    """Frames that go over, both ways."""
    count = 0
    for side in (recording.server, recording.client):
        for number, piece in enumerate(side.pieces):
            count += len(frames_of(piece[4:-16])) if number in side.signed else 1
    return count


# ---- the recordings are what they are said to be ----


def test_the_recorded_session_is_one_of_50_frames_and_tells_what_was_said(suite: str) -> None:
    recording = small(suite)
    assert frame_count(recording) >= 50
    messages = [event for event in recording.server.events(99) if isinstance(event, Message)]
    assert [bytes(message.body) for message in messages[:CALLS]] == [bytes((number,)) for number in range(CALLS)]
    kinds = {type(event).__name__ for side in (recording.server, recording.client) for event in side.events(99)}
    expected = {"Authenticated", "Ready", "Message", "Cancelled", "Pong", "Ended", "GoAway", "Closed"}
    assert kinds == expected
    for side in (recording.server, recording.client):
        assert heard(side, side.whole)[1] == side.events(99)


@receivers
def test_the_large_session_has_chunks(suite: str, receiver: str) -> None:
    side = large(suite).side(receiver)
    bodies = [bytes(event.body) for event in side.events(99) if isinstance(event, Message)]
    assert bodies == [bytes((number,)) * size for number, size in BIG.items()]
    assert sum(len(piece) >= 16384 for piece in side.pieces) == sum(size // 16384 for size in BIG.values())


# ---- bits ----


@receivers
def test_every_bit_of_a_session_is_signed(suite: str, receiver: str) -> None:
    side = small(suite).side(receiver)
    for number in side.signed:
        before, piece = b"".join(side.pieces[:number]), side.pieces[number]
        after = b"".join(side.pieces[number + 1 :])
        for bit in range(8 * len(piece)):
            closed = check_refused(side, before + flipped(piece, bit) + after, number)
            if 32 <= bit < 8 * len(piece):  # of n the length may be impossible, or more than ever comes
                assert closed.code is ErrorCode.AUTHENTICATION, bit


@pytest.mark.soak
@receivers
def test_every_bit_around_a_chunk_is_signed_and_those_of_its_bytes(suite: str, receiver: str) -> None:
    """n, header and tag of each chunk; of its 16,384 bytes a bit of every 509th, and all of them when soaking."""
    side = large(suite).side(receiver)
    for number in side.signed:
        before, piece = b"".join(side.pieces[:number]), side.pieces[number]
        after = b"".join(side.pieces[number + 1 :])
        edges = 8 * (4 + HEADER_SIZE)
        step = 1 if SOAK and number == len(side.pieces) // 2 else 8 * 509 + 1
        bits = {*range(min(edges, 8 * len(piece))), *range(edges, 8 * len(piece), step)}
        for bit in sorted({*bits, *range(8 * len(piece) - 128, 8 * len(piece))}):
            check_refused(side, before + flipped(piece, bit) + after, number)


# ---- cuts ----


@receivers
def test_the_session_cut_at_every_byte_tells_the_same(suite: str, receiver: str) -> None:
    side = small(suite).side(receiver)
    whole, truth = side.whole, side.events(99)
    for at in range(1, len(whole)):
        end = side.fresh()
        end.feed(whole[:at])
        end.feed(whole[at:])
        assert end.events == truth, at
    for step in (1, 2, 3, 7, 31, 64, 1000):
        assert heard(side, whole, step)[1] == truth


@receivers
def test_chunks_cut_anywhere_tell_the_same(suite: str, receiver: str) -> None:
    side = large(suite).side(receiver)
    whole, truth = side.whole, side.events(99)
    at = 0
    cuts = set(range(1009, len(whole), 4999))
    for piece in side.pieces:
        cuts |= {at + near for near in (*range(1, 40), *range(len(piece) - 17, len(piece) + 1)) if at + near}
        at += len(piece)
    for cut in sorted(cuts - {0, len(whole)}):
        end = side.fresh()
        end.feed(whole[:cut])
        end.feed(whole[cut:])
        assert end.events == truth, cut
    for step in (1, 17, 100, 4096, 16384, 16421):
        end, events = heard(side, whole, step)
        assert events == truth
        assert not end.places


@receivers
@pytest.mark.parametrize("kind", [small, large])
def test_a_session_that_stops_at_any_byte_is_never_a_success(
    suite: str, receiver: str, kind: Callable[[str], Recording]
) -> None:
    """The whole records are believed, nothing of the one that is cut, and the end is told from an orderly one."""
    side = kind(suite).side(receiver)
    whole = side.whole
    at = good = 0
    ends = [at := at + len(piece) for piece in side.pieces]
    step = 1 if kind is small else 307
    near = {end + around for end in ends for around in range(-20, 40)}
    for cut in sorted({*range(0, len(whole), step), *(cut for cut in near if 0 <= cut < len(whole))}):
        good = sum(end <= cut for end in ends)
        closed = check_refused(side, whole[:cut], good)
        assert closed.remote
        assert "ended" in closed.detail


# ---- records as wholes ----


@receivers
def test_no_record_can_be_played_again_anywhere(suite: str, receiver: str) -> None:
    """Each record once more, behind each later one, and in the place of each."""
    side = small(suite).side(receiver)
    pieces = side.pieces
    for old in side.signed:
        for place in range(old + 1, len(pieces)):  # behind the last, CLOSE, nothing is heard
            check_wrong_tag(side, b"".join([*pieces[:place], pieces[old], *pieces[place:]]), place)
            check_wrong_tag(side, b"".join([*pieces[:place], pieces[old], *pieces[place + 1 :]]), place)


@receivers
def test_no_two_records_can_change_places(suite: str, receiver: str) -> None:
    side = small(suite).side(receiver)
    for first, second in combinations(side.signed, 2):
        pieces = list(side.pieces)
        pieces[first], pieces[second] = pieces[second], pieces[first]
        check_wrong_tag(side, b"".join(pieces), first)


@receivers
def test_no_record_can_be_left_out(suite: str, receiver: str) -> None:
    side = small(suite).side(receiver)
    for first in side.signed:
        for count in (1, 2, 3):
            left = [*side.pieces[:first], *side.pieces[first + count :]]
            if len(left) > first:
                check_wrong_tag(side, b"".join(left), first)
            else:  # the end is cut off
                assert check_refused(side, b"".join(left), first).remote


@receivers
def test_no_record_of_the_other_direction_fits(suite: str, receiver: str) -> None:
    """Reflection: what a side said comes back to it, in the place of what it should hear or before that."""
    recording = small(suite)
    side = recording.side(receiver)
    other = recording.client if receiver == "server" else recording.server
    for place in side.signed:
        for echo in other.signed:
            for skipped in (0, 1):
                pieces = [*side.pieces[:place], other.pieces[echo], *side.pieces[place + skipped :]]
                check_wrong_tag(side, b"".join(pieces), place)


@receivers
def test_no_record_of_another_session_with_the_same_key_fits(suite: str, receiver: str) -> None:
    """Splice: the same calls, the same key, the same place in the other session; and everything from there on."""
    side = small(suite).side(receiver)
    for nonces in (OTHER_NONCES, (CLIENT_NONCE, OTHER_NONCES[1]), (OTHER_NONCES[0], SERVER_NONCE)):
        other = small(suite, nonces).side(receiver)
        assert [len(piece) for piece in other.pieces] == [len(piece) for piece in side.pieces]
        for place in side.signed:
            one = [*side.pieces[:place], other.pieces[place], *side.pieces[place + 1 :]]
            check_wrong_tag(side, b"".join(one), place)
            check_wrong_tag(side, b"".join([*side.pieces[:place], *other.pieces[place:]]), place)


@receivers
def test_no_record_of_the_other_suite_fits(suite: str, receiver: str) -> None:
    side = small(suite).side(receiver)
    other = small(next(name for name in SUITES if name != suite)).side(receiver)
    for place in side.signed:
        check_wrong_tag(side, b"".join([*side.pieces[:place], other.pieces[place], *side.pieces[place + 1 :]]), place)


@receivers
def test_records_cannot_be_joined_or_parted(suite: str, receiver: str) -> None:
    """Two records as one, one as two, each with one of the tags that are there."""
    side = small(suite).side(receiver)
    for place in side.signed:
        piece = side.pieces[place]
        if place + 1 < len(side.pieces):
            following = side.pieces[place + 1]
            frames = piece[4:-16] + following[4:-16]
            for tag in (piece[-16:], following[-16:]):
                joined = len(frames).to_bytes(4, "little") + frames + tag
                check_wrong_tag(side, b"".join([*side.pieces[:place], joined, *side.pieces[place + 2 :]]), place)
        frames_here = frames_of(piece[4:-16])
        if len(frames_here) > 1:
            parts = [len(frame).to_bytes(4, "little") + frame + piece[-16:] for frame in frames_here]
            check_wrong_tag(side, b"".join([*side.pieces[:place], *parts, *side.pieces[place + 1 :]]), place)


# ---- large bodies ----


@receivers
def test_a_wrong_tag_on_the_last_chunk_gives_no_message_and_all_memory_back(suite: str, receiver: str) -> None:
    side = large(suite).side(receiver)
    last = max(number for number, piece in enumerate(side.pieces) if HEADER.unpack_from(piece, 4)[1] == FrameType.DATA)
    pieces = list(side.pieces)
    pieces[last] = flipped(pieces[last], 8 * len(pieces[last]) - 1)
    for step in (1 << 20, 1000):
        end = side.fresh()
        end.feed(b"".join(pieces), repeat(step))
        finished = [event.stream_id for event in end.events if isinstance(event, Message)]
        aborted = [event.stream_id for event in end.events if isinstance(event, MessageAborted)]
        assert finished == [1], "the other call's body was whole before"
        assert aborted == [2]
        assert not end.places
        closed = end.events[-1]
        assert isinstance(closed, Closed)
        assert closed.code is ErrorCode.AUTHENTICATION
    assert len(side.pieces[last]) > 16384, "it went straight to its place"


@receivers
def test_chunks_of_two_messages_cannot_be_exchanged(suite: str, receiver: str) -> None:
    """Whole, or their bytes alone, or their headers alone."""
    side = large(suite).side(receiver)
    chunks = [number for number, piece in enumerate(side.pieces) if len(piece) > 16384]
    head = 4 + HEADER_SIZE
    for first, second in combinations(chunks, 2):
        one, two = side.pieces[first], side.pieces[second]
        for left, right in (
            (two, one),
            (one[:head] + two[head:-16] + one[-16:], two[:head] + one[head:-16] + two[-16:]),
            (two[:head] + one[head:], one[:head] + two[head:]),
        ):
            pieces = list(side.pieces)
            pieces[first], pieces[second] = left, right
            if pieces[first] != one:
                check_refused(side, b"".join(pieces), first)


class Walled(End):
    """An end whose bodies lie in one piece of memory, with walls between that must never be touched."""

    WALL = 4096

    def memory(self, size: int) -> memoryview:
        if not hasattr(self, "arena"):
            self.arena = bytearray(b"\xab" * (1 << 18))
            self.taken: list[tuple[int, int]] = []
        start = self.WALL + (self.taken[-1][1] if self.taken else 0)
        self.taken.append((start, start + size))
        self.arena[start : start + size] = bytes(size)
        return memoryview(self.arena)[start : start + size]


def test_what_is_not_verified_touches_only_its_own_place(suite: str) -> None:
    """Two bodies under way; a chunk with any bit of its header changed, or of n, whichever way it is read.

    What was verified stays as it is, and nothing outside the rest of the body that the header names is written.
    """
    recording = large(suite)
    pieces = recording.server.pieces
    chunks = [number for number, piece in enumerate(pieces) if len(piece) > 16384]
    place = chunks[3]
    before, piece = b"".join(pieces[:place]), pieces[place]
    filled: dict[int, int] = {1: 0, 2: 0}
    for number in chunks[:3]:
        header = HEADER.unpack_from(pieces[number], 4)
        filled[header[4]] += header[0]
    assert all(filled.values()), "both bodies have begun"
    for bit in range(8 * (4 + HEADER_SIZE)):
        changed = flipped(piece, bit)
        for step in (1 << 20, 1000):
            end = server(suite, kind=Walled)
            assert isinstance(end, Walled)
            end.feed(before)
            end.feed(changed[:-16], repeat(step))  # its tag does not come
            for (start, stop), byte in zip(end.taken, (1, 2), strict=True):
                verified = end.arena[start : start + filled[byte]]
                assert verified == bytes((byte,)) * filled[byte], bit
                assert end.arena[start - Walled.WALL : start] == b"\xab" * Walled.WALL, bit
                assert end.arena[stop : stop + Walled.WALL] == b"\xab" * Walled.WALL, bit
            named = int.from_bytes(changed[4 + 8 : 4 + 16], "little")
            for (start, stop), byte in zip(end.taken, (1, 2), strict=True):
                if byte != named:
                    assert not any(end.arena[start + filled[byte] : stop]), bit
            assert [event for event in end.events if isinstance(event, Message)] == []


@pytest.mark.timeout(30)  # written past its place, some would be read for ever
def test_a_forged_chunk_that_does_not_fit_its_body_is_not_written(suite: str) -> None:
    """n and the header changed together, by somebody without the key: what they say is looked at before it is done."""
    pieces = large(suite).server.pieces
    short = next(number for number, piece in enumerate(pieces) if len(piece) == 20 + HEADER_SIZE + BIG[1] % 16384)
    before = b"".join(pieces[:short])
    left = BIG[1] % 16384
    for size, flags, seq in ((16384, 1, 0), (16384, 2, 0), (16384, 0, 0), (16384, 1, 1), (left, 1, 1), (left, 0, 0)):
        head = (HEADER_SIZE + size).to_bytes(4, "little")
        forged = head + HEADER.pack(size, FrameType.DATA, 0, flags, 1, seq, 0, 0, 0, 0) + b"\xee" * (size + 16)
        for step in (1 << 20, 1000):
            end = server(suite, kind=Walled)
            assert isinstance(end, Walled)
            end.feed(before)
            start, stop = end.taken[0]
            end.feed(forged, repeat(step))
            closed = end.events[-1]
            assert isinstance(closed, Closed)
            assert not end.places
            assert end.arena[start : stop - left] == b"\x01" * (BIG[1] - left)
            assert end.arena[stop : stop + Walled.WALL] == b"\xab" * Walled.WALL
            assert [event for event in end.events if isinstance(event, Message)] == []
