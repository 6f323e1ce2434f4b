"""Vectors with a clock: slow handshakes, peers that fall silent, floods (SPEC 9.1, 10.3, 15.6 and 22.3)."""

from __future__ import annotations

from tests.vectors.case import (
    CONFIG,
    Step,
    Vector,
    closed,
    do,
    ended,
    expect,
    message,
    opened,
    receive,
    sends,
    vector,
)
from tests.vectors.wire import (
    AUTH_FRAME,
    CALM,
    CANCEL,
    DATA,
    END,
    END_STREAM,
    MORE,
    OPEN,
    PING,
    PONG,
    PREFACE,
    READY_FRAME,
    TIMEOUT,
    body_length,
    frame,
    hello,
    ready_payload,
    welcome,
)

CLOCK_CONFIG = CONFIG | {
    "handshake_timeout": 2000,
    "ping_interval": 10_000,
    "ping_timeout": 5000,
    "late_and_refused": 4,
}
_ASK, _ANSWER = frame(PING, body=bytes(8)), frame(PONG, body=bytes(8))
_CALL = frame(OPEN, stream=1, flags=END_STREAM)
_ANSWERED = expect({"event": "pong", "payload": bytes(8).hex()})


def at(milliseconds: int) -> Step:
    """The clock stands here, and timers whose time has come fire."""
    return {"at": milliseconds}


def timer(milliseconds: int | None) -> Step:
    """When the role wants to be called next."""
    return {"timer": milliseconds}


def clock() -> list[Vector]:
    """Handshakes first, then silence, then floods."""
    return [*_handshakes(), *_silence(), *_floods()]


def _late(name: str, role: str, *before: Step, section: str = "9.1", **more: object) -> Vector:
    """The handshake is not done after two seconds, whatever has come by then."""
    steps = (timer(2000), *before, at(1750), expect(), timer(2000), at(2000), expect(closed(TIMEOUT)))
    return vector(name, section, role, *steps, start="connected", **more)


def _handshakes() -> list[Vector]:
    server, client = "server", "client"
    silent = vector(
        "a stranger that says nothing is told nothing",
        "10.3",
        server,
        *(timer(2000), at(1750), expect(), at(2000), expect(closed(TIMEOUT)), sends()),
        start="connected",
        valid=True,  # nothing was received that could be wrong
    )
    half = vector(
        "half a preface is answered nothing",
        "10.3",
        server,
        *(receive(PREFACE[:5]), at(1750), expect(), at(2000), expect(closed(TIMEOUT)), sends()),
        start="connected",
        valid=True,
    )
    shaken = [receive(PREFACE, hello()), sends(welcome()), receive(AUTH_FRAME), expect({"event": "authenticated"})]
    ready = expect({"event": "ready", "payload": ready_payload().hex()})
    return [
        silent,
        half,
        _late("a preface without HELLO", server, receive(PREFACE)),
        _late("half a HELLO", server, receive(PREFACE, hello()[:60])),
        _late("HELLO without AUTH", server, receive(PREFACE, hello()), sends(welcome())),
        _late("bytes do not win time", server, at(1000), receive(PREFACE), at(1500), receive(hello()[:40])),
        _late("no WELCOME", client),
        _late("WELCOME without READY", client, receive(welcome())),
        _late("half a READY", client, at(500), receive(welcome(), READY_FRAME[:40])),
        vector(
            "a handshake that is done in time has no timer any more, at the server",
            "9.1",
            server,
            *(at(1750), *shaken, timer(None), at(600_000), expect()),
            start="connected",
        ),
        vector(
            "a handshake that is done in time has no timer any more, at the client",
            "9.1",
            client,
            *(at(1750), receive(welcome(), READY_FRAME), ready, timer(None), at(600_000), expect()),
            start="connected",
        ),
    ]


def _silence() -> list[Vector]:
    sent = sends(_CALL)
    asked = (at(9750), expect(), sends(), timer(10_000), at(10_000), expect(), sends(_ASK), timer(15_000))
    called = (at(1000), receive(_CALL), expect(message(1)))
    return [
        vector("without streams nobody is asked", "15.6", "client", timer(None), at(600_000), expect(), sends()),
        vector(
            "a server that answers is asked again after as long a time",
            "15.6",
            "client",
            *(*opened(), sent, *asked, at(12_000), receive(_ANSWER), _ANSWERED, timer(22_000)),
            *(at(21_750), expect(), sends(), at(22_000), expect(), sends(_ASK), timer(27_000)),
        ),
        vector(
            "a server that does not answer is given up",
            "15.6",
            "client",
            *(*opened(), sent, *asked, at(14_750), expect(), at(15_000), expect(closed(TIMEOUT))),
        ),
        vector(
            "any byte is a sign of life: a part of a header",
            "15.6",
            "client",
            *(*opened(), sent, *asked, at(14_000), receive(_ANSWER[:7]), expect(), timer(24_000)),
            *(at(15_000), expect(), sends(), receive(_ANSWER[7:]), _ANSWERED, timer(25_000)),
        ),
        vector(
            "a part of a frame is no answer for ever",
            "15.6",
            "client",
            *(*opened(), sent, at(1000), receive(_ANSWER[:7]), expect(), timer(11_000)),
            *(at(11_000), expect(), sends(_ASK), at(16_000), expect(closed(TIMEOUT))),
        ),
        vector(
            "with the last stream the question goes",
            "15.6",
            "client",
            *(*opened(), sent, *asked, at(12_000), receive(frame(END, stream=1, aux=13)), expect(ended(1, 13))),
            *(timer(None), at(600_000), expect(), sends()),
        ),
        vector(
            "a server asks too, while a call is open",
            "15.6",
            "server",
            *(timer(None), *called, timer(11_000), at(11_000), expect(), sends(_ASK), timer(16_000)),
            *(at(15_750), expect(), at(16_000), expect(closed(TIMEOUT))),
        ),
    ]


def _open(stream: int, flags: int = END_STREAM) -> bytes:
    return frame(OPEN, stream=stream, flags=flags, ext=body_length(70_000) if flags & MORE else b"")


def _refusal(stream: int) -> dict[str, object]:
    return {"event": "refused", "stream": stream, "status": 8}


def _floods() -> list[Vector]:
    """What counts against `late_and_refused`, and what does not."""
    server = "server"
    full = (receive(*(_open(n) for n in range(1, 5))), expect(*(message(n) for n in range(1, 5))))
    above = (receive(*(_open(n) for n in range(5, 9))), expect(*(_refusal(n) for n in range(5, 9))))
    ended_here = do("end", stream=1, status=13, detail="", not_started=False, extension="")
    gone = (receive(_open(1, flags=0)), expect(message(1, end_stream=False)), ended_here)
    late, cancel = frame(DATA, stream=1, seq=1, body=b"x"), frame(CANCEL, stream=1)
    chunk = frame(DATA, stream=1, seq=1, flags=MORE, body=bytes(16384))
    answered: list[Step] = []
    for stream in range(1, 11):
        answered += [receive(_open(stream)), expect(message(stream))]
        answered.append(do("end", stream=stream, status=8, detail="", not_started=True, extension=""))
    return [
        vector(
            "streams above max_streams count", "8.6", server, *full, *above, receive(_open(9)), expect(closed(CALM))
        ),
        vector(
            "messages refused at their first frame count",
            "22.3",
            server,
            receive(*(_open(n, END_STREAM | MORE) for n in range(1, 5))),
            expect(*(_refusal(n) for n in range(1, 5))),
            receive(_open(5, END_STREAM | MORE)),
            expect(closed(CALM)),
            reserve="refuse",
        ),
        vector(
            "late DATA and CANCEL count with them",
            "22.3",
            server,
            *(*gone, receive(late, cancel, late, cancel), expect(), receive(late), expect(closed(CALM))),
        ),
        vector("late chunks do not count", "22.3", server, *gone, receive(*[chunk] * 6), expect()),
        vector("calls that were received whole and are then refused do not count", "22.3", server, *answered),
        vector(
            "after 10 s the count begins anew",
            "19.4",
            server,
            *(*full, *above, at(10_250), receive(_open(9)), expect(_refusal(9))),
        ),
    ]
