"""The order in which a header is checked, as a table (SPEC 3.2), and headers that break two of its rules at once.

Written from SPEC.md alone, nothing of tensorwire is imported: it is a second witness. A connection is open; which
streams it has, and what is under way on them, says `Situation`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from tests.vectors import wire
from tests.vectors.case import CONFIG, Step, do, opened, receive, sends
from tests.vectors.wire import (
    CANCEL,
    CLOSE,
    DATA,
    END,
    END_STREAM,
    FRAME,
    GOAWAY,
    HELLO,
    MORE,
    OPEN,
    PING,
    PONG,
    PROTOCOL,
    READY,
    STREAM,
    TOO_LARGE,
    body_length,
    frame,
)

Json = dict[str, Any]

CHUNK = 16_384  # as the vectors' two sides agree, below the inline cap
LARGE_CHUNK = 262_144  # as the default is, above it
INLINE = 65_536
SIZE = 100_000
EXTENSION = {OPEN: 1024, DATA: 1024, END: 1024}
METADATA = {OPEN: 65_536, DATA: 65_536, READY: 65_536, HELLO: 4096, END: 1024, GOAWAY: 1024, CLOSE: 1024}
FLAGS = {OPEN: 0x07, DATA: 0x03, END: 0x20}
AUX = {OPEN, END, GOAWAY, CLOSE}
NUMBERED = {OPEN, DATA, END, CANCEL, GOAWAY}
KNOWN = {1, 2, 3, 4, OPEN, DATA, END, CANCEL, PING, PONG, GOAWAY, CLOSE}
ALLOWED = {"server": {OPEN, DATA, CANCEL, PING, PONG, CLOSE}, "client": {DATA, END, PING, PONG, GOAWAY, CLOSE}}


@dataclass(frozen=True)
class Header:
    """The fields; `body` is what is left of `length`, below 0 where that is too short."""

    kind: int
    stream: int = 0
    seq: int = 0
    flags: int = 0
    aux: int = 0
    priority: int = 0
    ext: int = 0
    meta: int = 0
    body: int = 0
    reserved: int = 0

    def pack(self) -> bytes:
        return frame(
            self.kind, stream=self.stream, seq=self.seq, flags=self.flags, aux=self.aux, priority=self.priority,
            reserved=self.reserved, length=self.ext + self.meta + self.body, ext_len=self.ext, meta_len=self.meta,
        )  # fmt: skip


@dataclass(frozen=True)
class Situation:
    """How stream 1 stands at `role`, after `steps`: `seq` of the message that is expected, or of the `chunk`.

    late: its DATA is dropped. closed: no END of it is left to come. Without any of these its DATA is an error. agreed:
    bytes of a chunk at most.
    """

    role: str
    steps: tuple[Step, ...] = ()
    opened: int = 0
    seq: int | None = None
    chunk: bool = False
    late: bool = False
    closed: bool = False
    agreed: int = CHUNK
    kinds: tuple[int, ...] = field(default=(DATA,))

    def is_chunk(self, header: Header) -> bool:
        """7.3."""
        bare = header.ext == header.meta == 0
        return self.chunk and header.kind == DATA and bare and header.stream == 1 and header.seq == self.seq

    def cap(self, header: Header) -> int:
        """Bytes of a body."""
        if self.is_chunk(header):
            return self.agreed
        late = self.late and header.kind == DATA and header.stream == 1 and header.ext == header.meta == 0
        return max(self.agreed, INLINE) if late else INLINE

    def expected(self, header: Header) -> bool:
        """Whether section 8 expects `stream` and `seq`."""
        if header.kind == OPEN:
            return header.stream == self.opened + 1 and header.seq == 0
        if header.kind == DATA:
            if header.stream != 1 or not self.opened:
                return False
            return self.late or (self.is_chunk(header) if self.chunk else header.seq == self.seq)
        if header.kind == CANCEL:
            return 0 < header.stream <= self.opened
        return header.kind != END or (header.stream == 1 and self.opened > 0 and not self.closed)


def body_is_wrong(situation: Situation, header: Header) -> bool:
    if header.kind in {OPEN, DATA}:
        return header.body > situation.cap(header)
    return header.body != (8 if header.kind in {PING, PONG} else 0)


def stray(_: Situation, header: Header) -> bool:
    kind = header.kind
    return bool(
        header.reserved
        or header.flags & ~FLAGS.get(kind, 0)
        or (header.aux and kind not in AUX)
        or (header.stream and kind not in NUMBERED)
        or (kind not in {OPEN, DATA} and (header.seq or header.priority))
    )


RULES: list[tuple[str, Callable[[Situation, Header], bool], Callable[[Header], int]]] = [
    ("1 type", lambda _, h: h.kind not in KNOWN, lambda _: FRAME),
    ("2 state", lambda s, h: h.kind not in ALLOWED[s.role], lambda _: PROTOCOL),
    (
        "3 caps",
        lambda _, h: h.ext > EXTENSION.get(h.kind, 0) or h.meta > METADATA.get(h.kind, 0),
        lambda _: TOO_LARGE,
    ),
    ("4 length", lambda _, h: h.body < 0, lambda _: FRAME),
    ("5 body", body_is_wrong, lambda h: TOO_LARGE if h.kind in {OPEN, DATA} else FRAME),
    ("6 fields", stray, lambda _: FRAME),
    ("7 stream", lambda s, h: not s.expected(h), lambda _: STREAM),
]
"""What is checked, in this order; whether a header breaks it; the code that it then is."""


def broken(situation: Situation, header: Header) -> list[tuple[str, int]]:
    """The rules that a header breaks, in their order, with their codes: the first decides."""
    return [(name, code(header)) for name, breaks, code in RULES if breaks(situation, header)]


_OPEN_AT_SERVER = receive(frame(OPEN, stream=1))
_BEGUN = {"server": frame(DATA, stream=1, seq=1, flags=MORE, ext=body_length(SIZE)),
          "client": frame(DATA, stream=1, flags=MORE, ext=body_length(SIZE))}  # fmt: skip
_END = do("end", stream=1, status=13, detail="", not_started=False, extension="")
SITUATIONS: dict[str, Situation] = {
    "server, nothing opened": Situation("server", kinds=(OPEN, DATA, CANCEL, PING, PONG, CLOSE, END, 200)),
    "server, open": Situation("server", (_OPEN_AT_SERVER,), 1, seq=1, kinds=(OPEN, DATA, CANCEL)),
    "server, half-closed": Situation("server", (receive(frame(OPEN, stream=1, flags=END_STREAM)),), 1),
    "server, a message under way": Situation(
        "server", (_OPEN_AT_SERVER, receive(_BEGUN["server"])), 1, seq=1, chunk=True
    ),
    "server, cancelled": Situation("server", (_OPEN_AT_SERVER, receive(frame(CANCEL, stream=1))), 1),
    "server, closed": Situation("server", (_OPEN_AT_SERVER, _END), 1, late=True),
    "client, nothing opened": Situation("client", kinds=(DATA, END, PING, PONG, GOAWAY, CLOSE, OPEN, 200)),
    "client, open": Situation("client", opened(flags=0), 1, seq=0, kinds=(DATA, END)),
    "client, half-closed": Situation("client", opened(), 1, seq=0, kinds=(DATA, END)),
    "client, a message under way": Situation(
        "client", (*opened(), receive(_BEGUN["client"])), 1, seq=0, chunk=True, kinds=(DATA, END)
    ),
    "client, cancelled": Situation("client", (*opened(), do("cancel", stream=1)), 1, late=True, kinds=(DATA, END)),
    "client, closed": Situation(
        "client", (*opened(), receive(frame(END, stream=1, aux=5))), 1, closed=True, kinds=(DATA, END)
    ),
}

CHANGES: list[dict[str, int]] = [
    {"kind": 200},
    {"kind": 9},
    {"kind": HELLO},
    {"ext": 1, "body": 0},
    {"ext": 1025},
    {"meta": 8},
    {"meta": 65_537},
    {"meta": 8, "body": -1},
    {"ext": 8, "body": -8},
    {"body": 1},
    {"body": CHUNK + 1},
    {"body": INLINE + 1},
    {"body": LARGE_CHUNK + 1},
    {"body": (1 << 20) + 1},
    {"flags": MORE},
    {"flags": 0x8000},
    {"flags": 0x20},
    {"aux": 1},
    {"aux": 17},
    {"priority": 9},
    {"reserved": 1},
    {"stream": 0},
    {"stream": 3},
    {"seq": 7},
]
"""What may be wrong with a header: alone, or any two together that are not about the same field."""


def beginning(situation: Situation) -> tuple[Json, list[Step]]:
    """The file of vectors that the situation would stand in, and all steps that lead to it."""
    sizes = wire.limits(situation.agreed, wire.MAX_STREAMS, wire.MAX_MESSAGE)
    hello = wire.hello(t8=wire.limits(situation.agreed, 0, wire.MAX_MESSAGE))
    welcome = wire.welcome(t8=sizes)
    ready = wire.ready_payload().hex()
    greeting = {
        "server": [receive(wire.PREFACE, hello), sends(welcome), receive(wire.AUTH_FRAME), do("accept", ready=ready)],
        "client": [receive(welcome), receive(wire.READY_FRAME)],
    }
    config = {**CONFIG, "chunk": situation.agreed}
    return {"config": config, "prelude": {}}, [*greeting[situation.role], *situation.steps]


def good(situation: Situation, kind: int) -> Header:
    """A header without a fault, as far as the situation has one."""
    if kind == OPEN:
        return Header(kind, stream=situation.opened + 1)
    if kind == DATA:
        flags, body = (MORE, CHUNK) if situation.chunk else (0, 5)
        return Header(kind, stream=1, seq=situation.seq or 0, flags=flags, body=body)
    if kind in {END, CANCEL}:
        return Header(kind, stream=1)
    return Header(kind, body=8 if kind in {PING, PONG} else 0)


def headers(situation: Situation) -> Iterator[Header]:
    """Every header with one change or two that breaks a rule."""
    for kind in situation.kinds:
        base = vars(good(situation, kind))
        pairs = ({**one, **other} for one, other in combinations(CHANGES, 2) if not one.keys() & other.keys())
        for changes in (*CHANGES, *pairs):
            header = Header(**{**base, **changes})
            if broken(situation, header):
                yield header
