"""What the peer's control frames do to a connection: handshake, cancel, end, ping, goaway, close (SPEC 6, 9 and 10).

The middle of a connection: above calls.py, whose streams it ends, and below connection.py. Here it is also decided
that a connection is over, and what the peer is told then.
"""

from __future__ import annotations

from typing import Final

from . import handshake
from .assembly import Reserve
from .calls import Calls
from .errors import ErrorCode, ProtocolError, error_code
from .events import Authenticated, Cancelled, Closed, Ended, Event, GoAway, Pong, Ready
from .extension import checked_extension
from .foreign import foreign_answer, foreign_server
from .handshake import Hello
from .header import CANCEL, CONTROL_RULES, END, HEADER, FrameType, Header, check_control, type_name
from .limits import PREFACE, UNKNOWN_LIMITS, Config, PeerLimits, Role
from .outframes import control_frame, text_frame
from .states import BUILT, RECEIVES, State
from .status import Status
from .streams import Action, StreamState

_T = FrameType
_NUISANCE_WINDOW: Final = 10.0  # seconds


class Control(Calls):
    """What a connection does by itself when control frames arrive."""

    __slots__ = (
        "_deadline", "_hello", "_last_received", "_nonce", "_nuisances", "_preface", "_window_start", "boot_id",
        "connection_id", "features", "peer_limits", "version",
    )  # fmt: skip

    def __init__(
        self,
        config: Config,
        nonce: bytes,
        now: float,
        reserve: Reserve,
        buffer: memoryview,
        connection_id: bytes,
        boot_id: bytes,
    ) -> None:
        super().__init__(config, buffer, reserve)
        self.version = 0
        self.features: tuple[int, ...] = ()
        self.peer_limits = UNKNOWN_LIMITS
        self.connection_id = connection_id
        self.boot_id = boot_id
        self._nonce = nonce
        self._hello: Hello | None = None  # from HELLO to AUTH
        self._preface = b""
        self._deadline: float | None = now + config.limits.handshake_timeout
        self._last_received = now
        self._nuisances = 0
        self._window_start = now
        if config.role is Role.CLIENT:
            self._writer.greet(PREFACE)
            self._writer.greet(control_frame(_T.HELLO, meta=handshake.pack_hello(config, nonce)))

    # ---- Handler: what the reader asks ----

    def check_control(self, header: Header) -> None:
        """Type, direction and state, then the fields, in the order of SPEC 3.2."""
        kind = header[1]
        allowed = RECEIVES[self.role, self.state]
        if self.state is State.WELCOME:
            self._check_server(HEADER.pack(*header))
        if kind not in BUILT:
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
            self._owe(control_frame(_T.PONG, body=body))
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
        if not first.startswith(PREFACE):
            self._preface = first
            return
        self._preface = b""
        self.state = State.HELLO
        rest = first[len(PREFACE) :]
        buffer = reader.next_buffer()
        buffer[: len(rest)] = rest
        reader.received(len(rest), events)

    def _check_server(self, first: bytes) -> None:
        """The server's first bytes; raises ProtocolError (NOT_TENSORWIRE) (SPEC 10.4)."""
        wrong = foreign_server(first)
        if wrong is not None:
            raise ProtocolError(ErrorCode.NOT_TENSORWIRE, wrong)

    def _on_handshake(self, kind: int, meta: bytes, events: list[Event]) -> None:
        if kind == _T.HELLO:
            self._hello = hello = handshake.parse_hello(meta)
            choice = handshake.choose(self.config, hello)
            self._agree(choice[0], choice[1], hello.limits)
            welcome = handshake.pack_welcome(self.config, self._nonce, self.connection_id, self.boot_id, choice)
            self._writer.greet(control_frame(_T.WELCOME, meta=welcome))
            self.state = State.AUTH
        elif kind == _T.WELCOME:
            answer = handshake.parse_welcome(meta)
            handshake.check_welcome(self.config, answer)
            self._agree(answer.version, answer.features, answer.limits)
            self.connection_id = answer.connection_id
            self.boot_id = answer.boot_id
            self._writer.greet(control_frame(_T.AUTH))
            self._writer.held = False
            self.state = State.READY
        elif kind == _T.AUTH:
            handshake.parse_entries(meta)
            self._deadline = None
            self.state = State.READY
            self._reader.ready()
            if self._hello is not None:
                events.append(Authenticated(self._hello))
                self._hello = None
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
            self._over(code, detail, events, remote=False, frame=text_frame(_T.CLOSE, 0, code, detail))

    def _over(self, code: ErrorCode, detail: str, events: list[Event], *, remote: bool, frame: bytes | None) -> None:
        self._shut(frame)
        self._reader.abort_all(events)
        events.append(Closed(code, detail, remote))

    def _shut(self, frame: bytes | None) -> None:
        self.closed = True
        self.state = State.CLOSED
        self._deadline = None
        self._streams.clear()
        self._writer.finish(frame)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
