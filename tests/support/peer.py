"""A small real server for client tests: sockets, threads, and a scripted answer to each message.

It is the protocol core in the server's role behind a real socket, without engines: tests say what it answers, when it
is silent, and how it disappears.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgpack

from tensorwire.protocol import (
    Authenticated,
    Cancelled,
    Config,
    Connection,
    ErrorCode,
    LocalError,
    Message,
    Role,
    Status,
    pack_extension,
    parse_extension,
)
from tensorwire.protocol.signing import SecretOf

READY = msgpack.packb({"principal": "anonymous", "models": ["*"]})
Handler = Callable[["PeerConnection", Message], None]


def echo(peer: PeerConnection, message: Message) -> None:
    """Send the inputs back as outputs."""
    peer.reply(message)


def silent(_peer: PeerConnection, _message: Message) -> None:
    """Never answer."""


class PeerConnection:
    """One accepted connection. Methods may be called from any thread; each writes at once."""

    def __init__(
        self, sock: socket.socket, handler: Handler, config: Config, number: int, secret_of: SecretOf | None = None
    ) -> None:
        self.sock = sock
        self.handler = handler
        self.number = number
        self.lock = threading.RLock()
        self.messages: list[Message] = []
        self.cancelled: list[int] = []
        self.closed = threading.Event()
        self.connection = Connection(
            config,
            nonce=bytes(32),
            now=time.monotonic(),
            reserve=lambda *args: memoryview(bytearray(args[6])),
            connection_id=struct.pack(">Q", number),
            boot_id=bytes(16),
            secret_of=secret_of,
        )

    def run(self) -> None:
        """Read and answer until the connection ends."""
        try:
            while True:
                n = self.sock.recv_into(self.connection.next_buffer())
                with self.lock:
                    now = time.monotonic()
                    events = self.connection.received(n, now) if n else self.connection.receive_eof(now)
                    for event in events:
                        if isinstance(event, Authenticated) and not self.connection.closed:
                            self.connection.accept(READY)
                        elif isinstance(event, Message):
                            self.messages.append(event)
                            self.handler(self, event)
                        elif isinstance(event, Cancelled):
                            self.cancelled.append(event.stream_id)
                            with suppress(LocalError):  # where it was answered a moment before
                                self.connection.end(event.stream_id, Status.CANCELLED)
                    self.flush()
                if not n or self.connection.closed:
                    return
        except OSError:
            return
        finally:
            self.sock.close()
            self.closed.set()

    def flush(self) -> None:
        """Write everything."""
        while buffers := self.connection.data_to_send():
            for buffer in buffers:
                self.sock.sendall(buffer)

    def reply(self, message: Message, flags: int = 1) -> None:
        """Echo ``message``."""
        body = message.body if message.owned else bytes(message.body)
        ext = pack_extension(dims=parse_extension(message.ext).dims)
        with self.lock:
            self.connection.send(message.stream_id, message.meta, ext, [body] if len(body) else [], len(body), flags)
            self.flush()

    def send(self, stream_id: int, meta: bytes, ext: bytes, body: bytes, flags: int = 1) -> None:
        """One DATA message."""
        with self.lock:
            self.connection.send(stream_id, meta, ext, [body] if body else [], len(body), flags)
            self.flush()

    def end(
        self, stream_id: int, status: Status, detail: str = "", not_started: bool = False, ext: bytes = b""
    ) -> None:
        """One END."""
        with self.lock:
            self.connection.end(stream_id, status, detail, not_started, ext)
            self.flush()

    def goaway(self, last_stream_id: int, detail: str = "") -> None:
        """One GOAWAY."""
        with self.lock:
            self.connection.goaway(last_stream_id, ErrorCode.SHUTDOWN, detail)
            self.flush()

    def vanish(self) -> None:
        """Reset the connection: the client sees ECONNRESET."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.hang_up()

    def hang_up(self) -> None:
        """Close without a word."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class Peer:
    """The listening side. A context manager; ``url`` is where it listens."""

    def __init__(
        self,
        handler: Handler = echo,
        *,
        unix: Path | None = None,
        config: Config | None = None,
        port: int = 0,
        secret_of: SecretOf | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.handler = handler
        self.secret_of = secret_of
        self.config = config or Config(role=Role.SERVER)
        self.connections: list[PeerConnection] = []
        self.accepted = threading.Condition()
        if unix is not None:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(unix))
            self.url = f"tw+unix://{unix}"
        else:
            self.listener = socket.create_server(("127.0.0.1", port))
            self.url = f"tw://127.0.0.1:{self.listener.getsockname()[1]}"
        self.listener.listen()
        if tls is not None:
            self.listener = tls.wrap_socket(self.listener, server_side=True)
            self.url = self.url.replace("tw:", "tws:")
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = PeerConnection(sock, self.handler, self.config, len(self.connections) + 1, self.secret_of)
            thread = threading.Thread(target=connection.run, daemon=True)
            self.threads.append(thread)
            with self.accepted:
                self.connections.append(connection)
                self.accepted.notify_all()
            thread.start()

    def connection(self, number: int = 0, timeout: float = 5.0) -> PeerConnection:
        """The connection accepted as the ``number``th, waiting for it."""
        with self.accepted:
            assert self.accepted.wait_for(lambda: len(self.connections) > number, timeout)
        return self.connections[number]

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.hang_up()
        for thread in self.threads:
            thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
