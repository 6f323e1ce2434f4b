"""The engine process: `python -m tensorwire.server.engine.process_main`, started by worker.py and by nobody else.

What lives here: the other side of process.py: taking requests from the ring and running the same core as the inline
engine. What must not: laying results into shared memory (result_writer.py), asyncio, decisions about batches (core).

One thread. It sleeps in poll() while it has nothing to do; while it has, it takes what has arrived, runs one batch, and
publishes its result with one system call. It ends with its front, whichever way that ends: the control socket closes,
or the kernel's parent-death signal arrives. SIGTERM means: finish what is queued, then leave.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from math import ceil, inf
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from ...codec import decode_metadata, resolve
from ...gpu import SlabPool
from ...gpu.pinned import PinError, Registration
from .api import BatchResult, Failure, Prepared, Request
from .backends import LoadError
from .batch_memory import BatchMemory
from .blocks import Block
from .call_preparer import CallPreparer
from .control import Channel
from .core import EngineCore
from .fork_guard import leave_to_parent
from .habits import Habits
from .log import log
from .records import (
    CANCEL,
    CANCELLED,
    FORGET,
    PREPARE,
    PREPARED,
    RELEASE,
    REQUEST,
    TO_ENGINE,
    TO_FRONT,
)
from .result_writer import ResultWriter
from .ring import Ring
from .spec import SpecError, load_spec
from .withdrawals import Withdrawals

_PR_SET_PDEATHSIG = 1
_HANDLERS: dict[int, Callable[..., None]] = {}
"""What this process has set, by signal."""
#: Blocks kept. The front forms its batches in few places; large bodies come in many.
_MAX_BLOCKS = 64


class Child:
    """Everything after the load message. `serve()` returns when the process should end."""

    def __init__(self, channel: Channel, message: dict[str, Any]) -> None:
        descriptors = message["descriptors"]
        self._channel = channel
        self._pool = SlabPool(message["pool_bytes"], fd=descriptors["pool"])
        self._results = SlabPool(message["result_bytes"], fd=descriptors["results"], allocates=True)
        self._requests = Ring(TO_ENGINE, message["capacity"], descriptors["requests"], descriptors["requests_event"])
        replies = Ring(TO_FRONT, message["capacity"], descriptors["replies"], descriptors["replies_event"])
        self._rings = self._requests.event, replies.event
        self._publisher = ResultWriter(self._results, replies, channel, self._wait_for_front, self._stand_by)
        self._lay_out = self._publisher.lay_out
        self._withdrawals = Withdrawals(descriptors["marks"], message["slots"])
        self._withdrawn: set[int] = set()  # slots of requests left out, whose cancel is on its way
        for descriptor in descriptors.values():
            os.close(descriptor)
        self._live: dict[int, Request] = {}
        self._blocks: dict[int, Block] = {}
        self._prepared: dict[int, Prepared] = {}
        self._leaving = False
        spec = load_spec(
            Path(message["folder"]),
            name=message["name"],
            version=message["version"],
            link_roots=[Path(root) for root in message["link_roots"]],
        )
        self._memory = BatchMemory(self._results, max(1, spec.max_batch))  # for its buckets only: the front places
        self._preparer = CallPreparer(spec, self._memory)
        self._core = EngineCore(spec, _nothing_to_release, allocate=self._pinned, starting=self._mark)
        self._registrations = [] if spec.device == "cpu" else _pin(spec.device, self._pool, self._results)
        leave_to_parent(lambda: _HANDLERS, self._descriptors, self._forked)
        habits = Habits()
        self._core.load()
        self._habits = habits.seen()
        self._poll = select.poll()
        self._poll.register(self._requests.event, select.POLLIN)
        self._poll.register(channel.fileno(), select.POLLIN)
        self._wake_up = _wake_on_signals(self._leave)
        self._poll.register(self._wake_up, select.POLLIN)

    def _descriptors(self) -> list[int]:
        return [self._channel.fileno(), *self._rings]

    def _forked(self) -> None:
        """Mark this process as a model's child: if it comes back from its call, it has no business here."""
        self._lay_out = _come_back
        log.write = _nothing_to_say

    def say_ready(self) -> None:
        """Report what warm-up measured and showed; requests may come from now on."""
        warm_up = self._core.warm_up
        seconds = {str(rows): cost for rows, cost in warm_up.seconds.items()}
        self._channel.send(
            "ready",
            effective_max_batch=warm_up.effective_max_batch,
            seconds=seconds,
            batch_with=warm_up.batch_with,
            remarks=list(warm_up.remarks),
            labels=list(self._core.labels),
            habits=self._habits,
            registered=self._withdrawals.register(),
        )

    def serve(self) -> None:
        """Take, run, publish, until the front stops us or is gone, or SIGTERM came and the queue is empty."""
        core = self._core
        while True:
            for descriptor, _ in self._poll.poll(self._wait()):
                if descriptor == self._channel.fileno() and self._told_to_stop():
                    return
                if descriptor == self._wake_up:
                    _drain(descriptor)
            self._take()
            core.step(monotonic(), self._done)
            self._publisher.flush()
            core.faults.tell()
            if self._leaving and not core.queue.count:
                return

    def _wait(self) -> float | None:
        """Milliseconds to sleep at most; None: until something arrives."""
        wake_at = min(self._core.next_step, self._core.faults.tell_at)
        if wake_at == inf:
            return 0 if self._leaving else None
        return max(0, ceil((wake_at - monotonic()) * 1000))

    # taking

    def _take(self) -> None:
        requests = self._requests.read()
        for record in requests:
            kind = record[0]
            if kind == REQUEST:
                self._request(record)
            elif kind == CANCEL:
                self._cancel(record[3])
            elif kind == RELEASE:
                self._publisher.released(record[8])
            elif kind == PREPARE:
                self._prepare(record[4], record[8], record[6], record[7])
            elif kind == FORGET:
                del self._prepared[record[4]]
            else:
                raise ValueError(f"a record of kind {kind}")

    def _request(self, record: tuple[Any, ...]) -> None:
        _, priority, _, slot, number, principal, start, capacity, offset, nbytes, deadline, arrived, _ = record
        prepared = self._prepared[number]
        request = Request(slot, arrived, priority=priority, principal=principal, deadline=deadline)
        request.slot = slot
        block = self._blocks.get(offset)
        if (
            block is None
            or block.bucket is None
            or block.bucket is not prepared.bucket
            or block.capacity != capacity
            or len(block.memory) != nbytes
        ):
            block = self._block(prepared, capacity, offset, nbytes)
        request.rows = prepared.rows
        request.prepared = prepared
        request.start = start
        request.block = block
        self._live[slot] = request
        self._core.submit(request)

    def _block(self, prepared: Prepared, capacity: int, offset: int, nbytes: int) -> Block:
        """Return the front's block again, over the same memory; kept, as batches form in the same places."""
        memory = self._pool.view(offset, nbytes)
        bucket = prepared.bucket
        offsets = tuple(at for at, _ in prepared.parts) if bucket is None else bucket.layout(capacity)[0]
        block = Block(bucket, memory, capacity, offsets, None)
        if len(self._blocks) >= _MAX_BLOCKS:
            self._blocks.clear()
        self._blocks[offset] = block
        return block

    def _mark(self, requests: list[Request]) -> list[Request]:
        """Note in shared memory what the model may see from now on: there the front finds it if this process dies."""
        withdrawn = self._withdrawals.begin(requests)
        for request in withdrawn:
            self._withdrawn.add(request.slot)
        return withdrawn

    def _cancel(self, slot: int) -> None:
        request = self._live.get(slot)
        if request is not None and (self._core.cancel(request) or slot in self._withdrawn):
            self._withdrawn.discard(slot)
            del self._live[slot]
            self._publisher.say(CANCELLED, count=slot)

    def _prepare(self, number: int, offset: int, meta_length: int, dims_length: int) -> None:
        meta = bytes(self._pool.view(offset, meta_length))
        dims = bytes(self._pool.view(offset + meta_length, dims_length))
        self._prepared[number] = self._preparer.prepare(resolve(decode_metadata(meta), dims), meta, dims)
        self._publisher.say(PREPARED, count=number)

    # giving

    def _done(self, outcome: list[BatchResult | Failure]) -> None:
        for each in outcome:
            for request in each.requests:
                del self._live[request.slot]
        self._lay_out(outcome)

    def _wait_for_front(self) -> None:
        for descriptor, _ in self._poll.poll():
            if descriptor == self._channel.fileno() and self._told_to_stop():
                _leave_now(0)
            if descriptor == self._wake_up:
                _drain(descriptor)
        self._take()

    def _stand_by(self) -> None:
        with contextlib.suppress(InterruptedError):
            select.select([self._channel.fileno()], [], [], 0.001)
        if self._told_to_stop():
            _leave_now(0)

    def _pinned(self, nbytes: int) -> memoryview:
        """Memory that a device copies its results into; given back when the views of it are gone."""
        slab = self._results.allocate(nbytes)
        return memoryview(bytearray(nbytes)) if slab is None else slab.lease()

    # the end

    def _told_to_stop(self) -> bool:
        messages = self._channel.receive()
        return self._channel.ended or any(message["kind"] == "stop" for message in messages)

    def _leave(self) -> None:
        self._leaving = True


def _nothing_to_release(block: Block, rows: int) -> None:
    """Do nothing: the front owns the memory of requests, and learns from the result that they are over."""
    del block, rows


def _nothing_to_say(level: str, line: str, traceback: str) -> None:
    """Say nothing: this is a model's child, and the log is its parent's."""
    del level, line, traceback


def _come_back(outcome: list[BatchResult | Failure]) -> None:
    """Drop what a model's child has to say after its call: its parent says it."""
    del outcome
    _leave_now(1)


def _pin(device: str, *pools: SlabPool) -> list[Registration]:
    """Pin what a device copies from and to. Without it everything works, slower: that is said, and enough."""
    try:
        return [Registration(pool, int(device.partition(":")[2] or 0)) for pool in pools]
    except PinError as error:
        print(f"slabs are not pinned, copies to the device will wait: {error}", file=sys.stderr)  # noqa: T201 - the log
        return []


def _wake_on_signals(leave: Callable[[], None]) -> int:
    """Call `leave` on SIGTERM; the descriptor returned becomes readable with it, so that poll() ends.

    It does so with every signal that has a handler, and from the handler itself: a model may take the wake-up away.
    """
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)

    def terminated(*_: object) -> None:
        leave()
        with contextlib.suppress(OSError):
            os.write(writable, b"\0")

    signal.signal(signal.SIGTERM, terminated)
    _HANDLERS[signal.SIGTERM] = terminated
    return readable


def _drain(descriptor: int) -> None:
    """Nothing waits for what is written there: that it was is enough."""
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def _unheard(*_: object) -> None:
    """Ctrl-C is the front's. A handler, since children that a model starts would inherit that a signal is ignored."""


def _end_with(front: int) -> None:
    """Die when the front does, even if the model never comes back from a call."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != front:  # it was faster
        _leave_now(0)


def _prefer_to_be_killed() -> None:
    """When memory runs out, the kernel should take an engine and not the server that can restart it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _leave_now(status: int) -> NoReturn:
    """Without the interpreter's tear-down, which a model's threads or libraries can hold up."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def main(descriptor: int, front: int) -> None:
    """Run until the front stops us. `descriptor` is our end of the control socket, `front` the front's process id."""
    signal.signal(signal.SIGINT, _unheard)
    _HANDLERS[signal.SIGINT] = _unheard
    _end_with(front)
    _prefer_to_be_killed()
    faulthandler.enable()
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    log.write = lambda level, line, where: channel.send("log", level=level, line=line, traceback=where)
    messages: list[dict[str, Any]] = []
    while not messages:
        select.select([channel.fileno()], [], [])
        messages = channel.receive()
        if channel.ended:
            _leave_now(0)
    try:
        child = Child(channel, messages[0])
    except (LoadError, SpecError) as error:
        channel.send("failed", message=str(error))
        _leave_now(1)
    child.say_ready()
    child.serve()
    _leave_now(0)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]))
    except BaseException:  # noqa: BLE001 - whatever it is, told and then over: a model's threads must not hold it up
        traceback.print_exc()
        _leave_now(1)
