"""One connection and the calls it carries: bytes in, outcomes out. No I/O: the driver moves the bytes.

Here: what each event of the protocol core means for a call. Not here: what outlives a connection (``core``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Final

from ..codec import CodecError
from ..protocol import (
    Closed,
    Config,
    Connection,
    Ended,
    ErrorCode,
    Event,
    Flag,
    GoAway,
    Message,
    Pong,
    ProtocolError,
    Ready,
    Refusal,
    Refused,
    Status,
    parse_extension,
)
from ..protocol import LocalError as MisuseError
from ..protocol.safe_text import printable
from .calls import CONNECT, FOREVER, PING, Call, Carrier
from .errors import (
    AuthenticationError,
    BadReply,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    InvalidInput,
    TensorwireError,
    remote_error,
)
from .keys import GIVE_A_KEY
from .replies import ReplyDecoder, allocate_body
from .results import request_id
from .retry import Throttle

if TYPE_CHECKING:
    from ..protocol.capture import CaptureWriter

MAX_DEADLINE_US: Final = (1 << 32) - 1
"""What the OPEN frame can say, about 71 minutes; beyond that only this side keeps the time."""
WRITE_BUDGET: Final = 1 << 20
"""Bytes asked for per write: enough to keep the kernel busy, little enough that a small call soon gets its turn."""
ALONE_BUDGET: Final = 4 << 20
"""The same while one call is all there is: nobody waits behind it, and the kernel may take it in one go."""
SIGNED_BUDGET: Final = 256 << 10
"""The same where frames are signed: one chunk is on its way, and checked, while the next is signed."""
CLOSED_UNDER = "the client was closed under the call"
PASSING = frozenset({ErrorCode.NO_ERROR, ErrorCode.TIMEOUT, ErrorCode.CALM, ErrorCode.SHUTDOWN, ErrorCode.INTERNAL})
"""Reasons to fail a handshake that may be gone at the next try."""
AUTHENTICATING = frozenset({ErrorCode.AUTHENTICATION, ErrorCode.MAC})
"""Reasons to fail a handshake that have to do with the key: without one there is no MAC but ``none``."""
NO_KEY_HINT = (
    "; where the server is meant to have no keys, connect with key='' (the command line: unset TENSORWIRE_KEY)"
)

END_STREAM: Final = int(Flag.END_STREAM)

_PING_PAYLOAD = Struct("<Q")


class LinkOwner(ABC):
    """What a link asks of its client, and what the links of one client share. Implemented by ``core.ClientCore``."""

    def __init__(self, max_reply: int, capture: CaptureWriter | None) -> None:
        self.max_reply = max_reply
        self.capture = capture
        self.decoder = ReplyDecoder()
        self.throttle = Throttle()
        self.waiting: deque[Call] = deque()
        self.link: Link | None = None
        """The connection that new calls go to; an older one that drains lives on in its driver's hands."""

    @abstractmethod
    def link_ready(self, welcome: bytes) -> None:
        """Note that the handshake is done. welcome: its payload."""

    @abstractmethod
    def open_waiting(self, link: Link, now: float) -> None:
        """Open what waits, as far as the server takes it."""

    @abstractmethod
    def retry_or_fail(self, call: Call, error: TensorwireError, now: float, wait: bool) -> None:
        """Send a call that provably did not start again, if the rules allow it, else fail it with ``error``."""

    @abstractmethod
    def orphaned(self, calls: list[Call], error: TensorwireError, now: float) -> None:
        """Take the calls of a connection that is over: they are the client's, not the connection's."""

    @abstractmethod
    def dial_failed(
        self,
        reason: str,
        now: float,
        *,
        lasting: bool = False,
        kind: type[TensorwireError] = ConnectFailed,
        cause: BaseException | None = None,
    ) -> None:
        """Note that no connection could be made, or its handshake failed."""


class Link(Carrier):
    """One connection. The driver feeds it, writes what it gives, and closes the socket once it is ``finished``."""

    __slots__ = (
        "_buffer", "_capture", "_capture_name", "_connection", "_decoder", "_key_id", "_max_streams", "_owner",
        "_ping_count", "_pings", "calls", "draining", "ready", "room", "timed",
    )  # fmt: skip

    def __init__(
        self, owner: LinkOwner, config: Config, nonce: bytes, number: int, now: float, binding: bytes = b""
    ) -> None:
        super().__init__()
        self._owner = owner
        self._decoder = owner.decoder
        self._capture = owner.capture
        self._connection = Connection(config, nonce=nonce, now=now, reserve=self._reserve, binding=binding)
        self._key_id = config.key_id.decode()
        self._capture_name = number.to_bytes(8, "big")
        self._buffer: memoryview | None = None
        self._pings: dict[bytes, Call] = {}
        self._ping_count = 0
        self._max_streams = 0
        self.calls: dict[int, Call] = {}
        self.ready = False
        """The handshake is done and no GOAWAY came: new calls may be opened."""
        self.room = 0
        """So many calls fit at least; how many exactly says ``has_room``, which asks where it matters."""
        self.timed = True
        """The handshake has its deadline; afterwards the connection keeps no time of its own."""
        self.draining = False

    # --- bytes -------------------------------------------------------------------------------------------------------

    def next_buffer(self) -> memoryview:
        """Where the next bytes go."""
        buffer = self._connection.next_buffer()
        if self._capture is not None:
            self._buffer = buffer
        return buffer

    @property
    def exact(self) -> bool:
        """Whether all of ``next_buffer`` is sure to be filled, so that one read may wait for the whole of it."""
        return self._connection.exact

    def received(self, n: int, now: float) -> None:
        """``n`` bytes lie in the buffer: calls get their outcomes."""
        if self._capture is not None and self._buffer is not None:
            self._capture.record(self._capture_name, received=True, now=now, data=self._buffer[:n])
        for event in self._connection.received(n, now):
            if type(event) is Message:
                self._replied(event, now)
            else:
                self._handle(event, now)
        owner = self._owner
        if owner.waiting and self.ready:
            owner.open_waiting(self, now)
        if self.draining and not self.calls and not self.finished:
            self.close("drained", now)

    def eof(self, now: float) -> None:
        """Note that the server will send no more."""
        for event in self._connection.receive_eof(now):
            self._handle(event, now)
        self.lost("the server closed the connection", now)

    def data_to_send(self, now: float) -> list[bytes | memoryview]:
        """Return the next buffers to write, [] for none."""
        connection = self._connection
        alone = ALONE_BUDGET if connection.mac == "none" else SIGNED_BUDGET
        buffers = connection.data_to_send(WRITE_BUDGET if len(self.calls) > 1 else alone)
        if self._capture is not None:
            for buffer in buffers:
                self._capture.record(self._capture_name, received=False, now=now, data=buffer)
        return buffers

    @property
    def has_output(self) -> bool:
        """True where ``data_to_send`` has something to give."""
        return self._connection.outbound_bytes > 0

    def next_deadline(self) -> float | None:
        """When ``handle_timeout`` wants to be called."""
        return self._connection.next_deadline()

    def handle_timeout(self, now: float) -> None:
        """Do what a time of the protocol's own asks for, such as the end of the handshake's patience."""
        for event in self._connection.handle_timeout(now):
            self._handle(event, now)

    # --- calls -------------------------------------------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """True while the server takes one more call on this connection."""
        if len(self.calls) >= self.room and self.ready:
            # Calls given up here stay open at the server until it says so.
            self.room = self._max_streams - (self._connection.open_streams - len(self.calls))
        return len(self.calls) < self.room

    def open(self, call: Call, now: float) -> None:
        """Put a call on this connection. The time left is computed here, as late as can be."""
        call.link = self
        call.opened_at = now
        if call.kind >= PING:
            self._open_control(call, now)
            return
        deadline_us = 0
        if call.deadline != FOREVER:
            deadline_us = int((call.deadline - now) * 1e6) or 1
            if deadline_us > MAX_DEADLINE_US:
                deadline_us = 0
        encoded = call.encoded
        if encoded is None:
            return
        try:
            stream_id = self._connection.open(
                encoded.meta, call.ext, encoded.buffers, encoded.body_length, call.flags, call.priority, deadline_us
            )
        except MisuseError as error:
            call.fail(InvalidInput(str(error), not_started=True), now)
            return
        call.stream_id = stream_id
        self.calls[stream_id] = call

    def _open_control(self, call: Call, now: float) -> None:
        if call.kind == CONNECT:
            call.finish(None, now)
            return
        self._ping_count += 1
        payload = _PING_PAYLOAD.pack(self._ping_count)
        self._pings[payload] = call
        self._connection.ping(payload)

    def abandon(self, call: Call) -> None:
        """Forget a call that ended on this side; late frames of it are dropped."""
        if self.calls.pop(call.stream_id, None) is not None:
            self._connection.cancel(call.stream_id)
            self.room -= 1

    def close(self, reason: str, now: float) -> None:
        """Say goodbye and fail what is open."""
        if not self.finished:
            self._connection.close(ErrorCode.NO_ERROR, reason)
            self._end(ClientClosed(CLOSED_UNDER), now)

    def lost(self, reason: str, now: float) -> None:
        """End the link, whose transport broke: calls that were under way have an unknown outcome."""
        if self.finished:
            return
        was_ready = self.connection_id != b""
        self._end(ConnectionLost(f"{reason}; whether the model ran the call is unknown"), now)
        if not was_ready:
            self._owner.dial_failed(reason, now)

    def _end(self, error: TensorwireError, now: float) -> None:
        """Give the calls back to their client, since the connection is over."""
        self.finished = True
        self.ready = False
        self.room = 0
        owner = self._owner
        if owner.link is self:
            owner.link = None
        calls = [*self.calls.values(), *self._pings.values()]
        self.calls.clear()
        self._pings.clear()
        owner.orphaned(calls, error, now)

    # --- events ------------------------------------------------------------------------------------------------------

    def _replied(self, message: Message, now: float) -> None:
        """Take a reply: the hot path."""
        stream_id = message.stream_id
        call = self.calls.get(stream_id)
        if call is None:
            return
        last = bool(message.flags & END_STREAM)
        if last:
            del self.calls[stream_id]
        # A small body lies in the receive buffer and is copied, once; a big one lies in memory of its own.
        body = message.body.toreadonly() if message.owned else bytes(message.body)
        try:
            result = self._decoder.decode(message.ext, message.meta, body, now - call.started_at)
        except (CodecError, ProtocolError) as error:
            self._reject(call, f"the reply cannot be read: {error}", now)
            return
        result.connection_id = self.connection_id
        result.stream_id = stream_id
        owner = self._owner
        replies = call.replies
        if replies is not None:
            replies.add(call, result)
            if last:
                call.finish(None, now)
        elif last:
            call.finish(result, now)
        else:
            self._reject(call, "the server answers this call with a stream, expected one reply", now)
        if owner.throttle.low:
            owner.throttle.succeeded()

    def _handle(self, event: Event, now: float) -> None:
        """Everything that is not a reply."""
        if isinstance(event, Ended):
            self._ended(event, now)
        elif isinstance(event, Pong):
            call = self._pings.pop(event.payload, None)
            if call is not None and not call.finished:
                call.finish(None, now)
        elif isinstance(event, Refused):
            call = self.calls.get(event.stream_id)
            if call is not None:
                self._reject(call, f"the reply is larger than max_reply, {self._owner.max_reply} bytes", now)
        elif isinstance(event, Ready):
            self._is_ready(event)
        elif isinstance(event, GoAway):
            self._going_away(event, now)
        elif isinstance(event, Closed):
            self._closed(event, now)

    def _is_ready(self, event: Ready) -> None:
        connection = self._connection
        self.connection_id = connection.connection_id
        self._max_streams = self.room = connection.peer_limits.max_streams
        self.ready = True
        self.timed = False
        self._owner.link_ready(event.payload)

    def _ended(self, event: Ended, now: float) -> None:
        call = self.calls.pop(event.stream_id, None)
        if call is None:
            return
        try:
            after = parse_extension(event.ext).retry_after if event.ext else None
        except ProtocolError:
            after = None
        error = remote_error(
            event.status,
            event.detail,
            request_id=request_id(self.connection_id, event.stream_id),
            not_started=event.not_started,
            retry_after=None if after is None else after / 1e6,
        )
        owner = self._owner
        if event.status == Status.OK and call.replies is not None:
            call.finish(None, now)
        elif event.status == Status.UNAVAILABLE and event.not_started and call.replies is None:
            owner.retry_or_fail(call, error, now, wait=True)
        else:
            call.fail(error, now)

    def _going_away(self, event: GoAway, now: float) -> None:
        """No new calls here; those above the last id never started and go elsewhere."""
        owner = self._owner
        self.ready = False
        self.room = 0
        self.draining = True
        if owner.link is self:
            owner.link = None
        for stream_id in [i for i in self.calls if i > event.last_stream_id]:
            call = self.calls.pop(stream_id)
            name = request_id(self.connection_id, stream_id)
            text = f"the server is going away: {event.detail}" if event.detail else "the server is going away"
            error = remote_error(Status.UNAVAILABLE, text, request_id=name, not_started=True)
            if call.replies is None:
                owner.retry_or_fail(call, error, now, wait=False)
            else:
                call.fail(error, now)

    def _closed(self, event: Closed, now: float) -> None:
        if self.finished:
            return
        why = f"{event.code.name} {printable(event.detail)}".rstrip()
        if self.connection_id == b"":
            self._end(ConnectionLost(why), now)
            kind = AuthenticationError if event.code in AUTHENTICATING else ConnectFailed
            reason = f"the handshake failed: {why}" if kind is ConnectFailed else self._not_authenticated(event)
            self._owner.dial_failed(reason, now, lasting=event.code not in PASSING, kind=kind)
        elif event.code == ErrorCode.AUTHENTICATION and not event.remote:  # guard: changed-reply
            text = "what came from the server was not signed by it, so that somebody on the way may have changed it"
            self._end(ConnectionLost(f"{text} ({why}); whether the model ran the call is unknown"), now)
        elif event.remote:
            self._end(
                ConnectionLost(f"the server closed the connection: {why}; whether the model ran the call is unknown"),
                now,
            )
        else:
            self._end(BadReply(f"the server broke the protocol: {why}"), now)

    def _not_authenticated(self, event: Closed) -> str:
        """Why the two sides do not share a key, or no way to use it, and what to do."""
        said = printable(event.detail).removeprefix("authentication: ")
        if not self._key_id:
            return f"the server wants a key, and none was given: {GIVE_A_KEY} (the server: {said})"
        if not event.remote:
            return f"key {self._key_id!r}: {said}"
        return f"the server refused key {self._key_id!r}: {said}{NO_KEY_HINT if event.code == ErrorCode.MAC else ''}"

    def _reject(self, call: Call, text: str, now: float) -> None:
        """Fail the call of a reply that cannot be taken; the connection lives on."""
        name = call.request_id
        self.abandon(call)
        call.fail(BadReply(text, request_id=name), now)

    def _reserve(
        self, stream_id: int, _flags: int, _priority: int, _aux: int, _ext: bytes, _meta: bytes, body_length: int
    ) -> memoryview | Refusal:
        """Memory for a big reply, straight from the socket into what the caller gets."""
        if stream_id not in self.calls:
            return Refusal(Status.CANCELLED, "the call is over")
        if body_length > self._owner.max_reply:
            return Refusal(Status.RESOURCE_EXHAUSTED, "the reply is larger than the client takes")
        return allocate_body(body_length)
