"""A real server that wants keys, and peers of it: strangers, and an insider whose key is good and whose frames are not.

What lives here: the server, the keys in its file, sockets that seal what they send, somebody who works meanwhile and
must not be disturbed. What must not: attacks.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tensorwire.protocol import Config, Connection, FrameType, Role
from tensorwire.protocol.handshake import KEY_ID, pack_entries
from tensorwire.protocol.header import HEADER, HEADER_SIZE
from tensorwire.protocol.limits import PREFACE
from tensorwire.server.key_file import secret_text
from tests.attacks.conftest import Target, check_log
from tests.attacks.peer import Frame, Raw, frame
from tests.attacks.signed import Insider, Sealer, entries_of, with_entries
from tests.integration.models import write_models
from tests.support.server import running_server

SECRETS = {"alice": os.urandom(32), "mallory": os.urandom(32), "ended": os.urandom(32), "early": os.urandom(32)}
"""The keys of the server. Mallory has a good one and bad manners; one key has ended, one has not begun."""

OTHER = "127.0.0.2"
"""The address of those who work meanwhile."""

PATIENCE = 0.5
"""Seconds that a call of theirs may take; two cores are shared with the attack."""

_VALID = {"ended": "not_after = 2020-01-01T00:00:00Z", "early": "not_before = 2120-01-01T00:00:00Z"}


def key_file(path: Path) -> Path:
    """The file of those keys."""
    path.touch(0o600)
    path.write_text(
        "".join(
            f'[[keys]]\nid = "{name}"\nprincipal = "{name}-of-ads"\nsecret = "{secret_text(secret)}"\n'
            f"{_VALID.get(name, '')}\n"
            for name, secret in SECRETS.items()
        )
    )
    return path


@contextmanager
def guarded_server(folder: Path, *flags: str) -> Iterator[Target]:
    """A server with those keys and an audit log, `folder/audit`."""
    models = write_models(folder / "models", processes=False)
    access = ("--keys", str(key_file(folder / "keys.toml")), "--audit", str(folder / "audit"))
    log = folder / "server.log"
    with running_server(models, *access, "--log-format", "json", "--pool-bytes", "64MiB", *flags, log=log) as server:
        yield Target(server, log)


def audit_lines(path: Path) -> list[dict[str, Any]]:
    """What the audit log says; every line must be one object."""
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def hello(key_id: bytes = b"alice", extra: dict[int, bytes] | None = None) -> bytes:
    """HELLO of a client that offers hmac-sha256, as a frame."""
    config = Config(Role.CLIENT, mac_algorithms=("hmac-sha256",), key_id=key_id, secret=bytes(32))
    first = b"".join(map(bytes, Connection(config, nonce=os.urandom(32), now=0.0).data_to_send()))
    whole = first[len(PREFACE) :]
    return with_entries(whole, entries_of(whole) | {KEY_ID: key_id} | (extra or {}))


class Stranger(Raw):
    """A socket that has said nothing yet. `source`: the address it comes from."""

    def __init__(self, address: tuple[str, int], *, source: str = "", receive_buffer: int = 0) -> None:
        super().__init__(address, hands=False, receive_buffer=receive_buffer, source=source)

    def frame_bytes(self) -> bytes:
        """The server's next frame, raw."""
        header = self._read(HEADER_SIZE)
        return header + self._read(HEADER.unpack(header)[0])

    def until_end(self) -> bytes:
        """All bytes until the server closes, which it must."""
        with suppress(ConnectionResetError):
            while piece := self.socket.recv(1 << 16):
                self._buffer += piece
        return self._buffer


class Guest(Stranger):
    """A socket that has proven a key, and whose records are in order; what is in them is up to the test."""

    def __init__(
        self, address: tuple[str, int], name: str = "mallory", *, source: str = "", receive_buffer: int = 0
    ) -> None:
        super().__init__(address, source=source, receive_buffer=receive_buffer)
        try:
            self._prove(name)
        except BaseException:
            self.socket.close()
            raise

    def _prove(self, name: str) -> None:
        first = hello(name.encode())
        super().send(PREFACE + first)
        insider = Insider(first, self.frame_bytes(), SECRETS[name])
        super().send(insider.auth())
        self._mine: Sealer = insider.sealer("hmac-sha256", "client")
        self._servers: Sealer = insider.sealer("hmac-sha256", "server")
        self._frames = b""
        ready = self.receive()
        assert ready.kind == FrameType.READY, ready

    def send(self, data: bytes) -> None:
        """These whole frames, as one record."""
        super().send(self._mine.seal(data))

    def send_plain(self, data: bytes) -> None:
        """As they are."""
        super().send(data)

    def receive(self) -> Frame:
        """The server's next frame, whose record must be signed. Raises EOFError at the end."""
        while not self._frames:
            head = self._read(4)
            frames = self._read(struct.unpack("<I", head)[0])
            assert self._servers.seal(frames)[-16:] == self._read(16), "the tag of the server is wrong"
            self._frames = frames
        length, kind, _, flags, stream_id, _, aux, meta_len, ext_len, _ = HEADER.unpack_from(self._frames)
        rest = self._frames[HEADER_SIZE : HEADER_SIZE + length]
        self._frames = self._frames[HEADER_SIZE + length :]
        return Frame(kind, flags, stream_id, aux, rest[ext_len : ext_len + meta_len])


class Worker(threading.Thread):
    """Somebody with a key, at another address, who works all the time."""

    def __init__(self, target: Target) -> None:
        super().__init__(daemon=True)
        self.guest = Guest(target.address, "alice", source=OTHER)
        self.times: list[float] = []
        self.error: Exception | None = None
        self._enough = threading.Event()

    def run(self) -> None:
        try:
            while not self._enough.wait(0.002):
                began = time.perf_counter()
                assert self.guest.works(len(self.times) + 1)
                self.times.append(time.perf_counter() - began)
        except Exception as error:
            self.error = error

    def finish(self) -> None:
        self._enough.set()
        self.join(30)
        self.guest.socket.close()


@contextmanager
def working(target: Target) -> Iterator[Worker]:
    """The attack keeps nobody from working, and nothing of it stays."""
    worker = Worker(target)
    worker.start()
    while len(worker.times) < 5 and worker.error is None:
        time.sleep(0.01)
    try:
        yield worker
    finally:
        worker.finish()
    assert worker.error is None
    assert worker.times
    for name in ("connections", "connections_pending", "calls"):
        target.wait(name, 0)
    check_log(target)


def auth(proof: bytes) -> bytes:
    """AUTH with this proof."""
    return frame(FrameType.AUTH, meta=pack_entries([(13, proof)]))
