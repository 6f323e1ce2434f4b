"""The outbound side: which frame goes next (SPEC 7.10).

Here lives the order of sending and nothing about what frames mean. Control frames go first, then classes of priority
from the highest down; within a class small frames before chunks, and one chunk of each message in turn. What a stream
sends stays in order: frames behind a chunked message wait for its last chunk.

A client's small frames share one queue whatever their class, since OPENs go in the order of their ids; it goes ahead
of all chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from .header import DATA, HEADER, HEADER_SIZE, MORE, Buffer
from .limits import RECORD_BATCH
from .records import PlainRecords, RecordLayer

_PLAIN = PlainRecords()


class Outgoing:
    """The chunks of one message still to be sent, and the frames of its stream that wait behind them."""

    __slots__ = ("buffers", "dropped", "end_flag", "index", "left", "offset", "priority", "seq", "stream_id", "waiting")

    def __init__(
        self, stream_id: int, seq: int, end_flag: int, priority: int, body: Sequence[Buffer], body_length: int
    ) -> None:
        self.stream_id = stream_id
        self.seq = seq
        self.end_flag = end_flag
        self.priority = priority
        self.buffers = [flat_view(part) for part in body]
        self.index = 0
        self.offset = 0
        self.left = body_length
        self.dropped = False
        self.waiting: deque[tuple[bytes, Sequence[Buffer], int, Outgoing | None]] = deque()
        if sum(map(len, self.buffers)) != body_length:
            raise ValueError(
                f"body_length is {body_length}, the body's buffers hold {sum(map(len, self.buffers))} bytes"
            )

    def take(self, size: int, out: list[Buffer]) -> None:
        """Append the next `size` bytes of the body to `out`, as views."""
        self.left -= size
        while size:
            part = self.buffers[self.index]
            piece = part[self.offset : self.offset + size] if self.offset or len(part) > size else part
            if len(piece):
                out.append(piece)
            size -= len(piece)
            self.offset += len(piece)
            if self.offset == len(part):
                self.index += 1
                self.offset = 0


def flat_view(part: Buffer) -> memoryview:
    """View the same memory as unsigned bytes."""
    view = memoryview(part)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


class Lane:
    """One class of priority: small frames, in batches of about RECORD_BATCH bytes, and chunked messages."""

    __slots__ = ("chunked", "full", "nbytes", "small")

    def __init__(self) -> None:
        # Lists, not deques: empty, as most are, a deque takes 760 bytes; and these are short.
        self.small: list[Buffer] = []
        self.nbytes = 0
        self.full: list[tuple[list[Buffer], int]] = []
        self.chunked: list[Outgoing] = []

    def take(self, budget: int, records: RecordLayer, out: list[Buffer]) -> int:
        """Move batches of small frames to `out` until the budget is spent; returns what was taken, in bytes."""
        taken = 0
        while self.full and taken < budget:
            batch, nbytes = self.full.pop(0)
            out += records.seal(batch, nbytes)
            taken += nbytes
        if self.small and not self.full and taken < budget:
            out += records.seal(self.small, self.nbytes)
            taken += self.nbytes
            self.small = []
            self.nbytes = 0
        return taken


class Writer:
    """All that is queued on one connection.

    base: the class of priority 0, and all small frames of a client. lanes: the other classes, by priority. order: all
    classes, highest first.
    held: only frames of the handshake may leave; set until AUTH (client) or READY (server) is queued.
    nbytes: bytes queued in all, headers of chunks to come not counted.
    finished: called with a stream id once the last frame behind a chunk is queued.
    """

    __slots__ = (
        "active", "base", "chunk", "control", "control_bytes", "fifo", "finished", "handshake", "held", "lanes",
        "nbytes", "order", "records",
    )  # fmt: skip

    def __init__(self, fifo: bool, finished: Callable[[int], None]) -> None:
        self.fifo = fifo
        self.finished = finished
        self.records: RecordLayer = _PLAIN
        self.chunk = 0
        self.held = True
        self.handshake: list[Buffer] = []
        self.control: list[Buffer] = []
        self.control_bytes = 0
        self.base = Lane()
        self.lanes: dict[int, Lane] = {}
        self.order: list[Lane] = [self.base]
        self.active: dict[int, Outgoing] = {}
        self.nbytes = 0

    def queue_handshake(self, frame: bytes) -> None:
        """Queue a frame of the handshake."""
        for part in self.records.seal([frame], len(frame)):
            self.handshake.append(part)
            self.nbytes += len(part)

    def queue_control(self, frame: bytes) -> None:
        """Queue a control frame that belongs to no stream."""
        self.control.append(frame)
        self.control_bytes += len(frame)
        self.nbytes += len(frame)

    def queue_small(self, stream_id: int, priority: int, head: bytes, body: Sequence[Buffer], nbytes: int) -> None:
        """Queue a one-frame message or a stream's control frame; nbytes is all of it."""
        if self.active and stream_id in self.active:
            self.nbytes += nbytes
            self.active[stream_id].waiting.append((head, body, nbytes, None))
            return
        small = self._small_batch(priority, nbytes)
        small.append(head)
        if body:
            small += body

    def queue_frames(self, priority: int, frames: list[Buffer], nbytes: int) -> None:
        """Queue whole frames, nbytes in all, of streams that nothing is waiting to be sent on."""
        small = self._small_batch(priority, nbytes)
        small += frames

    def _small_batch(self, priority: int, nbytes: int) -> list[Buffer]:
        """Return where the next nbytes of small frames go. A batch is a record: 64 KiB, or what was queued as one."""
        self.nbytes += nbytes
        lane = self.base if self.fifo or not priority else self._lane(priority)
        if lane.nbytes + nbytes > RECORD_BATCH and lane.nbytes:
            lane.full.append((lane.small, lane.nbytes))
            lane.small = []
            lane.nbytes = 0
        lane.nbytes += nbytes
        return lane.small

    def queue_chunked(self, head: bytes, outgoing: Outgoing) -> None:
        """Queue a chunked message: its first frame and its chunks."""
        stream_id = outgoing.stream_id
        if stream_id in self.active:
            self.active[stream_id].waiting.append((head, (), len(head), outgoing))
            self.nbytes += len(head) + outgoing.left
            return
        self.queue_small(stream_id, outgoing.priority, head, (), len(head))
        self.nbytes += outgoing.left
        self.active[stream_id] = outgoing
        self._lane(outgoing.priority).chunked.append(outgoing)

    def _lane(self, priority: int) -> Lane:
        if not priority:
            return self.base
        lane = self.lanes.get(priority)
        if lane is None:
            lane = self.lanes[priority] = Lane()
            self.order = [*(self.lanes[p] for p in sorted(self.lanes, reverse=True)), self.base]
        return lane

    def drop(self, stream_id: int) -> bool:
        """Forget the unsent chunks of a stream and what waits behind them; whether there were any."""
        outgoing = self.active.pop(stream_id, None)
        if outgoing is None:
            return False
        outgoing.dropped = True  # its place in the lane's turn is given up when the turn comes
        self.nbytes -= outgoing.left
        for _, _, nbytes, behind in outgoing.waiting:
            self.nbytes -= nbytes + (behind.left if behind is not None else 0)
        outgoing.waiting.clear()
        outgoing.buffers = []
        return True

    def finish(self, frame: bytes | None) -> None:
        """Drop chunked messages, keep whole frames, and queue `frame` (CLOSE) as the last: nothing follows."""
        for stream_id in list(self.active):
            self.drop(stream_id)
        rest = Lane()
        if self.held:
            self.control = []
            self.control_bytes = 0
            self.nbytes = sum(map(len, self.handshake))
        else:
            for lane in self.order:
                rest.full += lane.full
                if lane.small:
                    rest.full.append((lane.small, lane.nbytes))
        self.base = rest
        self.lanes = {}
        self.order = [rest]
        if frame is not None:
            if self.held:
                self.queue_handshake(frame)
            else:
                self.nbytes += len(frame)
                rest.small.append(frame)
                rest.nbytes += len(frame)

    def data_to_send(self, budget: int) -> list[Buffer]:
        """Return the next buffers to write, whole frames of about `budget` bytes in all; empty if there is nothing."""
        base = self.base
        if (
            not self.control
            and not self.active
            and not base.full
            and not self.held
            and len(self.order) == 1
            and not self.handshake
        ):
            small = base.small
            if small:
                base.small = []
                self.nbytes -= base.nbytes
                nbytes, base.nbytes = base.nbytes, 0
                return self.records.seal(small, nbytes)
            return []
        return self._scheduled(budget)

    def _scheduled(self, budget: int) -> list[Buffer]:
        out: list[Buffer] = self.handshake
        taken = sum(map(len, out))
        self.handshake = []
        if not self.held:
            if self.control:
                taken += self.control_bytes
                self._seal_control(out)
            for lane in self.order:
                if taken >= budget:
                    break
                taken += self._from_lane(lane, budget - taken, out)
        self.nbytes -= taken
        return out

    def _seal_control(self, out: list[Buffer]) -> None:
        batch: list[Buffer] = []
        nbytes = 0
        for frame in self.control:
            if nbytes + len(frame) > RECORD_BATCH:
                out += self.records.seal(batch, nbytes)
                batch, nbytes = [], 0
            batch.append(frame)
            nbytes += len(frame)
        out += self.records.seal(batch, nbytes)
        self.control = []
        self.control_bytes = 0

    def _from_lane(self, lane: Lane, budget: int, out: list[Buffer]) -> int:
        source = self.base if self.fifo else lane
        taken = source.take(budget, self.records, out)
        while lane.chunked and taken < budget and not source.small and not source.full:
            outgoing = lane.chunked.pop(0)
            if outgoing.dropped:
                continue
            taken += self._chunk(outgoing, out)
            if outgoing.left:
                lane.chunked.append(outgoing)
            else:
                self._next_of_stream(outgoing)
                taken += source.take(budget - taken, self.records, out)  # what waited behind the chunks
        return taken

    def _chunk(self, outgoing: Outgoing, out: list[Buffer]) -> int:
        size = min(self.chunk, outgoing.left)
        flags = MORE if outgoing.left > size else outgoing.end_flag
        head = HEADER.pack(size, DATA, outgoing.priority, flags, outgoing.stream_id, outgoing.seq, 0, 0, 0, 0)
        frame: list[Buffer] = [head]
        outgoing.take(size, frame)
        out += self.records.seal(frame, HEADER_SIZE + size)
        self.nbytes += HEADER_SIZE  # the header comes into being only now
        return HEADER_SIZE + size

    def _next_of_stream(self, done: Outgoing) -> None:
        """Queue what waited behind the last chunk, which is out, up to the next chunked message."""
        stream_id = done.stream_id
        del self.active[stream_id]
        waiting = done.waiting
        while waiting:
            head, body, nbytes, outgoing = waiting.popleft()
            if outgoing is not None:
                self.nbytes -= nbytes + outgoing.left  # queue_chunked() counts them again
                outgoing.waiting = waiting
                self.queue_chunked(head, outgoing)
                return
            self.nbytes -= nbytes
            self.queue_small(stream_id, done.priority, head, body, nbytes)
        self.finished(stream_id)
