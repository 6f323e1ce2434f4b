"""One connection, either role: handshake, control frames, and the calls of its owner (SPEC 6, 8 and 9).

Bytes and a clock in, events and buffers out; no I/O, no time of its own. Parsing is reader.py's, the order of
sending writer.py's, the states of streams streams.py's. Here they meet.

Between `next_buffer` and `received` the owner may call `cancel`, `end`, `send` and `open`: memory under a read is
given back by a MessageAborted of the next `received`, never sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from . import handshake
from .errors import ErrorCode, LocalError, ProtocolError, error_code
from .events import Authenticated, Cancelled, Closed, Ended, Event, GoAway, Pong, Ready, Refused
from .extension import checked_extension, insert_body_length
from .foreign import foreign_answer, printable_start
from .handshake import Hello, Welcome
from .header import (
    CANCEL,
    CONTROL_RULES,
    DATA,
    END,
    END_STREAM,
    HEADER,
    HEADER_SIZE,
    MORE,
    NOT_STARTED,
    OPEN,
    FrameType,
    Header,
    check_control,
    type_name,
)
from .limits import (
    INLINE_BODY,
    MAX_DETAIL,
    MAX_EXTENSION,
    MAX_METADATA,
    PREFACE,
    RECEIVE_BUFFER,
    Config,
    PeerLimits,
    Role,
)
from .reader import Handler, Reader, Refusal, Reserve
from .records import Buffer
from .status import Status
from .streams import TRANSITIONS, Action, Stream, Streams, StreamState
from .writer import Outgoing, Writer

_pack = HEADER.pack
_join = b"".join
_NUISANCE_WINDOW: Final = 10.0  # seconds


class State(IntEnum):
    """Where a connection stands; the names are those of SPEC 9.1."""

    PREFACE = 0  # server waits for the preface
    HELLO = 1  # server waits for HELLO
    WELCOME = 2  # client waits for WELCOME
    AUTH = 3  # server waits for AUTH
    READY = 4  # client waits for READY; server's owner has not accepted yet
    OPEN = 5
    CLOSED = 6


_T = FrameType
_ALWAYS: Final = frozenset((_T.CLOSE,))
_FROM_CLIENT: Final = frozenset((_T.OPEN, _T.DATA, _T.CANCEL, _T.PING, _T.CLOSE))
# (role of the receiver, state) -> types that may arrive. A type in no row is unknown.
RECEIVES: Final[dict[tuple[Role, State], frozenset[FrameType]]] = {
    (Role.SERVER, State.HELLO): frozenset((_T.HELLO, _T.CLOSE)),
    (Role.SERVER, State.AUTH): frozenset((_T.AUTH, _T.CLOSE)),
    (Role.SERVER, State.READY): _FROM_CLIENT,
    (Role.SERVER, State.OPEN): _FROM_CLIENT | {_T.PONG},
    (Role.CLIENT, State.WELCOME): frozenset((_T.WELCOME, _T.CLOSE)),
    (Role.CLIENT, State.READY): frozenset((_T.READY, _T.CLOSE)),
    (Role.CLIENT, State.OPEN): frozenset((_T.DATA, _T.END, _T.PING, _T.PONG, _T.GOAWAY, _T.CLOSE)),
}
_BUILT: Final = frozenset().union(*RECEIVES.values())


def _own_memory(
    _stream_id: int, _flags: int, _priority: int, _aux: int, _ext: bytes, _meta: bytes, body_length: int
) -> memoryview | Refusal:
    """`reserve` of an owner that gave none: ordinary memory, whatever is asked up to `max_message`."""
    try:
        return memoryview(bytearray(body_length))
    except (MemoryError, OverflowError):
        return Refusal(Status.RESOURCE_EXHAUSTED, f"there is no memory for a body of {body_length} bytes")


class Connection(Handler):
    """The protocol core of one connection.

    nonce: 32 random bytes, fresh. now: seconds on any monotonic clock, the same in all calls. reserve: see `Reserve`.
    receive_buffer: writable, at least RECEIVE_BUFFER bytes; may be shared by all connections of one loop, since between
    calls nothing of this connection lives in it. connection_id (8 bytes) and boot_id (16): the server's; a client
    learns them.
    """

    __slots__ = (
        "_accepted_goaway", "_deadline", "_goaway", "_greeting", "_last_received", "_nuisances", "_ping_sent",
        "_preface", "_reader", "_streams", "_window_start", "_writer", "boot_id", "closed", "config", "connection_id",
        "features", "hello", "nonce", "peer_limits", "role", "state", "version", "welcome",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        *,
        nonce: bytes,
        now: float,
        reserve: Reserve | None = None,
        receive_buffer: memoryview | None = None,
        connection_id: bytes = b"",
        boot_id: bytes = b"",
    ) -> None:
        server = config.role is Role.SERVER
        if len(nonce) != 32 or (server and (len(connection_id) != 8 or len(boot_id) != 16)):
            raise ValueError("nonce is 32 bytes; a server's connection_id is 8 bytes and its boot_id 16")
        if set(config.mac_algorithms) - set(handshake.BUILT_MACS):
            raise ValueError(f"mac_algorithms {config.mac_algorithms}: only {handshake.BUILT_MACS} are built")
        buffer = memoryview(bytearray(262144)) if receive_buffer is None else receive_buffer
        if buffer.readonly or buffer.nbytes < RECEIVE_BUFFER or buffer.format != "B":
            raise ValueError(f"receive_buffer must be {RECEIVE_BUFFER} writable bytes or more, it is {buffer.nbytes}")
        limits = config.limits
        self.config = config
        self.role = config.role
        self.nonce = nonce
        self.state = State.PREFACE if server else State.WELCOME
        self.closed = False
        self.version = 0
        self.features: tuple[int, ...] = ()
        self.peer_limits = PeerLimits()
        self.connection_id = connection_id
        self.boot_id = boot_id
        self.hello: Hello | None = None
        self.welcome: Welcome | None = None
        self._streams = Streams(client=not server)
        self._writer = Writer(fifo=not server, finished=self._written)
        self._reader = Reader(
            self, self._streams, buffer, reserve or _own_memory, limits.max_streams if server else 0, limits.max_message
        )
        self._preface = b""
        self._deadline: float | None = now + limits.handshake_timeout
        self._last_received = now
        self._ping_sent: float | None = None
        self._goaway: int | None = None  # last stream id of the last GOAWAY, sent (server) or received (client)
        self._nuisances = 0
        self._window_start = now
        if not server:
            self._writer.greet(PREFACE)
            self._writer.greet(_frame(_T.HELLO, meta=handshake.pack_hello(config, nonce)))

    # ---- what the owner may look at ----

    @property
    def outbound_bytes(self) -> int:
        """Bytes queued and not yet handed over by `data_to_send`."""
        return self._writer.nbytes

    @property
    def open_streams(self) -> int:
        """Number of streams without terminal."""
        return len(self._streams)

    @property
    def last_stream_id(self) -> int:
        """Highest stream id opened so far; 0 before the first."""
        return self._streams.last_id

    def request_id(self, stream_id: int) -> str:
        """The name of a call that both sides show in errors and logs (SPEC 19.5)."""
        return f"{self.connection_id.hex()}-{stream_id}"

    # ---- receiving ----

    def next_buffer(self) -> memoryview:
        """Writable memory for the next read, never empty; idempotent until `received`."""
        return self._reader.next_buffer()

    @property
    def exact(self) -> bool:
        """Whether the peer owes every byte of `next_buffer`, so that a blocking read may wait for all of them."""
        return self._reader.exact

    def received(self, n: int, now: float) -> list[Event]:
        """Events of `n` bytes written to the memory of `next_buffer`. Bad bytes give Closed, never an exception."""
        events: list[Event] = []
        if self.closed:
            self._reader.abort_all(events)
            return events
        self._last_received = now
        self._ping_sent = None
        try:
            if self.state is State.PREFACE:
                self._receive_preface(n, events)
            else:
                self._reader.received(n, events)
        except ProtocolError as error:
            self._fail(error.code, error.message, events)
        return events

    def receive_eof(self, now: float) -> list[Event]:  # noqa: ARG002 - the clock is part of every call
        """The peer sends no more: without CLOSE before it, calls without terminal have an unknown outcome."""
        events: list[Event] = []
        if self.closed:
            self._reader.abort_all(events)
            return events
        within = self._reader.partial or bool(self._preface)
        detail = "truncated: the connection ended within a frame" if within else "the connection ended without CLOSE"
        self._over(ErrorCode.NO_ERROR, detail, events, remote=True, frame=None)
        return events

    # ---- sending ----

    def data_to_send(self, budget: int = 1 << 20) -> list[Buffer]:
        """The next buffers to write: whole frames, about `budget` bytes in all; [] if there is nothing."""
        return self._writer.data_to_send(budget)

    # ---- time ----

    def next_deadline(self) -> float | None:
        """When `handle_timeout` wants to be called, by the owner's clock; None = never."""
        if self.closed:
            return None
        if self._deadline is not None:
            return self._deadline
        limits = self.config.limits
        if not limits.ping_interval or not len(self._streams):
            return None
        if self._ping_sent is not None:
            return self._ping_sent + limits.ping_timeout
        return self._last_received + limits.ping_interval

    def handle_timeout(self, now: float) -> list[Event]:
        """Act on deadlines that have passed: close a silent peer, or ask whether it lives."""
        events: list[Event] = []
        moment = self.next_deadline()
        if moment is None or now < moment:
            return events
        if self._deadline is not None:
            text = f"the handshake took longer than {self.config.limits.handshake_timeout:g} s, state {self.state.name}"
            self._fail(ErrorCode.TIMEOUT, text, events)
        elif self._ping_sent is None:
            self._ping_sent = now
            self.ping(b"\0" * 8)
        else:
            self._fail(ErrorCode.TIMEOUT, f"no byte for {now - self._last_received:g} s while calls are open", events)
        return events

    # ---- the client's calls ----

    def open(
        self,
        meta: bytes,
        ext: bytes,
        body: Sequence[Buffer],
        body_length: int,
        flags: int = END_STREAM,
        priority: int = 0,
        deadline_us: int = 0,
    ) -> int:
        """Open a stream with its first message and return its id; before Ready it is held and sent right after AUTH.

        body: flat byte buffers of body_length bytes in all, not copied. deadline_us: remaining time, 0 = none.
        Raises LocalError after GOAWAY or when closed.
        """
        if self.closed or self._goaway is not None or self.role is not Role.CLIENT:
            raise LocalError("no stream can be opened: the connection is closed, draining, or a server's")
        streams = self._streams
        stream_id = streams.last_id + 1
        if body_length <= INLINE_BODY:
            meta_len, ext_len = len(meta), len(ext)
            if meta_len > MAX_METADATA or ext_len > MAX_EXTENSION:
                raise _too_long(meta_len, ext_len)
            length = meta_len + ext_len + body_length
            header = _pack(length, OPEN, priority, flags, stream_id, 0, deadline_us, meta_len, ext_len, 0)
            self._writer.small(stream_id, priority, _join((header, ext, meta)), body, HEADER_SIZE + length)
            if flags & END_STREAM:
                streams.unary[stream_id] = priority
            else:
                streams.open[stream_id] = Stream(StreamState.OPEN, priority, 0, 1)
        else:
            self._large(OPEN, stream_id, 0, flags, priority, deadline_us, meta, ext, body, body_length)
            state = StreamState.HALF_CLOSED if flags & END_STREAM else StreamState.OPEN
            streams.open[stream_id] = Stream(state, priority, 0, 1)
        streams.last_id = stream_id
        return stream_id

    def cancel(self, stream_id: int) -> None:
        """Give a stream up (client); idempotent. Nothing more of it is reported; it stays open until its terminal."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is StreamState.CANCELLED:
            return
        stream.state = TRANSITIONS[stream.state, Action.CANCEL]
        self._reader.abort(stream_id)
        self._writer.drop(stream_id)
        self._writer.small(stream_id, 0, _frame(CANCEL, stream_id=stream_id), (), HEADER_SIZE)

    # ---- both sides' calls ----

    def send(
        self,
        stream_id: int,
        meta: bytes,
        ext: bytes,
        body: Sequence[Buffer],
        body_length: int,
        flags: int = END_STREAM,
    ) -> None:
        """Send the next message of an open stream; from the server END_STREAM ends the call with success.

        body: as for `open`. Raises LocalError if the stream is not open for it.
        """
        priority = self._streams.unary.get(stream_id, -1)
        if priority >= 0 and flags == END_STREAM and body_length <= INLINE_BODY and self.role is Role.SERVER:
            meta_len, ext_len = len(meta), len(ext)
            if meta_len > MAX_METADATA or ext_len > MAX_EXTENSION or self.state is not State.OPEN:
                raise _too_long(meta_len, ext_len) if self.state is State.OPEN else LocalError("accept() comes first")
            del self._streams.unary[stream_id]
            length = meta_len + ext_len + body_length
            header = _pack(length, DATA, priority, END_STREAM, stream_id, 0, 0, meta_len, ext_len, 0)
            self._writer.small(stream_id, priority, _join((header, ext, meta)), body, HEADER_SIZE + length)
            return
        self._send(stream_id, meta, ext, body, body_length, flags)

    def _send(
        self, stream_id: int, meta: bytes, ext: bytes, body: Sequence[Buffer], body_length: int, flags: int
    ) -> None:
        """Any message but a small unary reply."""
        if self.closed:
            return
        server = self.role is Role.SERVER
        if server and self.state is not State.OPEN:
            raise LocalError("accept() comes first")
        last = flags & END_STREAM
        if server:
            action = Action.TERMINAL if last else Action.REPLY
        else:
            action = Action.LAST_MESSAGE if last else Action.MESSAGE
        stream = self._streams.get(stream_id)
        state = None if stream is None else TRANSITIONS.get((stream.state, action))
        if stream is None or state is None or stream.state is StreamState.FINISHING:
            where = "not open" if stream is None else stream.state.name.lower()
            raise LocalError(f"stream {stream_id} is {where}: {action.name.lower()} cannot be sent")
        seq, priority = stream.sent, stream.priority
        if body_length <= INLINE_BODY:
            if len(meta) > MAX_METADATA or len(ext) > MAX_EXTENSION:
                raise _too_long(len(meta), len(ext))
            length = len(meta) + len(ext) + body_length
            header = _pack(length, DATA, priority, last, stream_id, seq, 0, len(meta), len(ext), 0)
            self._writer.small(stream_id, priority, _join((header, ext, meta)), body, HEADER_SIZE + length)
        else:
            self._large(DATA, stream_id, seq, last, priority, 0, meta, ext, body, body_length)
        stream.sent = seq + 1
        self._move(stream_id, stream, state)

    def _move(self, stream_id: int, stream: Stream, state: StreamState) -> None:
        """Take a stream to the state that our own frame leads to."""
        if state is StreamState.CLOSED:
            self._reader.abort(stream_id)
            if stream_id in self._writer.active:
                state = StreamState.FINISHING  # until `_written`
            else:
                del self._streams.open[stream_id]
        stream.state = state

    def _written(self, stream_id: int) -> None:
        """The last chunk of a stream, and what waited behind it, is handed over."""
        stream = self._streams.open.get(stream_id)
        if stream is not None and stream.state is StreamState.FINISHING:
            del self._streams.open[stream_id]

    def _large(
        self,
        kind: int,
        stream_id: int,
        seq: int,
        flags: int,
        priority: int,
        aux: int,
        meta: bytes,
        ext: bytes,
        body: Sequence[Buffer],
        body_length: int,
    ) -> None:
        """Queue a message above INLINE_BODY: first frame, then chunks as the writer's turn comes."""
        outgoing = Outgoing(stream_id, seq, flags & END_STREAM, priority, body, body_length)
        ext = insert_body_length(ext, body_length)
        if len(meta) > MAX_METADATA or len(ext) > MAX_EXTENSION:
            raise _too_long(len(meta), len(ext))
        length = len(meta) + len(ext)
        header = _pack(length, kind, priority, flags | MORE, stream_id, seq, aux, len(meta), len(ext), 0)
        self._writer.large(_join((header, ext, meta)), outgoing)

    def ping(self, payload: bytes) -> None:
        """Queue a PING of 8 bytes; the answer is a Pong event."""
        if len(payload) != 8:
            raise ValueError(f"a PING carries 8 bytes, not {len(payload)}")
        if not self.closed:
            self._writer.urgent(_frame(_T.PING, body=payload))

    def close(self, code: ErrorCode, detail: str = "") -> None:
        """Queue CLOSE behind the whole frames that are queued; chunked messages are dropped. Idempotent.

        Memory reserved for unfinished messages is given back by MessageAborted of the next `received` or `receive_eof`.
        """
        if not self.closed:
            self._shut(_text_frame(_T.CLOSE, 0, code, detail))

    # ---- the server's calls ----

    def accept(self, ready_payload: bytes) -> None:
        """Answer Authenticated with READY; ready_payload is a msgpack map."""
        if self.role is not Role.SERVER or self.state is not State.READY:
            raise LocalError(f"accept() answers Authenticated; the state is {self.state.name}")
        if not 0 < len(ready_payload) <= MAX_METADATA:
            raise LocalError(f"READY carries 1 to {MAX_METADATA} bytes, not {len(ready_payload)}")
        self.state = State.OPEN
        self._writer.greet(_frame(_T.READY, meta=ready_payload))
        self._writer.held = False

    def end(
        self, stream_id: int, status: Status | int, detail: str = "", not_started: bool = False, ext: bytes = b""
    ) -> None:
        """End a stream with a status; unsent chunks of its replies are dropped. Raises LocalError if it is not open."""
        if self.closed:
            return
        stream = self._streams.get(stream_id)
        if stream is None or stream.state is StreamState.FINISHING or self.role is not Role.SERVER:
            raise LocalError(f"stream {stream_id} has no terminal to come")
        self._end(stream_id, stream, status, detail, not_started, ext)

    def _end(
        self, stream_id: int, stream: Stream, status: Status | int, detail: str, not_started: bool, ext: bytes
    ) -> None:
        self._reader.abort(stream_id)
        self._writer.drop(stream_id)
        del self._streams.open[stream_id]
        # SPEC 6.5: a call that has sent a reply, or that succeeded, has started.
        flags = NOT_STARTED if not_started and status and not stream.sent else 0
        text = _detail_bytes(detail)
        frame = _frame(END, stream_id=stream_id, flags=flags, aux=int(status), ext=ext, meta=text)
        self._writer.small(stream_id, stream.priority, frame, (), len(frame))

    def goaway(self, last_stream_id: int, code: ErrorCode, detail: str = "") -> None:
        """Tell the client that streams above `last_stream_id` will not be served (2^64-1: only open no new ones)."""
        if self.closed or self.state is not State.OPEN:
            return
        if self._goaway is not None and last_stream_id > self._goaway:
            raise LocalError(f"GOAWAY named stream {self._goaway} before; it cannot rise to {last_stream_id}")
        self._goaway = last_stream_id
        self._writer.urgent(_text_frame(_T.GOAWAY, last_stream_id, code, detail))

    # ---- Handler: what the reader asks ----

    def check_control(self, header: Header) -> None:
        """Type, direction and state, then the fields, in the order of SPEC 3.2."""
        kind = header[1]
        allowed = RECEIVES[self.role, self.state]
        if self.state is State.WELCOME and kind not in allowed and kind not in _BUILT:
            raise ProtocolError(
                ErrorCode.NOT_TENSORWIRE,
                f"the peer is no tensorwire server: it sent {printable_start(HEADER.pack(*header))}",
            )
        if kind not in _BUILT:
            raise ProtocolError(ErrorCode.FRAME, f"{type_name(kind)}: unknown, or not negotiated")
        if kind not in allowed:
            text = (
                f"{type_name(kind)}: not allowed from the {Role(1 - self.role).name.lower()} in state {self.state.name}"
            )
            raise ProtocolError(ErrorCode.PROTOCOL, text)
        check_control(CONTROL_RULES[kind], header)
        if kind in {CANCEL, END} and not 0 < header[4] <= self._streams.last_id:
            raise ProtocolError(ErrorCode.STREAM, f"{type_name(kind)}: stream {header[4]} was never opened")

    def control(self, header: Header, ext: bytes, meta: bytes, body: bytes, events: list[Event]) -> bool:
        """Act on a whole control frame whose header was checked."""
        kind = header[1]
        if kind == CANCEL:
            self._on_cancel(header[4], events)
        elif kind == END:
            self._on_end(header, ext, meta, events)
        elif kind == _T.PING:
            self._on_ping(body)
        elif kind == _T.PONG:
            events.append(Pong(body))
        elif kind == _T.GOAWAY:
            self._on_goaway(header, meta, events)
        elif kind == _T.CLOSE:
            self._over(error_code(header[6]), _text(meta), events, remote=True, frame=None)
            return False
        else:
            self._on_handshake(kind, meta, events)
        return True

    def refuse(self, stream_id: int, refusal: Refusal, events: list[Event]) -> None:
        """A message that no memory is given to: END (server) or CANCEL (client), and its chunks are dropped as late."""
        if self.role is Role.CLIENT:
            self.cancel(stream_id)
        else:
            stream = self._streams.get(stream_id) or Stream(StreamState.OPEN, 0, 1, 0)
            self._streams.open[stream_id] = stream
            self._end(stream_id, stream, refusal.status, refusal.message, stream.received <= 1, b"")
            self.nuisance()
        events.append(Refused(stream_id, refusal.status))

    def nuisance(self) -> None:
        """Count a late or refused frame."""
        limits = self.config.limits
        if self._last_received - self._window_start > _NUISANCE_WINDOW:
            self._window_start = self._last_received
            self._nuisances = 0
        self._nuisances += 1
        if self._nuisances > limits.max_nuisance:
            raise ProtocolError(ErrorCode.CALM, f"more than {limits.max_nuisance} late or refused frames in 10 s")

    # ---- control frames ----

    def _on_cancel(self, stream_id: int, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self.nuisance()
            return
        if stream.state is StreamState.FINISHING:  # the owner has done its part: the terminal becomes END
            self._end(stream_id, stream, Status.CANCELLED, "cancelled by the client", not_started=False, ext=b"")
            return
        first = stream.state is not StreamState.CANCELLED
        self._streams.peer_acts(stream_id, stream, Action.CANCEL)
        if first:
            self._reader.abort(stream_id, events)
            events.append(Cancelled(stream_id))
        else:
            self.nuisance()

    def _on_end(self, header: Header, ext: bytes, meta: bytes, events: list[Event]) -> None:
        flags, stream_id, number = header[3], header[4], header[6]
        stream = self._streams.get(stream_id)
        if stream is None:
            raise ProtocolError(ErrorCode.STREAM, f"END of stream {stream_id} after its terminal")
        if number > Status.UNAUTHENTICATED:
            raise ProtocolError(ErrorCode.FRAME, f"END: status {number} is none of 0 to 16")
        # A cancelled stream's replies are dropped uncounted, so there NOT_STARTED cannot be judged by them.
        if flags and (number == 0 or stream.received):
            raise ProtocolError(ErrorCode.FRAME, "END: NOT_STARTED beside OK or after a reply")
        if ext:
            checked_extension(END, ext)
        cancelled = stream.state is StreamState.CANCELLED
        self._reader.abort(stream_id, events)
        self._writer.drop(stream_id)
        self._streams.peer_acts(stream_id, stream, Action.TERMINAL)
        if not cancelled:
            events.append(Ended(stream_id, Status(number), bool(flags), _text(meta), ext))

    def _on_ping(self, body: bytes) -> None:
        self._writer.urgent(_frame(_T.PONG, body=body))
        if self._writer.control_bytes > self.config.limits.max_control:
            raise ProtocolError(
                ErrorCode.CALM, f"{self._writer.control_bytes} bytes of answers wait unread; send fewer PINGs, or read"
            )

    def _on_goaway(self, header: Header, meta: bytes, events: list[Event]) -> None:
        last = header[4]
        if self._goaway is not None and last > self._goaway:
            raise ProtocolError(ErrorCode.STREAM, f"GOAWAY names stream {last} after {self._goaway}")
        self._goaway = last
        events.append(GoAway(last, error_code(header[6]), _text(meta)))

    # ---- handshake ----

    def _receive_preface(self, n: int, events: list[Event]) -> None:
        """The client's first bytes (SPEC 2 and 10)."""
        reader = self._reader
        first = self._preface + reader.next_buffer()[:n].tobytes()
        answer = foreign_answer(first)
        if answer is not None:
            line, detail = answer
            self._over(ErrorCode.NOT_TENSORWIRE, detail, events, remote=False, frame=line)
            return
        if len(first) < len(PREFACE) or not first.startswith(PREFACE):
            self._preface = first
            return
        self._preface = b""
        self.state = State.HELLO
        rest = first[len(PREFACE) :]
        buffer = reader.next_buffer()
        buffer[: len(rest)] = rest
        reader.received(len(rest), events)

    def _on_handshake(self, kind: int, meta: bytes, events: list[Event]) -> None:
        if kind == _T.HELLO:
            self.hello = hello = handshake.parse_hello(meta)
            choice = handshake.choose(self.config, hello)
            self._agree(choice[0], choice[1], hello.limits)
            welcome = handshake.pack_welcome(self.config, self.nonce, self.connection_id, self.boot_id, choice)
            self._writer.greet(_frame(_T.WELCOME, meta=welcome))
            self.state = State.AUTH
        elif kind == _T.WELCOME:
            self.welcome = answer = handshake.parse_welcome(meta)
            handshake.check_welcome(self.config, answer)
            self._agree(answer.version, answer.features, answer.limits)
            self.connection_id = answer.connection_id
            self.boot_id = answer.boot_id
            self._writer.greet(_frame(_T.AUTH))
            self._writer.held = False
            self.state = State.READY
        elif kind == _T.AUTH:
            handshake.parse_entries(meta)
            self._deadline = None
            self.state = State.READY
            self._reader.ready()
            if self.hello is not None:
                events.append(Authenticated(self.hello))
        else:
            if not meta:
                raise ProtocolError(ErrorCode.HANDSHAKE, "READY: the payload is missing")
            self._deadline = None
            self.state = State.OPEN
            self._reader.ready()
            events.append(Ready(meta))

    def _agree(self, version: int, features: tuple[int, ...], limits: PeerLimits) -> None:
        self.version = version
        self.features = features
        self.peer_limits = limits
        self._reader.chunk = self._writer.chunk = min(limits.chunk, self.config.limits.chunk)

    # ---- the end ----

    def _fail(self, code: ErrorCode, detail: str, events: list[Event]) -> None:
        """The peer broke a rule, or was too slow: tell it, unless it would not understand."""
        if code is ErrorCode.NOT_TENSORWIRE or self.state is State.PREFACE:
            self._over(code, detail, events, remote=False, frame=None)
        else:
            self._over(code, detail, events, remote=False, frame=_text_frame(_T.CLOSE, 0, code, detail))

    def _over(self, code: ErrorCode, detail: str, events: list[Event], *, remote: bool, frame: bytes | None) -> None:
        self._shut(frame)
        if remote:
            self._writer.finish(None)
        self._reader.abort_all(events)
        events.append(Closed(code, detail, remote))

    def _shut(self, frame: bytes | None) -> None:
        self.closed = True
        self.state = State.CLOSED
        self._deadline = None
        self._streams.clear()
        self._writer.finish(frame)


# ---- frames of our own ----


def _frame(
    kind: int,
    *,
    stream_id: int = 0,
    flags: int = 0,
    aux: int = 0,
    ext: bytes = b"",
    meta: bytes = b"",
    body: bytes = b"",
) -> bytes:
    """A whole control frame."""
    length = len(ext) + len(meta) + len(body)
    return _join((_pack(length, kind, 0, flags, stream_id, 0, aux, len(meta), len(ext), 0), ext, meta, body))


def _text_frame(kind: int, stream_id: int, code: int, detail: str) -> bytes:
    return _frame(kind, stream_id=stream_id, aux=code, meta=_detail_bytes(detail))


def _detail_bytes(detail: str) -> bytes:
    """UTF-8 of at most MAX_DETAIL bytes, cut between characters."""
    raw = detail.encode("utf-8", "replace")
    return raw if len(raw) <= MAX_DETAIL else raw[:MAX_DETAIL].decode("utf-8", "ignore").encode()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _too_long(meta_len: int, ext_len: int) -> LocalError:
    return LocalError(
        f"{meta_len} bytes of metadata and {ext_len} of extension; at most {MAX_METADATA} and {MAX_EXTENSION}"
    )
