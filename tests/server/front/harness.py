"""A Front without a loop and without models: a client's bytes in, the client's events out, a clock that is told."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from tensorwire.codec import Encoder, Resolved, SignatureError, unpack_service
from tensorwire.gpu import Slab, SlabPool
from tensorwire.protocol import (
    Config,
    Connection,
    Ended,
    Event,
    Message,
    Role,
    pack_extension,
    parse_extension,
)
from tensorwire.protocol.header import END_STREAM
from tensorwire.server.engine.api import BatchResult, Failure, Health, HealthState, Prepared
from tensorwire.server.front.audit import Audit
from tensorwire.server.front.call import Call
from tensorwire.server.front.front import Front
from tensorwire.server.front.listener_policy import ListenerPolicy, make_policy, unbound
from tensorwire.server.front.timers import Timers
from tensorwire.server.key_file import Key
from tensorwire.server.keys import KeyStore
from tensorwire.server.model import Model
from tensorwire.server.registry import Registry
from tensorwire.server.settings import load_settings

ROW = np.arange(4, dtype=np.float32).reshape(1, 4)


class FakeLoop:
    """Callbacks and timers, run when told."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.soon: list[Callable[[], object]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        self.soon.append(lambda: callback(*arguments))

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        entry = (self.now + delay, callback)
        self.timers.append(entry)
        return SimpleNamespace(cancel=lambda: self.timers.remove(entry) if entry in self.timers else None)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for entry in [entry for entry in self.timers if entry[0] <= self.now]:
            if entry in self.timers:
                self.timers.remove(entry)
                entry[1]()


class FakeEngine:
    """Takes what is four wide; the test says what comes of it."""

    def __init__(self) -> None:
        self.taken: list[Call] = []
        self.bodies: list[bytes] = []
        self.cancelled: list[Call] = []
        self.refuse: Failure | None = None
        self.state = HealthState.IDLE
        self.effective_max_batch = 8
        self.labels: tuple[str, ...] = ()
        self.queue_depth = 0
        self.slabs: list[Slab] = []
        self.spec: Any = None
        self.sink: Any = None

    def prepare(self, resolved: Resolved, meta: bytes, dims: bytes) -> Prepared:
        if resolved.tensors[0].shape[-1] % 4:
            raise SignatureError("x", str(resolved.tensors[0]), "float32[-1, 4]")
        return Prepared(len(self.taken), resolved.tensors[0].shape[0], None, (), resolved, meta, dims)

    def submit(self, prepared: Prepared, body: memoryview, slab: Slab | None, request: Call) -> Failure | None:
        if slab is not None:
            self.slabs.append(slab)
        if self.refuse is not None:
            return self.refuse
        request.rows = prepared.rows
        self.taken.append(request)
        self.bodies.append(bytes(body))
        return None

    def cancel(self, request: Call) -> bool:
        request.done = True
        self.cancelled.append(request)
        return not request.started

    def health(self) -> Health:
        return Health(self.state, 0.0, self.queue_depth)


class FakeWire:
    """asyncio's transport: what was written, and how it was closed."""

    def __init__(self, peer: tuple[str, int] | None = None) -> None:
        self.peer = peer
        self.written = b""
        self.eof = False
        self.aborted = False

    def get_extra_info(self, name: str) -> tuple[str, int] | None:
        return self.peer if name == "peername" else None

    def set_write_buffer_limits(self, high: int) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, buffers: list[bytes]) -> None:
        self.written += b"".join(buffers)

    def write_eof(self) -> None:
        self.eof = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        return None

    def resume_reading(self) -> None:
        return None


class Client:
    """One connection's other end. Reads only when told to."""

    def __init__(
        self,
        harness: Harness,
        peer: tuple[str, int] | None = None,
        *,
        key: Key | None = None,
        policy: ListenerPolicy | None = None,
    ) -> None:
        wire: Any = FakeWire(peer)
        self.wire = wire
        self.harness = harness
        self.events: list[Event] = []
        self.protocol: Any = harness.front.make_protocol(policy or harness.policy("tcp"))
        self.protocol.connection_made(wire)
        config = Config(role=Role.CLIENT)
        if key is not None:
            config = replace(config, mac_algorithms=("hmac-sha256",), key_id=key.id.encode(), secret=key.secret)
        self.core = Connection(config, nonce=bytes(32), now=harness.loop.now)
        self._encoder = Encoder()

    def connect(self) -> Client:
        for _ in range(4):
            self.write()
            self.read()
        self.events.clear()
        return self

    def write(self) -> None:
        """Everything the core has, to the server."""
        self.feed(self._outgoing())

    def _outgoing(self) -> bytes:
        data = b""
        while pieces := self.core.data_to_send():
            data += b"".join(pieces)
        return data

    def feed(self, data: bytes) -> None:
        """These bytes, to the server."""
        while data:
            buffer = self.protocol.get_buffer(65536)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            self.protocol.buffer_updated(size)
            data = data[size:]

    def read(self) -> list[Event]:
        """Everything the server wrote; the events of it."""
        data, self.wire.written = self.wire.written, b""
        events: list[Event] = []
        while data:
            buffer = self.core.next_buffer()
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            for event in self.core.received(size, self.harness.loop.now):
                if isinstance(event, Message) and not event.owned:
                    event.body = memoryview(bytes(event.body))
                events.append(event)
            data = data[size:]
        self.events += events
        return events

    def open(self, model: str, x: Any = ROW, *, name: str = "x", flags: int = END_STREAM, deadline: float = 0) -> int:
        stream, data = self.begin(model, x, name=name, flags=flags, deadline=deadline)
        self.feed(data)
        return stream

    def begin(
        self, model: str, x: Any = ROW, *, name: str = "x", flags: int = END_STREAM, deadline: float = 0
    ) -> tuple[int, bytes]:
        """A call's stream and all its bytes, not sent yet."""
        encoded = self._encoder.encode(model, "", {name: x})
        ext = pack_extension(dims=encoded.dims)
        stream = self.core.open(
            encoded.meta, ext, encoded.buffers, encoded.body_length, flags, deadline_us=int(deadline * 1e6)
        )
        return stream, self._outgoing()

    def service(self, name: str, payload: bytes) -> int:
        return self.open(name, np.frombuffer(payload, np.uint8), name="payload")

    def ended(self, stream_id: int) -> Ended:
        """How that stream ended: the only thing said about it since the last look."""
        events = [event for event in self.read() if getattr(event, "stream_id", None) == stream_id]
        assert len(events) == 1, events
        assert isinstance(events[0], Ended)
        return events[0]

    def works(self) -> bool:
        """Whether a call is answered."""
        stream = self.open("m")
        self.harness.finish(self.harness.engine.taken[-1])
        return len(self.replies(stream)) == 1

    def replies(self, stream_id: int) -> list[Message]:
        return [event for event in self.read() if isinstance(event, Message) and event.stream_id == stream_id]

    def answer(self, stream_id: int) -> Any:
        """What a service call said."""
        (reply,) = self.replies(stream_id)
        assert struct.unpack("<Q", parse_extension(reply.ext).dims) == (len(reply.body),)
        return unpack_service(bytes(reply.body))


class Harness:
    """A front with one model "m" behind a FakeEngine."""

    def __init__(self, *flags: tuple[str, str], keys: KeyStore | None = None, loop: Any = None) -> None:
        self.loop: FakeLoop = FakeLoop() if loop is None else loop
        loop = self.loop
        self.registry = Registry()
        self.pool = SlabPool(16 << 20)
        settings = load_settings(flags={"insecure": True, "spin": "0", **dict(flags)})
        self.settings = settings
        self.timers = Timers(loop.call_later, lambda: self.loop.now)
        audit = self.audit = self.open_audit()
        self.front = Front(settings, loop, self.timers, self.registry, self.pool, audit=audit, keys=keys)
        self.engine = self.serve()

    def open_audit(self) -> Audit | None:
        """The audit log, where a test has one."""
        return None

    def policy(
        self, kind: str, binding: Callable[[], bytes] = unbound, principals: Mapping[str, str] | None = None
    ) -> ListenerPolicy:
        """That of an address of this kind."""
        return make_policy(self.settings, kind, binding, principals, keys=self.front.context.keys is not None)

    def serve(self, version: str = "1", name: str = "m") -> FakeEngine:
        engine = FakeEngine()
        spec: Any = SimpleNamespace(
            name=name, version=version, max_queue=64, max_wait=0.0, backend="python", device="cpu", max_batch=8,
            inputs=(), outputs=(), images=(), labels=(), optional=(),
        )  # fmt: skip
        made: Any = engine
        engine.spec = spec
        self.model = Model(spec, made, "inline", self.front.metrics.model(name, version))
        self.front.dispatcher.attach(self.model)
        (self.registry.replace if self.registry.find(name, version) else self.registry.add)(self.model)
        return engine

    def client(self, key: Key | None = None) -> Client:
        return Client(self, key=key).connect()

    def finish(self, *calls: Call, engine: FakeEngine | None = None) -> None:
        """The engine echoes these calls, one batch."""
        engine = engine or self.engine
        bodies = [engine.bodies[engine.taken.index(call)] for call in calls]
        signature = (("y", "float32", (4,), 16),)
        rows = sum(call.rows for call in calls)
        now = self.loop.now
        engine.sink([BatchResult([*calls], signature, [memoryview(b"".join(bodies))], rows, now, now, now, now)])

    def fail(self, failure: Failure) -> None:
        self.engine.sink([failure])
