"""Rules of a client that no vector shows, against the C core: chunks of replies, late frames, time, queues, GOAWAY."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.c.test_c_vectors import Answer, Play, hex_of
from tests.vectors import wire
from tests.vectors.player import load, unpack

FILE = next(load("connection"))[1]
CONFIG = FILE["config"]
END_STREAM, MORE = 1, 2
STREAM, FRAME, TOO_LARGE, EXTENSION, CALM, TIMEOUT = 4, 2, 3, 5, 12, 11
K16 = bytes(16384)
DATA, END, PING, GOAWAY, CLOSE = wire.DATA, wire.END, wire.PING, wire.GOAWAY, wire.CLOSE
START = f"core {CONFIG['client_nonce']} vectors/1 16384 1048576 0"
PRELUDE = [f"receive {unpack(step['receive']).hex()}" for step in FILE["prelude"]["client"] if "receive" in step]
OPEN = "open 1 0 0 - - - -"


@pytest.fixture(scope="module", params=["play", "play-sanitized"])
def play(request: pytest.FixtureRequest, programs: Path) -> Play:
    return Play(programs / request.param)


def after_open(play: Play, *commands: str) -> Answer:
    """What the commands answer on a fresh connection that is open, as one list."""
    answers = play.run([START, *PRELUDE, "sends", *commands])
    return [one for answer in answers[len(PRELUDE) + 2 :] for one in answer]


def receive(*frames: bytes) -> str:
    return f"receive {b''.join(frames).hex()}"


def first(length: int, flags: int = MORE | END_STREAM, stream: int = 1) -> bytes:
    return wire.frame(DATA, stream=stream, flags=flags, ext=b"\x02\x08" + length.to_bytes(8, "little"))


def chunk(body: bytes, flags: int = MORE, seq: int = 0, aux: int = 0) -> bytes:
    return wire.frame(DATA, stream=1, flags=flags, body=body, seq=seq, aux=aux)


def names(answer: Answer) -> list[str]:
    return [name for name, _ in answer if name != "sent"]


def sent(answer: Answer) -> bytes:
    return b"".join(hex_of(fields["bytes"]) for name, fields in answer if name == "sent")


# -- replies in chunks (SPEC 7)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([first(70000), chunk(K16[:-1])], CALM),
        ([first(70000), chunk(b"")], FRAME),
        ([first(70000), chunk(bytes(16385))], TOO_LARGE),
        ([first(70000), chunk(K16, seq=1)], STREAM),
        ([first(70000), chunk(K16, aux=1)], FRAME),
        ([first(70000), chunk(K16, flags=MORE | END_STREAM)], STREAM),
        ([first(70000), chunk(K16, flags=END_STREAM)], STREAM),
        ([first(70000), first(70000)], STREAM),
        ([first(65537), *[chunk(K16)] * 4, chunk(b"12", flags=END_STREAM)], STREAM),
        ([first(65537), *[chunk(K16)] * 4, chunk(b"1", flags=MORE)], STREAM),
        ([first(65537), *[chunk(K16)] * 4, chunk(b"1", flags=0)], STREAM),
        ([first(65536)], EXTENSION),
        ([first(70000, flags=END_STREAM)], EXTENSION),
        ([wire.frame(DATA, stream=1, flags=MORE)], EXTENSION),
        ([wire.frame(DATA, stream=1, flags=MORE, body=b"x")], FRAME),
        ([wire.frame(DATA, stream=1, body=bytes(65537))], TOO_LARGE),
        ([wire.frame(PING, body=bytes(8), ext=b"\x01\x08" + bytes(8))], TOO_LARGE),
        ([wire.frame(DATA, stream=1, seq=1)], STREAM),
    ],
)  # fmt: skip
def test_a_reply_that_breaks_a_rule_ends_the_connection_with_its_code(
    play: Play, frames: list[bytes], code: int
) -> None:
    answer = after_open(play, OPEN, receive(*frames))
    assert answer[-1] == ("closed", {"code": str(code), "remote": "0"})
    assert names(answer).count("outcome") == 1


def test_a_reply_without_memory_is_cancelled_and_its_chunks_are_dropped(play: Play) -> None:
    rest = [chunk(K16)] * 4 + [chunk(b"1", flags=END_STREAM)]
    answer = after_open(play, OPEN, "reserve refuse", receive(first(65537)), "sends", receive(*rest))
    assert [(name, fields.get("status")) for name, fields in answer if name != "sent"] == [("outcome", "8")]
    assert sent(answer).endswith(wire.frame(wire.CANCEL, stream=1))


def test_a_reply_above_max_message_is_cancelled_and_the_connection_goes_on(play: Play) -> None:
    answer = after_open(
        play, OPEN, receive(first(1048577), chunk(K16)), OPEN, receive(wire.frame(DATA, stream=2, flags=1))
    )
    assert names(answer) == ["outcome", "message"]


def test_cancel_within_a_reply_gives_the_memory_back_and_drops_the_rest(play: Play) -> None:
    rest = [chunk(K16)] * 3 + [chunk(b"1", flags=END_STREAM)]
    answer = after_open(play, OPEN, receive(first(65537), chunk(K16)), "cancel 1", receive(*rest), "sends")
    assert names(answer) == ["message_aborted"]
    late = after_open(
        play, OPEN, receive(first(65537), chunk(K16)), "cancel 1", receive(*rest, wire.frame(DATA, stream=1))
    )
    assert names(late) == ["message_aborted", "closed"], "the terminal has come: nothing may follow"


@pytest.mark.parametrize("meta", [b"", b"m"])
def test_a_late_reply_of_a_cancelled_call_is_its_terminal(play: Play, meta: bytes) -> None:
    late = receive(wire.frame(DATA, stream=1, flags=END_STREAM, meta=meta, body=b"x"))
    assert names(after_open(play, OPEN, "cancel 1", late)) == []
    assert after_open(play, OPEN, "cancel 1", late, late)[-1] == ("closed", {"code": str(STREAM), "remote": "0"})


# -- requests in chunks


def test_small_frames_go_between_the_chunks_of_a_large_request_and_the_more_urgent_first(play: Play) -> None:
    answer = after_open(
        play,
        "window 0",
        "open 1 0 0 - - - aa*100000",
        "open 1 0 9 - - - bb*100000",
        OPEN,
        "window 9999999",
        OPEN,
        "sends",
    )
    kinds = []
    raw = sent(answer)
    while raw:
        size = 32 + int.from_bytes(raw[:4], "little")
        kinds.append((raw[4], int.from_bytes(raw[8:16], "little"), size - 32))
        raw = raw[size:]
    assert [kind[:2] for kind in kinds if kind[0] == wire.OPEN] == [(wire.OPEN, n) for n in range(1, 5)]
    chunks = [stream for kind, stream, _ in kinds if kind == DATA]
    assert chunks == sorted(chunks, reverse=True), "the more urgent first"
    assert sum(size for kind, _, size in kinds if kind == DATA) == 200000


@pytest.mark.parametrize("written", [0, 10, 32, 60, 30000, 262144])
def test_an_upload_given_up_halfway_finishes_its_frame_and_its_memory_is_free_at_once(play: Play, written: int) -> None:
    """`play` frees the body with the cancel, so that the sanitizer sees who still reads it."""
    answer = after_open(
        play, f"window {written}", "open 1 0 0 - - - aa*1000000", "cancel 1", "window 9999999", OPEN, "sends"
    )
    raw = sent(answer)
    frames = []
    while raw:
        size = 32 + int.from_bytes(raw[:4], "little")
        frames.append(
            (raw[4], int.from_bytes(raw[8:16], "little"), size, set(raw[32 if raw[4] == DATA else size : size]))
        )
        raw = raw[size:]
    assert [kind for kind, _, _, _ in frames if kind != DATA] in ([wire.OPEN, wire.CANCEL, wire.OPEN], [wire.OPEN])
    assert all(body <= {0xAA} for _, _, _, body in frames)
    assert sum(size for _, _, size, _ in frames) <= written + 16384 + 200
    assert [stream for kind, stream, _, _ in frames if kind == wire.OPEN][-1] == (2 if written else 1)


def test_a_terminal_within_an_upload_stops_it_and_frees_its_memory(play: Play) -> None:
    end = receive(wire.frame(END, stream=1, aux=8))
    answer = after_open(play, "window 30000", "open 1 0 0 - - - aa*1000000", end, "window 9999999", OPEN, "sends")
    assert names(answer) == ["ended"]
    assert len(sent(answer)) <= 30000 + 16384 + 200
    assert sent(answer).endswith(wire.frame(wire.OPEN, stream=2, flags=1))


@pytest.mark.parametrize("terminal", [wire.frame(END, stream=2, aux=1), wire.frame(DATA, stream=2, flags=END_STREAM)])
def test_an_open_that_waits_in_the_ring_may_be_cancelled_and_its_terminal_still_comes(
    play: Play, terminal: bytes
) -> None:
    """The socket is full: the OPEN has its id and its place, and goes out though its call is given up before."""
    full = ["window 1", "open 1 0 0 - - - aa*60000", OPEN, "window 1"]
    other = receive(wire.frame(DATA, stream=3, flags=END_STREAM))
    answer = after_open(play, *full, "cancel 2", "window 9999999", OPEN, receive(terminal), other, "sends")
    assert names(answer) == ["message"]
    assert sent(answer).count(wire.frame(wire.OPEN, stream=2, flags=END_STREAM)) == 1
    assert sent(answer).count(wire.frame(wire.CANCEL, stream=2)) == 1


@pytest.mark.parametrize("written", [0, 10, 42, 42 + 16416, 42 + 3 * 16416])
def test_an_upload_may_be_forgotten_after_its_memory_where_no_frame_of_it_is_begun(play: Play, written: int) -> None:
    """`play` frees the body first, so that the sanitizer sees who still reads it."""
    upload = [f"window {written}", "open 1 0 0 - - - aa*1000000", "forget 1", "window 9999999", OPEN, "sends"]
    answer = after_open(play, *upload)
    first_frame = wire.frame(
        wire.OPEN, stream=1, flags=MORE | END_STREAM, ext=b"\x02\x08" + (10**6).to_bytes(8, "little")
    )
    chunks = wire.frame(DATA, stream=1, flags=MORE, body=b"\xaa" * 16384) * ((written - 42) // 16416)
    cancel = wire.frame(wire.CANCEL, stream=1)
    given_up = first_frame + chunks + cancel if written else b""
    assert sent(answer) == given_up + wire.frame(wire.OPEN, stream=2 if written else 1, flags=END_STREAM)


@pytest.mark.parametrize("written", [43, 70, 30000])
def test_an_upload_that_is_forgotten_within_a_frame_ends_the_connection(play: Play, written: int) -> None:
    upload = [f"window {written}", "open 1 0 0 - - - aa*1000000", OPEN, "forget 1", "window 9999999", "eof", "sends"]
    answer = after_open(play, *upload)
    assert [(name, fields.get("status")) for name, fields in answer if name != "sent"] == [
        ("outcome", "14"),  # the other call was not sent
        ("closed", None),
    ]
    assert len(sent(answer)) == written


def test_an_open_that_waits_in_the_ring_goes_without_its_body_when_it_is_forgotten(play: Play) -> None:
    """Its id is given, so that it must go out (SPEC 8.1); without the body that its shape asks for it can only fail."""
    dims = b"".join(n.to_bytes(8, "little") for n in (1, 25))
    full = ["window 1", "open 1 0 0 - - - aa*60000", f"open 1 0 0 {dims.hex()} - 0badcafe bb*100", OPEN, "window 1"]
    answer = after_open(play, *full, "forget 2", "window 9999999", "sends")
    assert names(answer) == []
    assert sent(answer) == (
        wire.frame(wire.OPEN, stream=1, flags=END_STREAM, body=b"\xaa" * 60000)
        + wire.frame(wire.OPEN, stream=2, flags=END_STREAM, ext=b"\x01\x10" + dims, meta=b"\x0b\xad\xca\xfe")
        + wire.frame(wire.OPEN, stream=3, flags=END_STREAM)
        + wire.frame(wire.CANCEL, stream=2)
    )


def test_a_forgotten_call_has_no_outcome_when_the_connection_ends(play: Play) -> None:
    answer = after_open(play, OPEN, OPEN, "forget 1", "eof")
    assert [(name, fields.get("handle", fields.get("stream"))) for name, fields in answer][-2:] == [
        ("outcome", "2"),
        ("closed", None),
    ]


# -- time (SPEC 13)


def test_the_remaining_time_is_that_at_the_moment_of_writing(play: Play) -> None:
    answer = after_open(play, "open 1 250000 0 - - - -", "sends")
    assert sent(answer) == wire.frame(wire.OPEN, stream=1, flags=1, aux=250000)
    answer = after_open(play, f"open 1 {2**32 + 5000} 0 - - - -", "sends")
    assert sent(answer) == wire.frame(wire.OPEN, stream=1, flags=1, aux=0), "longer than the wire can say"


def test_a_deadline_ends_the_call_cancels_it_and_drops_what_comes_late(play: Play) -> None:
    late = wire.frame(DATA, stream=1, flags=1)
    answer = after_open(
        play, "open 1 1000 0 - - - -", "clock 999", "timer", "sends", "clock 1", "timer", "sends", receive(late)
    )
    assert [(name, fields["status"], fields["not_started"]) for name, fields in answer if name == "outcome"] == [
        ("outcome", "4", "0")
    ]
    assert sent(answer).endswith(wire.frame(wire.CANCEL, stream=1))
    assert "message" not in names(answer)


def test_a_call_whose_time_is_over_before_it_is_written_is_never_sent_and_takes_no_id(play: Play) -> None:
    full = [OPEN] * 4  # max_streams of the vectors' server
    answer = after_open(play, *full, "open 1 1000 0 - - - -", "clock 1000", "timer", "sends",
                        receive(wire.frame(DATA, stream=1, flags=1)), OPEN, "sends")  # fmt: skip
    assert [
        (fields["stream"], fields["status"], fields["not_started"]) for name, fields in answer if name == "outcome"
    ] == [("0", "4", "1")]
    assert sent(answer) == b"".join(wire.frame(wire.OPEN, stream=n, flags=1) for n in range(1, 6))


def test_a_handshake_that_takes_too_long_is_ended(play: Play) -> None:
    answers = play.run([START.replace("core", "core-with-deadline"), "clock 2000001", "timer"])
    assert [name for name, _ in answers[-1]] == ["closed"]
    assert answers[-1][0][1] == {"code": str(TIMEOUT), "remote": "0"}


# -- many calls, and the end


def test_calls_above_max_streams_wait_for_a_terminal(play: Play) -> None:
    answer = after_open(play, *[OPEN] * 6, "sends")
    assert sent(answer) == b"".join(wire.frame(wire.OPEN, stream=n, flags=1) for n in range(1, 5))
    answer = after_open(play, *[OPEN] * 6, "sends", receive(wire.frame(END, stream=2, aux=13)), "sends")
    assert sent(answer).endswith(wire.frame(wire.OPEN, stream=5, flags=1))


def test_pings_that_came_together_are_answered_by_one_pong(play: Play) -> None:
    answer = after_open(
        play, OPEN, "sends", receive(*(wire.frame(PING, body=bytes([n]) * 8) for n in range(9))), "sends"
    )
    assert sent(answer).endswith(wire.frame(wire.PONG, body=bytes([8]) * 8))
    assert sent(answer).count(wire.frame(wire.PONG, body=bytes(8))[:5]) == 1


def test_goaway_ends_what_was_not_sent_and_takes_nothing_more(play: Play) -> None:
    answer = after_open(
        play, *[OPEN] * 5, receive(wire.frame(GOAWAY, stream=3, aux=13)), OPEN, receive(wire.frame(CLOSE))
    )
    ends = [(fields["stream"], fields["status"], fields["not_started"]) for name, fields in answer if name == "outcome"]
    assert ends == [("0", "14", "1"), ("1", "-1", "0"), ("2", "-1", "0"), ("3", "-1", "0"), ("4", "14", "1")]
    assert ("refused", {"status": "UNAVAILABLE"}) in answer


def test_the_end_of_bytes_within_a_frame_is_never_success(play: Play) -> None:
    answer = after_open(play, OPEN, receive(wire.frame(DATA, stream=1, flags=1, body=b"12")[:-1]), "eof")
    assert [(name, fields.get("status")) for name, fields in answer] == [("outcome", "-1"), ("closed", None)]


def test_later_messages_of_a_stream_are_numbered(play: Play) -> None:
    answer = after_open(play, "open 0 0 0 - - - -", "send 1 0 0 - - 61", "send 1 1 0 - - 62", "sends")
    assert sent(answer)[32:] == wire.frame(DATA, stream=1, seq=1, body=b"a") + wire.frame(
        DATA, stream=1, seq=2, flags=1, body=b"b"
    )


# -- metadata that no vector shows


def test_offsets_that_fall_between_good_ends_are_refused(play: Play) -> None:
    vector = next(v for name, _, v in load("metadata") if name.endswith("three empty strings"))
    metadata = unpack(vector["metadata"]).hex()
    offsets = b"".join(n.to_bytes(8, "little") for n in (0, 2, 1, 3))
    dims = b"".join(n.to_bytes(8, "little") for n in (3, 3))
    (one,) = play.run([f"metadata {metadata} {dims.hex()} {(offsets + bytes(32) + b'abc').hex()}"])[0]
    assert (one[0], one[1]["stage"]) == ("refused", "body")
    good = b"".join(n.to_bytes(8, "little") for n in (0, 1, 2, 3))
    assert play.run([f"metadata {metadata} {dims.hex()} {(good + bytes(32) + b'abc').hex()}"])[0][0][0] == "accepted"


def test_a_vtable_at_an_odd_place_is_refused(play: Play) -> None:
    raw = bytearray(unpack(next(v for _, _, v in load("metadata") if v["valid"])["metadata"]))
    root = int.from_bytes(raw[:4], "little")
    vtable = root - int.from_bytes(raw[root : root + 4], "little", signed=True)
    copy = raw[vtable : vtable + int.from_bytes(raw[vtable : vtable + 2], "little")]
    for shift, wanted in ((0, "dims"), (1, "metadata")):  # without DIMS it is refused there, at the earliest
        moved = raw + bytes(len(raw) % 2 + shift)
        at = len(moved)
        moved[root : root + 4] = (root - at).to_bytes(4, "little", signed=True)
        (one,) = play.run([f"metadata {(moved + copy).hex()} - ?"])[0]
        assert one[1]["stage"] == wanted
