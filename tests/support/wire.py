"""A client of a few lines over a blocking socket: the protocol core, the codec, and no rules of its own.

It exists so that the server's tests do not depend on the real clients, and so that they can break the rules.
"""

from __future__ import annotations

import contextlib
import os
import socket
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Any, Self

import numpy as np

from tensorwire.codec import Encoder, decode_arrays, decode_metadata, resolve
from tensorwire.protocol import (
    Closed,
    Config,
    Connection,
    Ended,
    Event,
    Message,
    MessageAborted,
    Pong,
    Ready,
    Role,
    pack_extension,
    parse_extension,
)
from tensorwire.protocol.header import END_STREAM, WANT_TIMING

TIMEOUT = 20.0  # seconds; a test that waits longer has failed


class Reply:
    """One message of the server."""

    def __init__(self, message: Message) -> None:
        extension = parse_extension(message.ext)
        metadata = decode_metadata(message.meta)
        self.model = metadata.model
        self.version = metadata.version
        self.timing = extension.timing
        self.end_stream = message.end_stream
        resolved = resolve(metadata, extension.dims)
        self.arrays: dict[str, Any] = decode_arrays(resolved, bytes(message.body))


class WireClient:
    """One connection. `address` is (host, port) or the path of a Unix socket; `key` is ID:SECRET."""

    def __init__(self, address: tuple[str, int] | str, key: str = "", mac: str = "hmac-sha256") -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT)
        self.config = Config(role=Role.CLIENT)
        if key:
            key_id, _, secret = key.partition(":")
            raw = urlsafe_b64decode(secret + "=")
            self.config = replace(self.config, mac_algorithms=(mac,), key_id=key_id.encode(), secret=raw)
        try:
            self._shake_hands(address)
        except BaseException:
            self.socket.close()
            raise

    def _shake_hands(self, address: tuple[str, int] | str) -> None:
        self.socket.connect(address)
        if self.socket.family == socket.AF_INET:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = Connection(self.config, nonce=os.urandom(32), now=monotonic(), reserve=self._reserve)
        self.encoder = Encoder()
        self.events: list[Event] = []
        self.outcomes: dict[int, list[Reply | Ended]] = {}
        self.closed: Closed | None = None
        self._bodies: list[bytearray] = []
        self.flush()
        self.wait_for(Ready)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _reserve(self, *arguments: Any) -> memoryview:
        body = bytearray(arguments[-1])
        self._bodies.append(body)
        return memoryview(body)

    # -- bytes

    def flush(self) -> None:
        """Send everything that is queued."""
        while buffers := self.connection.data_to_send():
            for buffer in buffers:
                self.socket.sendall(buffer)

    def receive(self) -> bool:
        """Read once; False at the end of the stream."""
        count = self.socket.recv_into(self.connection.next_buffer())
        now = monotonic()
        events = self.connection.received(count, now) if count else self.connection.receive_eof(now)
        for event in events:
            self._take(event)
        with contextlib.suppress(OSError):
            self.flush()
        return bool(count)

    def _take(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Message):
            self.outcomes.setdefault(event.stream_id, []).append(Reply(event))
        elif isinstance(event, Ended):
            self.outcomes.setdefault(event.stream_id, []).append(event)
        elif isinstance(event, Closed):
            self.closed = event

    def wait_for(self, kind: type[Event]) -> Event:
        """Read until an event of this kind has come."""
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    self.events.remove(event)
                    return event
            if not self.receive():
                raise ConnectionError(f"the server closed: {self.closed}")

    # -- calls

    def open(
        self,
        model: str,
        arrays: Mapping[str, Any],
        *,
        version: str = "",
        deadline: float = 0.0,
        timing: bool = False,
        flags: int = END_STREAM,
        priority: int = 0,
    ) -> int:
        """Queue and send one call; the stream id. `deadline` in seconds, 0 for none."""
        encoded = self.encoder.encode(model, version, arrays)
        return self.open_raw(
            encoded.meta,
            pack_extension(dims=encoded.dims) if encoded.dims else b"",
            encoded.buffers,
            encoded.body_length,
            flags=flags | (WANT_TIMING if timing else 0),
            priority=priority,
            deadline=deadline,
        )

    def open_raw(
        self,
        meta: bytes,
        ext: bytes,
        body: list[Any],
        body_length: int,
        *,
        flags: int = END_STREAM,
        priority: int = 0,
        deadline: float = 0.0,
    ) -> int:
        """Send one call whose parts need not fit together."""
        stream_id = self.connection.open(
            meta, ext, [memoryview(part) for part in body], body_length, flags, priority, int(deadline * 1e6)
        )
        self.flush()
        return stream_id

    def outcome(self, stream_id: int) -> Reply | Ended:
        """Wait for the next message or the end of a stream."""
        while not self.outcomes.get(stream_id):
            if not self.receive():
                raise ConnectionError(f"the server closed: {self.closed}")
        return self.outcomes[stream_id].pop(0)

    def reply(self, stream_id: int) -> Reply:
        """Wait for a message of the server."""
        outcome = self.outcome(stream_id)
        if isinstance(outcome, Ended):
            raise AssertionError(f"{outcome.status.name}: {outcome.detail}")
        return outcome

    def ended(self, stream_id: int) -> Ended:
        """Wait for an error of the server."""
        outcome = self.outcome(stream_id)
        assert isinstance(outcome, Ended), "the call succeeded"
        return outcome

    def infer(self, model: str, arrays: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """One call that must succeed."""
        return self.reply(self.open(model, arrays, **options)).arrays

    def fail(self, model: str, arrays: Mapping[str, Any], **options: Any) -> Ended:
        """One call that must end with an error."""
        return self.ended(self.open(model, arrays, **options))

    def service_bytes(self, name: str, payload: bytes) -> bytes:
        """One service call; the msgpack of its reply."""
        arrays = self.infer(name, {"payload": np.frombuffer(payload, np.uint8)})
        return bytes(arrays["payload"].tobytes())

    def ping(self) -> None:
        """A round trip that shows that the connection is alive."""
        self.connection.ping(b"12345678")
        self.flush()
        self.wait_for(Pong)


__all__ = ["END_STREAM", "MessageAborted", "Reply", "WireClient"]
