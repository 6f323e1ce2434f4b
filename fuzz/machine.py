"""A stateful machine over both ends of a connection, joined by bytes: any order of calls, splits, delays and endings.

Two real `Connection`s, client and server, share one receive buffer, which is poisoned after every read. Their owners
open, send, cancel, answer, ping, drain and close as hypothesis pleases; bytes wait on two wires and arrive in pieces of
any size; the clock is a number. What must hold, after every step unless said otherwise:

1.  Exactly one terminal per stream leaves the server, and nothing of the stream after it; the client's owner hears of
    at most one, of none once it has cancelled, and at rest of exactly one for every call that it has not.
2.  Stream ids on the wire are 1, 2, 3 ... without gaps; messages of a stream are numbered 0, 1, 2 ... each way.
3.  Events come in the order of the wire, and no message before its last byte has left the sender.
4.  Nothing of a stream is dispatched at the server once its owner has ended it, so also once a CANCEL is answered; but
    for events of the very read in whose events the owner did so: those are in its hands already.
5.  Bodies, flags, priorities, deadlines, metadata and extensions arrive as they were sent, to the bit.
6.  Memory that was reserved comes back once, filled or given up; at rest nothing is reserved; memory that has come back
    is not written to.
7.  Neither end sees an error: a connection ends only because an owner closed it, the bytes ended, or a time that the
    machine itself measured is over.
8.  The tables are never in a state without meaning: see `check_tables`. `outbound_bytes` is the sum of what is queued.
9.  Closed is the last event, and the only one of its kind; frames are sent whole; nothing is sent after CLOSE.
10. The owner's mistakes raise LocalError and change nothing.

Flow control by credit is not built; its invariants belong here when it is.
"""

# ruff: noqa: SLF001 - the invariants look at the tables inside
from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tensorwire.protocol import (
    Authenticated,
    Cancelled,
    Ended,
    ErrorCode,
    Event,
    GoAway,
    LocalError,
    Message,
    MessageAborted,
    Pong,
    Ready,
    Refused,
    Role,
    State,
    Status,
)
from tensorwire.protocol.limits import NO_NEW_STREAMS
from tensorwire.protocol.states import StreamState

from .machine_ends import END_STREAM, LIMITS, WANT_TIMING, End, body

SIZES = st.sampled_from((0, 1, 700, 65_536, 65_537, 81_920, 150_000))
READS = st.lists(st.integers(1, 80) | st.integers(1, 40_000), max_size=8)
PICK = st.integers(0, 63)
SHAKEN = st.sampled_from((True, True, True, False))
DIMS = b"\x01\x08" + bytes(8)
OK_STATES = {State.WELCOME, State.READY, State.OPEN}, {State.PREFACE, State.HELLO, State.AUTH, State.READY, State.OPEN}


class Call:
    """What the owners did with one stream. sent, replies: (size, END_STREAM) of each message, by seq."""

    def __init__(self, flags: int, priority: int, deadline: int, ext: bytes, size: int) -> None:
        self.flags = flags
        self.priority = priority
        self.deadline = deadline
        self.ext = ext
        self.sent: list[tuple[int, int]] = [(size, flags & END_STREAM)]
        self.replies: list[tuple[int, int]] = []
        self.arrived = 0  # messages dispatched at the server
        self.heard = 0  # replies dispatched at the client
        self.cancelled = False
        self.done = False  # the client's owner has an outcome
        self.answered = False  # the server's owner gave the terminal, or the core refused
        self.refused = False  # by the server's core
        self.at_server = False  # the server's owner knows the stream

    @property
    def over(self) -> bool:
        """Whether the client's owner shall hear nothing more of it."""
        return self.done or self.cancelled


class Machine(RuleBasedStateMachine):
    """Both ends and their owners."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 50.0
        self.buffer = memoryview(bytearray(1 << 18))

    @initialize(shaken=SHAKEN, eager=st.booleans())
    def connect(self, shaken: bool, eager: bool) -> None:
        """Two fresh ends; no byte has passed, or the handshake is done."""
        self.start = self.now
        self.eager = eager
        self.client = End(Role.CLIENT, self.now, self.buffer)
        self.server = End(Role.SERVER, self.now, self.buffer)
        self.calls: dict[int, Call] = {}
        self.just_answered: set[int] = set()  # streams whose end was given since the events of the last read came
        self.asked = False  # the server's owner owes accept()
        self.going = NO_NEW_STREAMS + 1  # last id of the last GOAWAY that the server sent
        self.may_close = False  # an owner closed, or the bytes ended
        self.told = False  # the client's owner knows of GOAWAY
        for _ in range(5 if shaken else 0):
            self.exchange()
            self.accept()

    # ---- the client's owner ----

    @rule(
        size=SIZES,
        last=st.booleans(),
        timing=st.booleans(),
        priority=st.sampled_from((0, 0, 1, 255)),
        deadline=st.sampled_from((0, 1, 2**32 - 1)),
        dims=st.booleans(),
    )
    def open(self, size: int, last: bool, timing: bool, priority: int, deadline: int, dims: bool) -> None:
        """A call, in two buffers; after GOAWAY or the end it is a LocalError."""
        core = self.client.connection
        stream = core.last_stream_id + 1
        flags = last * END_STREAM | timing * WANT_TIMING
        ext, meta = DIMS * dims, b"meta %d" % stream
        data = body(True, stream, 0, size)
        parts: list[bytes | memoryview] = [data[: size // 3], memoryview(data)[size // 3 :]]
        if core.closed or self.told:
            with pytest.raises(LocalError):
                core.open(meta, ext, parts, size, flags, priority, deadline)
            return
        assert core.open(meta, ext, parts, size, flags, priority, deadline) == stream == len(self.calls) + 1
        self.calls[stream] = Call(flags, priority, deadline, ext, size)

    @rule(pick=PICK, size=SIZES, last=st.booleans())
    def client_sends(self, pick: int, size: int, last: bool) -> None:
        """A later message."""
        able = [n for n, c in self.calls.items() if not (c.done or c.cancelled or c.sent[-1][1])]
        if able and not self.client.connection.closed:
            stream = able[pick % len(able)]
            sent = self.calls[stream].sent
            data = body(True, stream, len(sent), size)
            self.client.connection.send(stream, b"", b"", [data], size, int(last))
            sent.append((size, int(last)))

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        """Any call, finished and cancelled ones too."""
        if self.calls:
            stream = 1 + pick % len(self.calls)
            self.client.connection.cancel(stream)  # of a finished stream it is nothing, and twice is once
            self.calls[stream].cancelled |= not self.calls[stream].done

    @rule(size=SIZES, last=st.booleans())
    def open_plain(self, size: int, last: bool) -> None:
        """As `open`, so that most runs have many streams."""
        self.open(size, last, False, 0, 0, True)

    # ---- the server's owner ----

    @rule()
    def accept(self) -> None:
        """READY, whenever the server's owner gets to it."""
        if self.asked and not self.server.connection.closed:
            self.server.connection.accept(b"\x80")
            self.asked = False

    @rule(size=SIZES)
    def answer(self, size: int) -> None:
        """A unary reply to whoever waits for one."""
        while (owed := self.owed()) and self.server.connection.state is State.OPEN:
            self.server_sends(0, size if len(owed) == 1 else 0, last=True)

    def owed(self) -> list[int]:
        """Streams that the server's owner has yet to end."""
        return [
            n
            for n, call in self.calls.items()
            if (call.at_server or n in self.server.memory.known) and not call.answered
        ]

    @rule(pick=PICK, size=SIZES, last=st.booleans())
    def server_sends(self, pick: int, size: int, last: bool) -> None:
        """A reply."""
        owed = self.owed()
        core = self.server.connection
        if owed and core.state is State.OPEN:
            self._reply(owed[pick % len(owed)], size, last)

    def _reply(self, stream: int, size: int, last: bool) -> None:
        core, call = self.server.connection, self.calls[stream]
        if core.state is State.OPEN:
            data = body(False, stream, len(call.replies), size)
            core.send(stream, b"", DIMS, [data], size, int(last))
            call.replies.append((size, int(last)))
        if core.state is State.OPEN and last:
            call.answered = True
            self.just_answered.add(stream)

    @rule(pick=PICK, status=st.sampled_from((Status.OK, Status.INTERNAL)), not_started=st.booleans())
    def end(self, pick: int, status: Status, not_started: bool) -> None:
        """A terminal without a message."""
        owed = self.owed()
        if owed and not self.server.connection.closed:
            self._end(owed[pick % len(owed)], status, not_started)

    def _end(self, stream: int, status: Status, not_started: bool = False) -> None:
        self.server.connection.end(stream, status, f"detail {stream}", not_started)
        self.calls[stream].answered = True
        self.just_answered.add(stream)

    @precondition(lambda self: self.server.connection.state is State.OPEN and len(self.calls) > 7)
    @rule(last=st.booleans())
    def goaway(self, last: bool) -> None:
        """The notice that the server drains, or the last id."""
        core = self.server.connection
        stream = min(self.going, core.last_stream_id if last else NO_NEW_STREAMS)
        core.goaway(stream, ErrorCode.SHUTDOWN, "drain")
        self.going = stream

    # ---- either owner ----

    @rule(up=st.booleans())
    def ping(self, up: bool) -> None:
        """A numbered PING."""
        end = self.client if up else self.server
        if not end.connection.closed:
            end.pings += 1
            end.connection.ping(end.pings.to_bytes(8, "little"))

    @precondition(lambda self: len(self.calls) > 3)
    @rule(how=st.sampled_from(("go on",) * 9 + ("client", "server", "cut")))
    def close(self, how: str) -> None:
        """The end of the connection, now and then: CLOSE by an owner, or bytes that end and are lost."""
        if how == "go on":
            return
        self.may_close = True
        if how == "cut":
            self.client.wire.clear()
            self.server.wire.clear()
            for end, other in self.both():
                self.happened(end, other, end.connection.receive_eof(self.now))
        else:
            (self.client if how == "client" else self.server).connection.close(ErrorCode.SHUTDOWN, "bye")

    @rule(pick=PICK)
    def mistake(self, pick: int) -> None:
        """Rule 10."""
        client, server = self.client.connection, self.server.connection
        before = client.outbound_bytes, server.outbound_bytes, client.last_stream_id
        over = [n for n, call in self.calls.items() if call.answered and not call.refused]
        with pytest.raises(LocalError):
            server.open(b"", b"", [], 0)
        if not client.closed:
            with pytest.raises(LocalError):
                client.send(client.last_stream_id + 1, b"", b"", [], 0)
        if over and server.state is State.OPEN:
            stream = over[pick % len(over)]
            with pytest.raises(LocalError):
                server.send(stream, b"", b"", [], 0)
            with pytest.raises(LocalError):
                server.end(stream, Status.OK)
        assert before == (client.outbound_bytes, server.outbound_bytes, client.last_stream_id)

    # ---- bytes and time ----

    def both(self) -> tuple[tuple[End, End], tuple[End, End]]:
        """(end, other end), twice."""
        return (self.client, self.server), (self.server, self.client)

    @rule()
    def exchange(self) -> None:
        """All that waits arrives, once each way."""
        for up in (True, False):
            self.arrive(up, 1 << 30, [], True, "nothing", 0)

    @rule(
        up=st.booleans(),
        budget=st.sampled_from((0, 1, 20_000, 1 << 20)),
        reads=READS,
        rest=st.booleans(),
        between=st.sampled_from(("nothing", "nothing", "cancel", "end", "reply", "open")),
        pick=PICK,
    )
    def arrive(self, up: bool, budget: int, reads: list[int], rest: bool, between: str, pick: int) -> None:
        """The sender writes about so much, and the receiver reads; `between` happens while a read is on."""
        meanwhile: dict[str, Callable[[], None]] = {
            "cancel": lambda: self.cancel(pick),
            "end": lambda: self.end(pick, Status.INTERNAL, not_started=True),
            "reply": lambda: self.server_sends(pick, 0, last=True),
            "open": lambda: self.open(700, True, False, 0, 0, True),
        }
        target, source = (self.server, self.client) if up else (self.client, self.server)
        if budget:
            source.flush(budget)
        for n, most in enumerate([*reads, *([1 << 20] * 60 if rest else [])]):
            if not source.wire:
                break
            events = target.read(source, most, self.now, meanwhile.get(between) if n % 3 == pick % 3 else None)
            self.happened(target, source, events)
            target.poison()
            if target.connection.closed:
                source.wire.clear()  # nobody reads any more

    @rule(up=st.booleans(), size=st.sampled_from((1, 32, 500, 16_000, 1 << 20)))
    def give_up_within_a_chunk(self, up: bool, size: int) -> None:
        """An owner ends or cancels the very message whose chunk is being read, while the read is on."""
        target, source = (self.server, self.client) if up else (self.client, self.server)
        source.flush(1 << 20)
        while source.wire and not (target.connection.closed or target.connection.exact):
            self.happened(target, source, target.read(source, 5000, self.now, None))
            target.poison()
        current = target.connection._reader.current
        if current is not None and source.wire:
            stream = current.stream_id
            give_up = (lambda: self._end(stream, Status.INTERNAL)) if up else (lambda: self.cancel(stream - 1))
            known = stream in self.owed() if up else True
            self.happened(target, source, target.read(source, size, self.now, give_up if known else None))
            target.poison()
        if target.connection.closed:
            source.wire.clear()

    @rule(seconds=st.sampled_from((0.0,) + (0.01,) * 9 + (0.5, 4.9, 5.0)))
    def wait(self, seconds: float) -> None:
        """Time passes, and whatever is due by then fires."""
        self.now += seconds
        for end, other in self.both():
            moment, queued = end.connection.next_deadline(), end.connection.outbound_bytes
            busy = end.connection.open_streams > 0
            events = end.connection.handle_timeout(self.now)
            if moment is None or self.now < moment:
                assert (events, end.connection.outbound_bytes) == ([], queued), "a timer fired before its time"
            if events:
                shaking = end.shaking and self.now - self.start >= LIMITS.handshake_timeout
                assert shaking or (busy and self.now - end.last_byte >= LIMITS.ping_timeout), "TIMEOUT without cause"
                self.may_close = True
            self.happened(end, other, events)

    @precondition(lambda self: self.client.connection.closed and self.server.connection.closed)
    @rule(shaken=SHAKEN, eager=st.booleans())
    def anew(self, shaken: bool, eager: bool) -> None:
        """Another connection, once this one is buried."""
        self.teardown()
        self.connect(shaken, eager)

    # ---- what the owners hear ----

    def happened(self, end: End, other: End, events: list[Event]) -> None:
        """Events of one end: all of one read."""
        self.just_answered.clear()
        for event in events:
            (self.at_server if end.role is Role.SERVER else self.at_client)(event)
            end.take(event, other)

    def late(self, event: Event, stream: int) -> bool:
        """Whether the stream's end was given while the events of this same read were handed out."""
        assert not self.calls[stream].answered or stream in self.just_answered, f"{event} after the stream was ended"
        return self.calls[stream].answered

    def at_server(self, event: Event) -> None:
        """The server's owner hears of something."""
        if isinstance(event, Message):
            call = self.calls[event.stream_id]
            if self.late(event, event.stream_id):
                return
            assert event.seq == call.arrived, f"{event}: message {call.arrived} is due"
            size, last = call.sent[event.seq]
            assert bytes(event.body) == body(True, event.stream_id, event.seq, size), f"{event}: the body differs"
            assert event.flags == (call.flags if event.seq == 0 else last), f"{event}: flags"
            assert event.priority == call.priority
            if event.seq == 0:
                assert (event.aux, event.meta) == (call.deadline, b"meta %d" % event.stream_id)
                assert event.ext[: len(call.ext)] == call.ext
            call.arrived += 1
            call.at_server = True
            if event.stream_id > self.going and event.seq == 0:
                self._end(event.stream_id, Status.UNAVAILABLE, not_started=True)
            elif self.eager:  # as a server whose model runs at once
                self._reply(event.stream_id, 9, last=True)
        elif isinstance(event, Cancelled):
            assert self.calls[event.stream_id].cancelled
            if not self.late(event, event.stream_id):
                self._end(event.stream_id, Status.CANCELLED)
        elif isinstance(event, Refused):
            self.calls[event.stream_id].refused = True
            if not self.late(event, event.stream_id):
                self.calls[event.stream_id].answered = True
        elif isinstance(event, Authenticated):
            self.server.shaking = False
            self.asked = True
        else:
            assert isinstance(event, (MessageAborted, Pong)) or self.may_close, event

    def at_client(self, event: Event) -> None:
        """The client's owner hears of something."""
        if isinstance(event, Message):
            call = self.calls[event.stream_id]
            assert not call.over, f"{event} of a stream that is over"
            assert event.seq == call.heard, f"{event}: reply {call.heard} is due"
            size, last = call.replies[event.seq]
            assert bytes(event.body) == body(False, event.stream_id, event.seq, size), f"{event}: the body differs"
            assert (event.flags, event.priority, event.ext[: len(DIMS)]) == (last, call.priority, DIMS)
            call.heard += 1
            if last:
                self._outcome(event.stream_id)
        elif isinstance(event, Ended):
            call = self.calls[event.stream_id]
            assert not call.over, f"{event} of a stream that is over"
            assert call.answered
            assert not (event.not_started and (call.heard or event.status is Status.OK)), event
            self._outcome(event.stream_id)
        elif isinstance(event, Refused):  # the core has cancelled the call: its owner hears of it here
            call = self.calls[event.stream_id]
            assert not call.over
            call.cancelled = True
        elif isinstance(event, Ready):
            self.client.shaking = False
        elif isinstance(event, GoAway):
            self.told = True
        else:
            assert isinstance(event, (MessageAborted, Pong)) or self.may_close, event

    def _outcome(self, stream: int) -> None:
        self.calls[stream].done = True
        self.client.tap.over.add(stream)

    # ---- invariants ----

    @invariant()
    def check_tables(self) -> None:
        """Rule 8: what each end knows of itself makes sense."""
        for end, states in zip((self.client, self.server), OK_STATES, strict=True):
            core = end.connection
            streams, writer = core._streams, core._writer
            assert core.closed == (core.state is State.CLOSED)
            assert core.closed or core.state in states
            assert not streams.unary.keys() & streams.open.keys()
            assert all(1 <= n <= core.last_stream_id for n in (*streams.unary, *streams.open))
            for stream_id, stream in streams.open.items():
                assert stream.state is not StreamState.CLOSED
                assert stream.state is not StreamState.FINISHING or (
                    end.role is Role.SERVER and stream_id in writer.active
                )
            assert end.role is Role.CLIENT or core.open_streams <= LIMITS.max_streams
            assert not core.closed or (core.open_streams, core.next_deadline()) == (0, None)
            assert core.outbound_bytes == queued(end), "outbound_bytes is not the sum of what is queued"
            assert writer.active.keys() <= streams.open.keys() | streams.unary.keys()

    @invariant()
    def check_ends(self) -> None:
        """Rules 6 and 7."""
        for end, _ in self.both():
            assert end.memory.used >= 0
            assert end.closed is None or self.may_close, f"{end.role.name} saw {end.closed}"
            assert end.closed is None or end.closed.code in {
                ErrorCode.NO_ERROR, ErrorCode.SHUTDOWN, ErrorCode.TIMEOUT,
                ErrorCode.NOT_TENSORWIRE,  # bytes that end within the first header
            }, end.closed  # fmt: skip

    def teardown(self) -> None:
        """At rest: every byte has arrived, every owner has answered."""
        if not hasattr(self, "client"):
            return
        self.settle()
        self.ping(up=True)  # memory comes back with the next bytes: here they are
        self.ping(up=False)
        self.settle()
        broken = self.client.connection.closed or self.server.connection.closed
        for end, other in self.both():
            if broken:
                self.happened(end, other, end.connection.receive_eof(self.now))
            assert end.memory.used == 0, f"{end.memory.used} bytes are reserved at rest"
            assert end.connection.outbound_bytes == 0
            assert end.connection.open_streams == 0, f"{end.connection.open_streams} streams are open at rest"
            assert not end.connection._streams.open
            end.memory.check()
        for stream, call in self.calls.items():
            assert broken or call.done != call.cancelled, (
                f"stream {stream}: done {call.done} cancelled {call.cancelled}"
            )
            assert broken or stream in self.server.tap.ended, f"stream {stream} has had no terminal"

    def settle(self) -> None:
        """Move bytes and answer until nothing is under way."""
        for _ in range(200):
            self.accept()
            for end, other in self.both():
                end.flush(1 << 30)
                while end.wire and not other.connection.closed:
                    self.happened(other, end, other.read(end, 1 << 20, self.now, None))
                    other.poison()
            for stream in self.owed() if not self.server.connection.closed else ():
                self._end(stream, Status.INTERNAL)
            if self.quiet():
                return

    def quiet(self) -> bool:
        """Whether nothing is under way."""
        idle = all(not end.connection.outbound_bytes and (not end.wire or other.connection.closed)
                   for end, other in self.both())  # fmt: skip
        return idle and not self.owed() and not self.asked


def queued(end: End) -> int:
    """Bytes that wait in an end's writer, counted one by one."""
    writer = end.connection._writer
    total = sum(map(len, writer.handshake)) + sum(map(len, writer.control))
    for lane in writer.order:
        batches = [lane.small, *(batch for batch, _ in lane.full)]
        total += sum(memoryview(part).nbytes for batch in batches for part in batch)
    for outgoing in writer.active.values():
        total += outgoing.left
        for head, parts, _, behind in outgoing.waiting:
            total += len(head) + sum(memoryview(part).nbytes for part in parts)
            total += behind.left if behind is not None else 0
    return total
