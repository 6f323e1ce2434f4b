"""What the peer's control frames do to a connection: handshake, cancel, end, ping, goaway, close (SPEC 6, 9 and 10).

The middle of a connection: above calls.py, whose streams it ends, and below connection.py. Here it is also decided
that a connection is over, and what the peer is told then.
"""

from __future__ import annotations

from functools import lru_cache
from hmac import compare_digest
from typing import Final

from . import handshake
from .assembly import Reserve
from .calls import Calls
from .errors import ErrorCode, ProtocolError, error_code
from .events import Authenticated, Cancelled, Closed, Ended, Event, GoAway, Pong, Ready
from .frame_builder import control_frame, text_frame
from .frame_rules import rules_for
from .handshake import Hello, Welcome
from .header import CANCEL, END, HEADER, FrameType, Header, check_control, type_name
from .limits import PREFACE, UNKNOWN_LIMITS, Config, PeerLimits, Role
from .peer_detection import answer_foreign_client, explain_foreign_server
from .record_reader import RecordReader
from .records import SignedRecords
from .signing import (
    CLIENT_RECORD,
    NO_PROOF,
    PROOF_SIZE,
    SERVER_RECORD,
    KeySchedule,
    SecretOf,
    make_mac,
    transcript,
)
from .states import Action, State, StreamState
from .status import Status

_T = FrameType
_ABUSE_WINDOW: Final = 10.0  # seconds

# One answer to whoever cannot authenticate, whatever is wrong (SPEC 11.4).
AUTH_REFUSED: Final = (
    "authentication: unknown key, wrong secret, or a key that is not valid now; check both with whoever runs the server"
)
KEYS_NOT_TAKEN: Final = "authentication: this server has no keys and takes callers without one only; call without a key"
SERVER_NOT_PROVEN: Final = (
    "authentication: the server's proof does not fit this key: it does not know the key id, or has another secret for"
    " it, or the key is not valid now, or somebody in between changes what is sent"
)


@lru_cache(maxsize=64)
def _interned(features: tuple[int, ...], limits: PeerLimits) -> tuple[tuple[int, ...], PeerLimits]:
    """Return the same two objects for all connections that agree on the same: most do, and idle ones are many."""
    return features, limits


class Control(Calls):
    """What a connection does by itself when control frames arrive."""

    __slots__ = (
        "_abuse_count",
        "_binding",
        "_deadline",
        "_hello",
        "_hello_frame",
        "_keys",
        "_last_received",
        "_nonce",
        "_preface",
        "_secret_of",
        "_valid",
        "_window_start",
        "boot_id",
        "connection_id",
        "features",
        "mac",
        "peer_limits",
        "version",
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
        secret_of: SecretOf | None,
        binding: bytes,
    ) -> None:
        super().__init__(config, buffer, reserve)
        self.mac = "none"
        self._secret_of = secret_of
        self._binding = binding
        self._keys: KeySchedule | None = None  # server: from HELLO with a key to AUTH
        self._valid = False
        self._hello_frame = b""  # client: until WELCOME
        self.version = 0
        self.features: tuple[int, ...] = ()
        self.peer_limits = UNKNOWN_LIMITS
        self.connection_id = connection_id
        self.boot_id = boot_id
        self._nonce = nonce
        self._hello: Hello | None = None  # from HELLO to AUTH
        self._preface = b""
        self._deadline: float | None = now + config.limits.handshake_timeout  # guard: silent-connection
        self._last_received = now
        self._abuse_count = 0
        self._window_start = now
        if config.role is Role.CLIENT:
            self._writer.queue_handshake(PREFACE)
            self._hello_frame = control_frame(_T.HELLO, meta=handshake.pack_hello(config, nonce))
            self._writer.queue_handshake(self._hello_frame)

    # ---- Handler: what the reader asks ----

    def check_control(self, header: Header) -> None:
        """Check type, direction and state, then the fields, in the order of SPEC 3.2."""
        kind = header[1]
        rules = self._reader.rules
        allowed = rules.receives[self.role, self.state]
        if self.state is State.WELCOME:
            self._check_server(HEADER.pack(*header))
        if kind not in rules.known_types:
            raise ProtocolError(ErrorCode.FRAME, f"{type_name(kind)}: unknown, or not negotiated")
        if kind not in allowed:  # guard: unknown-in-state
            text = (
                f"{type_name(kind)}: not allowed from the {Role(1 - self.role).name.lower()} in state {self.state.name}"
            )
            raise ProtocolError(ErrorCode.PROTOCOL, text)
        check_control(rules.control[kind], header)
        if kind in {CANCEL, END} and not 0 < header[4] <= self._streams.last_id:  # guard: stream-id-never-opened
            raise ProtocolError(ErrorCode.STREAM, f"{type_name(kind)}: stream {header[4]} was never opened")
        if kind == END:
            self._streams.ending(header[4])

    def control(self, header: Header, ext: bytes, meta: bytes, body: bytes, events: list[Event]) -> bool:
        """Act on a whole control frame whose header was checked."""
        kind = header[1]
        if kind == CANCEL:
            self._on_cancel(header[4], events)
        elif kind == END:
            self._on_end(header, ext, meta, events)
        elif kind == _T.PING:
            self._queue_control_reply(control_frame(_T.PONG, body=body))
        elif kind == _T.PONG:
            events.append(Pong(body))
        elif kind == _T.GOAWAY:
            self._on_goaway(header, meta, events)
        elif kind == _T.CLOSE:
            self._end_session(error_code(header[6]), _text(meta), events, remote=True, frame=None)
            return False
        else:
            self._on_handshake(kind, header, meta, events)
        return True

    def count_abuse(self) -> None:
        """Count a late or refused frame."""
        limits = self.config.limits
        if self._last_received - self._window_start > _ABUSE_WINDOW:
            self._window_start = self._last_received
            self._abuse_count = 0
        self._abuse_count += 1
        if self._abuse_count > limits.max_abuse:  # guard: late-frames
            raise ProtocolError(ErrorCode.CALM, f"more than {limits.max_abuse} late or refused frames in 10 s")

    # ---- control frames ----

    def _on_cancel(self, stream_id: int, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            self.count_abuse()
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
            self.count_abuse()

    def _on_end(self, header: Header, ext: bytes, meta: bytes, events: list[Event]) -> None:
        flags, stream_id, number = header[3], header[4], header[6]
        stream = self._streams.ending(stream_id)
        if number > Status.UNAUTHENTICATED:
            raise ProtocolError(ErrorCode.FRAME, f"END: status {number} is none of 0 to 16")
        # A cancelled stream's replies are dropped uncounted, so there NOT_STARTED cannot be judged by them.
        if flags and (number == 0 or stream.received):
            raise ProtocolError(ErrorCode.FRAME, "END: NOT_STARTED beside OK or after a reply")
        if ext:
            self._reader.rules.checked_extension(END, ext)
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
        self._draining(last)
        events.append(GoAway(last, error_code(header[6]), _text(meta)))

    # ---- handshake ----

    def _receive_preface(self, n: int, events: list[Event]) -> None:
        """Judge the client's first bytes (SPEC 2 and 10)."""
        reader = self._reader
        first = self._preface + reader.next_buffer()[:n].tobytes()
        answer = answer_foreign_client(first)
        if answer is not None:
            line, detail = answer
            self._end_session(ErrorCode.NOT_TENSORWIRE, detail, events, remote=False, frame=line)
            return
        if not first.startswith(PREFACE):
            self._preface = first
            return
        self._preface = b""
        self._enter(State.HELLO)
        rest = first[len(PREFACE) :]
        buffer = reader.next_buffer()
        buffer[: len(rest)] = rest
        self._receive_handshake(len(rest), events)

    def _check_server(self, first: bytes) -> None:
        """Judge the server's first bytes; raises ProtocolError (NOT_TENSORWIRE) (SPEC 10.4)."""
        wrong = explain_foreign_server(first)
        if wrong is not None:
            raise ProtocolError(ErrorCode.NOT_TENSORWIRE, wrong)

    def _on_handshake(self, kind: int, header: Header, meta: bytes, events: list[Event]) -> None:
        if kind == _T.HELLO:
            self._on_hello(HEADER.pack(*header) + meta, handshake.parse_hello(meta))
        elif kind == _T.WELCOME:
            self._on_welcome(HEADER.pack(*header) + meta, handshake.parse_welcome(meta))
        elif kind == _T.AUTH:
            self._on_auth(HEADER.pack(*header) + meta, handshake.parse_entries(meta), events)
        else:
            if not meta:
                raise ProtocolError(ErrorCode.HANDSHAKE, "READY: the payload is missing")
            self._deadline = None
            self._moved(_T.READY)
            self._reader.ready()
            events.append(Ready(meta))

    def _on_hello(self, frame: bytes, hello: Hello) -> None:
        """Answer with WELCOME, which proves that this server has the secret of the client's key (SPEC 11.4)."""
        config, writer = self.config, self._writer
        choice = handshake.choose(config, hello)
        if not hello.key_id and not config.keyless:  # guard: key-needed
            raise ProtocolError(ErrorCode.AUTHENTICATION, handshake.KEY_REQUIRED)
        if hello.key_id and self._secret_of is None:
            raise ProtocolError(ErrorCode.AUTHENTICATION, KEYS_NOT_TAKEN)
        self._hello = hello
        self._apply_choice(choice, hello.limits)
        proof = NO_PROOF if hello.key_id else b""
        entries = handshake.pack_welcome(config, self._nonce, self.connection_id, self.boot_id, choice, proof=proof)
        welcome = control_frame(_T.WELCOME, meta=entries)
        self._moved(_T.WELCOME)
        if self._secret_of is None or not hello.key_id:
            writer.queue_handshake(welcome)
            return
        secret, self._valid = self._secret_of(hello.key_id)
        th = transcript(frame, welcome, self._binding)
        self._keys = keys = KeySchedule(secret, hello.nonce, self._nonce, th)
        writer.queue_handshake(handshake.with_proof(welcome, keys.server_proof()))
        if self.mac != "none":
            writer.records = SignedRecords(make_mac(self.mac, keys.key(SERVER_RECORD)))

    def _on_welcome(self, frame: bytes, welcome: Welcome) -> None:
        """Check the server's proof and answer with our own."""
        config, writer = self.config, self._writer
        handshake.check_welcome(config, welcome)
        self._apply_choice((welcome.version, welcome.features, welcome.mac), welcome.limits)
        self.connection_id = welcome.connection_id
        self.boot_id = welcome.boot_id
        hello, self._hello_frame = self._hello_frame, b""
        if config.key_id:
            th = b"" if not welcome.proof else transcript(hello, handshake.with_proof(frame, NO_PROOF), self._binding)
            keys = KeySchedule(config.secret, self._nonce, welcome.nonce, th)
            if not welcome.proof or not compare_digest(keys.server_proof(), welcome.proof):  # guard: server-proof
                raise ProtocolError(ErrorCode.AUTHENTICATION, SERVER_NOT_PROVEN)
            auth = control_frame(_T.AUTH, meta=handshake.pack_entries([(handshake.PROOF, NO_PROOF)]))
            writer.queue_handshake(handshake.with_proof(auth, keys.client_proof(auth)))
            if self.mac != "none":  # guard: signed-refusal
                self._input = RecordReader(self._reader, make_mac(self.mac, keys.key(SERVER_RECORD)))
                writer.records = SignedRecords(make_mac(self.mac, keys.key(CLIENT_RECORD)))
        else:
            writer.queue_handshake(control_frame(_T.AUTH))
        writer.held = False
        self._moved(_T.AUTH)

    def _on_auth(self, frame: bytes, entries: dict[int, bytes], events: list[Event]) -> None:
        """Check the client's proof: the one answer to all that can be wrong is given here."""
        keys, self._keys = self._keys, None
        if keys is not None:
            proof = entries.get(handshake.PROOF, b"")
            if len(proof) != PROOF_SIZE:  # guard: proof-length
                raise ProtocolError(ErrorCode.AUTHENTICATION, AUTH_REFUSED)
            # guard: key-guessing
            proven = compare_digest(keys.client_proof(handshake.with_proof(frame, NO_PROOF)), proof)
            if not (proven and self._valid):  # guard: client-proof
                raise ProtocolError(ErrorCode.AUTHENTICATION, AUTH_REFUSED)
            if self.mac != "none":  # guard: signed-after-auth
                self._input = RecordReader(self._reader, make_mac(self.mac, keys.key(CLIENT_RECORD)))
        self._nonce = b""  # it has done its work, and idle connections are many
        self._deadline = None
        self._moved(_T.AUTH)
        self._reader.ready()
        if self._hello is not None:
            events.append(Authenticated(self._hello))
            self._hello = None

    def _receive_handshake(self, n: int, events: list[Event]) -> None:
        """Give the reader `n` bytes of the handshake; what comes behind its last frame may be records."""
        source = self._input
        source.received(n, events)
        records = self._input
        if records is not source and isinstance(records, RecordReader):
            records.begin(events)

    def _apply_choice(self, choice: tuple[int, tuple[int, ...], int], limits: PeerLimits) -> None:
        self.version, features, number = choice
        self.features, self.peer_limits = _interned(features, limits)
        self.mac = handshake.MAC_NAMES[number]
        self._reader.follow(rules_for(self.features))
        self._reader.chunk = self._writer.chunk = min(limits.chunk, self.config.limits.chunk)

    # ---- the end ----

    def _fail(self, code: ErrorCode, detail: str, events: list[Event]) -> None:
        """Close on a peer that broke a rule, or was too slow, and tell it, unless it would not understand."""
        if code is ErrorCode.NOT_TENSORWIRE or self.state is State.PREFACE:
            self._end_session(code, detail, events, remote=False, frame=None)
        else:
            self._end_session(code, detail, events, remote=False, frame=text_frame(_T.CLOSE, 0, code, detail))

    def _end_session(
        self, code: ErrorCode, detail: str, events: list[Event], *, remote: bool, frame: bytes | None
    ) -> None:
        self._shut_down(frame)
        self._input.abort_all(events)
        events.append(Closed(code, detail, remote))

    def _shut_down(self, frame: bytes | None) -> None:
        self.closed = True
        self._enter(State.CLOSED)
        self._deadline = None
        self._keys = None
        self._streams.clear()
        self._writer.finish(frame)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
