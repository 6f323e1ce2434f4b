"""Vectors of streams: ids, seq numbers, states, late frames (SPEC 8, 13.4)."""

from __future__ import annotations

from tests.vectors.case import (
    Event,
    Step,
    Vector,
    accepted,
    closed,
    do,
    ended,
    expect,
    message,
    opened,
    receive,
    refused,
    vector,
)
from tests.vectors.wire import (
    CANCEL,
    DATA,
    END,
    END_STREAM,
    FRAME,
    MORE,
    OPEN,
    STREAM,
    TOO_LARGE,
    body_length,
    frame,
)

_CANCELLED: Event = {"event": "cancelled", "stream": 1}
LAST = 2**64 - 1


def open_(stream: int, *, flags: int = END_STREAM, body: bytes = b"", seq: int = 0) -> bytes:
    """An OPEN frame."""
    return frame(OPEN, stream=stream, flags=flags, body=body, seq=seq)


def streams() -> list[Vector]:
    """Ids, seq numbers, states, late frames."""
    server, client = "server", "client"
    half = open_(1, flags=0)
    is_open = message(1, end_stream=False)
    reply = frame(DATA, stream=1, flags=END_STREAM)
    found = [
        accepted(
            "ids 1, 2, 3", "8.1", server, open_(1), open_(2), open_(3), events=(message(1), message(2), message(3))
        ),
        vector(
            "a client stream",
            "8.2",
            server,
            receive(half, frame(DATA, stream=1, seq=1, body=b"b")),
            expect(is_open, message(1, 1, end_stream=False, body=b"b")),
            receive(frame(DATA, stream=1, seq=2, flags=END_STREAM)),
            expect(message(1, 2)),
        ),
        vector(
            "a server stream",
            "8.7",
            client,
            *opened(),
            receive(frame(DATA, stream=1, body=b"a"), frame(DATA, stream=1, seq=1, flags=END_STREAM)),
            expect(message(1, end_stream=False, body=b"a"), message(1, 1)),
        ),
        vector(
            "replies in any order of streams",
            "8.3",
            client,
            *opened(2),
            receive(frame(DATA, stream=2, flags=END_STREAM), reply),
            expect(message(2), message(1)),
        ),
        vector(
            "a server may end before the client's half",
            "8.5",
            client,
            *opened(flags=0),
            receive(reply),
            expect(message(1)),
        ),
        vector(
            "CANCEL reaches the server once",
            "13.4",
            server,
            receive(open_(1)),
            expect(message(1)),
            receive(frame(CANCEL, stream=1), frame(CANCEL, stream=1)),
            expect(_CANCELLED),
            do("end", stream=1, status=1, detail="", not_started=False, extension=""),
            receive(frame(CANCEL, stream=1)),
            expect(),
        ),
        vector(
            "late DATA and CANCEL of an ended stream are dropped",
            "8.4",
            server,
            receive(half),
            expect(is_open),
            do("end", stream=1, status=13, detail="", not_started=False, extension=""),
            receive(frame(DATA, stream=1, seq=1, body=b"late"), frame(CANCEL, stream=1)),
            expect(),
        ),
        vector(
            "late DATA of a cancelled stream is dropped until the terminal",
            "8.4",
            client,
            *opened(flags=0),
            do("cancel", stream=1),
            receive(frame(DATA, stream=1, body=b"late"), frame(END, stream=1, aux=1)),
            expect(),
        ),
        vector(
            "a second terminal of a cancelled stream",
            "8.5",
            client,
            *opened(),
            do("cancel", stream=1),
            receive(frame(DATA, stream=1, flags=END_STREAM)),
            expect(),
            receive(frame(END, stream=1, aux=1)),
            expect(closed(STREAM)),
        ),
        vector(
            "more streams than allowed are refused, not fatal",
            "8.6",
            server,
            receive(*(open_(n) for n in range(1, 6))),
            expect(*(message(n) for n in range(1, 5)), {"event": "refused", "stream": 5, "status": 8}),
        ),
    ]
    found += _messages_by_default()
    for first in (0, 2, 3, LAST):
        found.append(refused(f"the first id is {first}", "8.1", server, STREAM, open_(first)))
    for second in (1, 3, 2**63, LAST):
        found.append(
            vector(
                f"id {second} after 1",
                "8.1",
                server,
                receive(open_(1), open_(second)),
                expect(message(1), closed(STREAM)),
            )
        )
    for seq in (1, 2**32 - 1):
        found.append(refused(f"OPEN with seq {seq}", "8.2", server, STREAM, open_(1, seq=seq)))
    for seq in (0, 2, 2**32 - 1):
        bad = frame(DATA, stream=1, seq=seq)
        found.append(
            vector(f"DATA seq {seq} after OPEN", "8.2", server, receive(half, bad), expect(is_open, closed(STREAM)))
        )
        if seq:
            found.append(refused(f"first reply with seq {seq}", "8.2", client, STREAM, bad, before=opened()))
    found += [
        refused("DATA on stream 0", "6.4", server, STREAM, frame(DATA)),
        refused("DATA of an id never opened", "8.4", server, STREAM, frame(DATA, stream=1)),
        refused("CANCEL of an id never opened", "6.6", server, STREAM, frame(CANCEL, stream=1)),
        refused("CANCEL of stream 0", "6.6", server, STREAM, frame(CANCEL)),
        vector(
            "DATA after END_STREAM",
            "8.3",
            server,
            receive(open_(1), frame(DATA, stream=1, seq=1)),
            expect(message(1), closed(STREAM)),
        ),
        refused("a reply on an id never opened", "8.4", client, STREAM, frame(DATA, stream=2), before=opened()),
        refused("a reply on stream 0", "6.4", client, STREAM, frame(DATA), before=opened()),
        refused("END of an id never opened", "8.4", client, STREAM, frame(END, stream=2, aux=13), before=opened()),
        vector(
            "a second terminal: DATA",
            "8.5",
            client,
            *opened(),
            receive(reply, reply),
            expect(message(1), closed(STREAM)),
        ),
        vector(
            "a second terminal: END",
            "8.5",
            client,
            *opened(),
            receive(reply, frame(END, stream=1, aux=13)),
            expect(message(1), closed(STREAM)),
        ),
        vector(
            "a reply after END",
            "8.5",
            client,
            *opened(),
            receive(frame(END, stream=1, aux=13), reply),
            expect(ended(1, 13), closed(STREAM)),
        ),
        vector(
            "NOT_STARTED after a reply",
            "6.5",
            client,
            *opened(),
            receive(frame(DATA, stream=1), frame(END, stream=1, aux=14, flags=0x20)),
            expect(message(1, end_stream=False), closed(FRAME)),
        ),
    ]
    return [*found, *_late()]


def _messages_by_default() -> list[Vector]:
    """Where no message of its stream is under way, DATA is a message, with a message's cap."""
    opening, is_open = open_(1, flags=0), message(1, end_stream=False)
    found = []
    for role, seq, before in (
        ("server", 1, (receive(opening), expect(is_open))),
        ("client", 0, opened()),
    ):
        whole = frame(DATA, stream=1, seq=seq, body=b"\x5a" * 65536)
        event = message(1, seq, end_stream=False, body=b"\x5a" * 65536)
        found += [
            vector(
                f"DATA of 65,536 bytes is a message, at the {role}", "6.4", role, *before, receive(whole), expect(event)
            ),
            refused(
                f"DATA of 65,537 bytes where no message is under way, at the {role}",
                "3.2",
                role,
                TOO_LARGE,
                frame(DATA, stream=1, seq=seq, length=65537),
                before=before,
            ),
            refused(
                f"DATA with MORE and a body where no message is under way, at the {role}",
                "7.2",
                role,
                FRAME,
                frame(DATA, stream=1, seq=seq, flags=MORE, body=b"\x5a" * 16384),
                before=before,
            ),
            refused(
                f"DATA with another seq, MORE and a body where no message is under way, at the {role}",
                "3.2",
                role,
                STREAM,
                frame(DATA, stream=1, seq=7, flags=MORE, body=b"x"),
                before=before,
            ),
        ]
    return found


def _late() -> list[Vector]:
    """Late frames are dropped, but not believed: the header's rules still hold."""
    end = do("end", stream=1, status=13, detail="", not_started=False, extension="")
    gone: tuple[Step, ...] = (receive(open_(1, flags=0)), expect(message(1, end_stream=False)), end)
    bad: tuple[tuple[str, str, int, bytes], ...] = (
        (
            "a late chunk over its cap",
            "8.4",
            TOO_LARGE,
            frame(DATA, stream=1, flags=MORE, body=bytes(65537)),
        ),
        ("late DATA with metadata over its cap", "8.4", TOO_LARGE, frame(DATA, stream=1, length=65537, meta_len=65537)),
        ("late DATA with aux", "8.4", FRAME, frame(DATA, stream=1, aux=1)),
        ("late DATA with reserved", "8.4", FRAME, frame(DATA, stream=1, reserved=1)),
        ("late DATA with an unknown flag", "8.4", FRAME, frame(DATA, stream=1, flags=MORE | 0x80)),
    )
    found = [refused(name, section, "server", code, raw, before=gone) for name, section, code, raw in bad]
    found.append(
        vector(
            "late DATA may be as long as an inline body, with MORE too",
            "8.4",
            "server",
            *gone,
            receive(*(frame(DATA, stream=1, seq=1, flags=flags, body=b"\x5a" * 65536) for flags in (0, MORE))),
            expect(),
        )
    )
    beside = frame(DATA, stream=1, flags=MORE, ext=body_length(70000), meta=b"meta", body=b"x")
    found += [
        refused("OPEN with MORE and a body and another id", "3.2", "server", STREAM, open_(2, flags=MORE, body=b"x")),
        vector("late DATA is no first frame: a body beside MORE", "8.4", "server", *gone, receive(beside), expect()),
        vector(
            "DATA of a cancelled stream is no first frame: a body beside MORE",
            "8.4",
            "client",
            *opened(),
            do("cancel", stream=1),
            receive(beside, frame(END, stream=1, aux=1)),
            expect(),
        ),
    ]
    chunked = frame(DATA, stream=1, seq=1, flags=MORE, ext=body_length(70000))
    cancelled: tuple[Step, ...] = (
        receive(open_(1, flags=0), frame(CANCEL, stream=1)),
        expect(message(1, end_stream=False), _CANCELLED),
    )
    found += [
        refused("DATA after CANCEL", "8.3", "server", STREAM, frame(DATA, stream=1, seq=1), before=cancelled),
        vector(
            "a chunked message after END_STREAM",
            "8.3",
            "server",
            receive(open_(1), chunked),
            expect(message(1), closed(STREAM)),
        ),
    ]
    return found
