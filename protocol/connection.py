"""One connection, either role, as its owner sees it: bytes and a clock in, events and buffers out; no I/O.

The upper half: the constructor, receiving, sending, deadlines, and the verbs of the session. Its calls are calls.py's,
the peer's control frames control.py's, parsing reader.py's, the order of sending writer.py's.

Between `next_buffer` and `received` the owner may call `cancel`, `end`, `send` and `open`: memory under a read is
given back by a MessageAborted of the next `received`, never sooner.
"""

from __future__ import annotations

from typing import Final

from .assembly import Refusal, Reserve
from .control import Control
from .errors import ErrorCode, LocalError, ProtocolError
from .events import Event
from .frame_builder import control_frame, text_frame
from .header import HEADER_SIZE, Buffer, FrameType
from .limits import MAX_METADATA, RECEIVE_BUFFER, Config, Role
from .peer_detection import NOT_A_SERVER, printable_start
from .signing import SecretOf, available_macs
from .states import State
from .status import Status

_T = FrameType
_AVAILABLE: Final = available_macs()
_OPEN: Final = State.OPEN  # by a name of its own: the look-up in the class costs the hot path ten times as much


def _own_memory(
    _stream_id: int, _flags: int, _priority: int, _aux: int, _ext: bytes, _meta: bytes, body_length: int
) -> memoryview | Refusal:
    """`reserve` of an owner that gave none: ordinary memory, whatever is asked up to `max_message`."""
    try:
        return memoryview(bytearray(body_length))
    except (MemoryError, OverflowError):
        return Refusal(Status.RESOURCE_EXHAUSTED, f"there is no memory for a body of {body_length} bytes")


class Connection(Control):
    """The protocol core of one connection.

    nonce: 32 random bytes, fresh. now: seconds on any monotonic clock, the same in all calls. reserve: see `Reserve`.
    receive_buffer: writable, at least RECEIVE_BUFFER bytes; may be shared by all connections of one loop, since between
    calls nothing of this connection lives in it. connection_id (8 bytes) and boot_id (16): the server's; a client
    learns them. secret_of: what a server knows of a key id, see `SecretOf`; without it there are no keys. binding:
    under TLS, SHA-256 of the leaf certificate that this connection's server presented (SPEC 11.3), 32 bytes.
    """

    __slots__ = ("_ping_sent",)

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
        secret_of: SecretOf | None = None,
        binding: bytes = b"",
    ) -> None:
        if len(nonce) != 32 or (config.role is Role.SERVER and (len(connection_id) != 8 or len(boot_id) != 16)):
            raise ValueError("nonce is 32 bytes; a server's connection_id is 8 bytes and its boot_id 16")
        if set(config.mac_algorithms) - set(_AVAILABLE):
            raise ValueError(
                f"mac_algorithms {config.mac_algorithms}: only {_AVAILABLE} can be used here"
                " (aes-256-gmac needs the package cryptography: pip install 'tensorwire[fast]')"
            )
        if len(binding) not in {0, 32}:
            raise ValueError(f"binding is the SHA-256 of a certificate, 32 bytes, or none; this one has {len(binding)}")
        buffer = memoryview(bytearray(262144)) if receive_buffer is None else receive_buffer
        if buffer.readonly or buffer.nbytes < RECEIVE_BUFFER or buffer.format != "B":
            raise ValueError(f"receive_buffer must be {RECEIVE_BUFFER} writable bytes or more, it is {buffer.nbytes}")
        super().__init__(config, nonce, now, reserve or _own_memory, buffer, connection_id, boot_id, secret_of, binding)
        self._ping_sent: float | None = None

    # ---- what the owner may look at ----

    @property
    def outbound_bytes(self) -> int:
        """Bytes queued and not yet handed over by `data_to_send`."""
        return self._writer.nbytes

    @property
    def unfinished(self) -> int:
        """Bytes kept of a small frame that is not whole yet; those of a chunk lie in its message's memory."""
        return len(self._input.tail)

    @property
    def open_streams(self) -> int:
        """Number of streams without terminal."""
        return len(self._streams)

    @property
    def last_stream_id(self) -> int:
        """Highest stream id opened so far; 0 before the first."""
        return self._streams.last_id

    def request_id(self, stream_id: int) -> str:
        """Return the name of a call that both sides show in errors and logs (SPEC 19.5)."""
        return f"{self.connection_id.hex()}-{stream_id}"

    # ---- receiving ----

    def next_buffer(self) -> memoryview:
        """Return writable memory for the next read, never empty; idempotent until `received`."""
        return self._input.next_buffer()

    @property
    def exact(self) -> bool:
        """Whether the peer owes every byte of `next_buffer`, so that a blocking read may wait for all of them."""
        return self._input.exact

    def received(self, n: int, now: float) -> list[Event]:
        """Return the events of `n` bytes written to the memory of `next_buffer`; Closed, not raised, for bad ones."""
        events: list[Event] = []
        if self.closed:
            self._input.abort_all(events)
            return events
        self._last_received = now
        self._ping_sent = None
        self._refused = None
        try:
            if self.state is _OPEN:
                self._input.received(n, events)
            elif self.state is State.PREFACE:
                self._receive_preface(n, events)
            else:
                self._receive_handshake(n, events)
                if self.state is State.WELCOME:
                    self._check_server(self._input.tail)
        except ProtocolError as error:
            self._fail(error.code, error.message, events)
        return events

    def receive_eof(self, now: float) -> list[Event]:  # noqa: ARG002 - the clock is part of every call
        """End: the peer sends no more. Without CLOSE before it, calls without terminal have an unknown outcome."""
        events: list[Event] = []
        if self.closed:
            self._input.abort_all(events)
            return events
        reader = self._input
        code = ErrorCode.NO_ERROR
        if self.state is State.WELCOME and 0 < len(reader.tail) < HEADER_SIZE:
            code = ErrorCode.NOT_TENSORWIRE
            detail = f"{NOT_A_SERVER}; it sent {printable_start(reader.tail)} and ended"
        elif reader.partial or self._preface:
            detail = "truncated: the connection ended within a frame"
        else:
            detail = "the connection ended without CLOSE"
        self._end_session(code, detail, events, remote=True, frame=None)
        return events

    # ---- sending ----

    def data_to_send(self, budget: int = 1 << 20) -> list[Buffer]:
        """Return the next buffers to write: whole frames, about `budget` bytes in all; [] if there is nothing."""
        return self._writer.data_to_send(budget)

    # ---- time ----

    def next_deadline(self) -> float | None:
        """Return when `handle_timeout` wants to be called, by the owner's clock; None = never."""
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

    # ---- the session ----

    def ping(self, payload: bytes) -> None:
        """Queue a PING of 8 bytes; the answer is a Pong event."""
        if len(payload) != 8:
            raise ValueError(f"a PING carries 8 bytes, not {len(payload)}")
        if _T.PING in self._sends:
            self._writer.queue_control(control_frame(_T.PING, body=payload))

    def close(self, code: ErrorCode, detail: str = "") -> None:
        """Queue CLOSE behind the whole frames that are queued; chunked messages are dropped. Idempotent.

        Memory reserved for unfinished messages is given back by MessageAborted of the next `received` or `receive_eof`.
        """
        if _T.CLOSE in self._sends:
            self._shut_down(text_frame(_T.CLOSE, 0, code, detail))

    def accept(self, ready_payload: bytes) -> None:
        """Answer Authenticated with READY; ready_payload is a msgpack map."""
        if _T.READY not in self._sends:
            raise LocalError(f"accept() is the server's and answers Authenticated; the state is {self.state.name}")
        if not 0 < len(ready_payload) <= MAX_METADATA:
            raise LocalError(f"READY carries 1 to {MAX_METADATA} bytes, not {len(ready_payload)}")
        self._moved(_T.READY)
        self._writer.queue_handshake(control_frame(_T.READY, meta=ready_payload))
        self._writer.held = False

    def goaway(self, last_stream_id: int, code: ErrorCode, detail: str = "") -> None:
        """Tell the client that streams above `last_stream_id` will not be served (2^64-1: only open no new ones)."""
        if _T.GOAWAY not in self._sends:
            if self.role is Role.CLIENT:
                raise LocalError("goaway() is the server's; a client closes")
            return
        if self._goaway is not None and last_stream_id > self._goaway:
            raise LocalError(f"GOAWAY named stream {self._goaway} before; it cannot rise to {last_stream_id}")
        self._draining(last_stream_id)
        self._writer.queue_control(text_frame(_T.GOAWAY, last_stream_id, code, detail))
