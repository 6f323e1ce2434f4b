"""Both ends of a connection in one process, without sockets: real clients and a real front with real models.

What lives here: a front whose transports keep what is written, and what hands bytes from one end to the other. What
must not: cases. No tensor byte of a large body is moved by what is here.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import cast

from tensorwire.clients.core import ClientCore
from tensorwire.clients.link import Link
from tensorwire.gpu import SlabPool
from tensorwire.server.engine.inline import InlineEngine
from tensorwire.server.engine.spec import load_spec
from tensorwire.server.front.front import Front
from tensorwire.server.front.listener_policy import make_policy
from tensorwire.server.front.timers import Timers
from tensorwire.server.model import Model
from tensorwire.server.registry import Registry
from tensorwire.server.settings import load_settings

Buffer = bytes | memoryview
MODELS = {
    "echo": "def load():\n    return lambda inputs: {'y': inputs['x']}\n",
    "sum": "def load():\n    return lambda inputs: {'y': inputs['x'].sum(axis=1, keepdims=True)}\n",
    "first": "def load():\n    return lambda inputs: {'y': inputs['x'][:, :1000]}\n",
    "fresh": "def load():\n    return lambda inputs: {'y': inputs['x'] * 2}\n",
    "kept": "def load():\n    kept = {}\n    return lambda inputs: kept.update(y=inputs['x'] * 2) or kept\n",
}
"""Models by name: what came goes back, or its sum, or the first thousand of it, or an answer made for it, or kept."""
TOML = """backend = "python"
file = "model.py"
factory = "load"
max_batch = 32
warmup = false
inputs = [{ name = "x", dtype = "float32", shape = [-1, -1] }]
outputs = [{ name = "y", dtype = "float32", shape = [-1, -1] }]
"""


class MemoryTransport:
    """What a loop gives a protocol, as far as it is used: what is written is kept, in the buffers it came in."""

    def __init__(self) -> None:
        self.written: list[Buffer] = []
        self.write = self.written.append
        self.writelines = self.written.extend

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None

    def close(self) -> None:
        return None


class MemoryLoop:
    """The part of a loop that a front uses: the next turn comes when ``turn`` says so. Time stands still."""

    def __init__(self) -> None:
        self.soon: deque[Callable[[], object]] = deque()

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        self.soon.append(partial(callback, *arguments))

    def call_later(self, delay: float, callback: Callable[[], object]) -> MemoryLoop:
        return self

    def cancel(self) -> None:
        """Timers never fire here."""

    def turn(self) -> None:
        """Do what waits."""
        while self.soon:
            self.soon.popleft()()


class ServerEnd:
    """A front with the models, inline, and one connection to it."""

    def __init__(self) -> None:
        self.loop = MemoryLoop()
        registry = Registry()
        pool = SlabPool(512 << 20)
        settings = load_settings(flags={"insecure": True, "spin": 0.0})
        loop = cast("asyncio.AbstractEventLoop", self.loop)
        self.front = Front(settings, loop, Timers(loop.call_later, monotonic), registry, pool)
        self.engines: dict[str, InlineEngine] = {}
        for name, source in MODELS.items():
            registry.add(self._served(name, source, pool))
        self.protocol = self.front.make_protocol(make_policy(settings, "tcp", keys=False))
        self.transport = MemoryTransport()
        self.written = self.transport.written
        self.protocol.connection_made(cast("asyncio.BaseTransport", self.transport))

    def _served(self, name: str, source: str, pool: SlabPool) -> Model:
        with tempfile.TemporaryDirectory(prefix="tensorwire-micro-") as folder:
            version = Path(folder, name, "1")
            version.mkdir(parents=True)
            (version / "model.py").write_text(source)
            (version / "model.toml").write_text(TOML)
            spec = load_spec(version)
            engine = self.engines[name] = InlineEngine(spec, pool, self.front.dispatcher.wake)
            model = Model(spec, engine, "inline", self.front.metrics.model(name, "1"))
            self.front.dispatcher.attach(model)
            engine.start()
        return model

    def take(self) -> list[Buffer]:
        """What was written since the last look."""
        pieces = self.written.copy()
        self.written.clear()
        return pieces


class ClientEnd:
    """The clients' core with one link, connected to a server end."""

    def __init__(self, server: ServerEnd) -> None:
        self.core = ClientCore(lambda call: None)
        self.link: Link = self.core.dialled(0.0)
        for _ in range(4):
            serve(server, self.link.data_to_send(0.0))
            receive(self.link, server.take())
        if not self.link.ready:
            raise RuntimeError("the handshake did not end")


class Pipe:
    """What one end wrote and the other has not read yet. Only pieces of at most 8 KiB are moved: of larger ones, which
    are tensor bytes, the reader gets the count and finds in its memory what was there before.
    """

    MOVED = 8192

    def __init__(self, pieces: list[Buffer]) -> None:
        self._pieces = deque(pieces)
        self._offset = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer as one read would; how many bytes it got."""
        size, got = len(buffer), 0
        while got < size and self._pieces:
            piece, start = self._pieces[0], self._offset
            count = min(len(piece) - start, size - got)
            if len(piece) <= self.MOVED:
                buffer[got : got + count] = piece[start : start + count]
            got += count
            self._offset += count
            if self._offset == len(piece):
                self._pieces.popleft()
                self._offset = 0
        return got


def serve(server: ServerEnd, pieces: list[Buffer]) -> None:
    """Let the server read what a client wrote, and answer."""
    pipe, protocol = Pipe(pieces), server.protocol
    while pipe:
        protocol.buffer_updated(pipe.read_into(protocol.get_buffer(-1)))
        server.loop.turn()


def receive(link: Link, pieces: list[Buffer]) -> None:
    """Let a client read what the server wrote."""
    pipe = Pipe(pieces)
    while pipe:
        link.received(pipe.read_into(link.next_buffer()), 0.0)
