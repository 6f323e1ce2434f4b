"""Records of an engine process become results; what cannot be is refused, and what came before it is kept."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest

from tensorwire.gpu import Slab, SlabPool
from tensorwire.server.engine.api import BatchResult, Failure, Request
from tensorwire.server.engine.batch_memory import BatchMemory
from tensorwire.server.engine.blocks import Block
from tensorwire.server.engine.inflight import InFlight
from tensorwire.server.engine.records import (
    CANCELLED,
    ENCODED,
    PREPARED,
    RESULT,
    SHORT,
    SIGNATURE,
    TO_FRONT,
    output_places,
)
from tensorwire.server.engine.result_leases import ResultLeases
from tensorwire.server.engine.result_reader import PROTOCOL_VIOLATIONS, ResultReader
from tensorwire.server.engine.ring import Ring

SIGNATURES = (("y", "float32", (2,), 8), ("z", "uint8", (), 1))


class Other:
    """The process's side, played by the test; also what `ResultReader` knows of a worker."""

    def __init__(self) -> None:
        self.ring = Ring(TO_FRONT, 64)
        self.to_front = Ring(TO_FRONT, 64, self.ring.fd, self.ring.event)
        self.results = SlabPool(1 << 20)
        self.marks = memoryview(bytearray(8))
        self.pool = SlabPool(1 << 20)
        self.in_flight = InFlight(8, BatchMemory(self.pool, 8))
        self.urgent: list[int] = []
        self.prepared: list[int] = []
        self.leases = ResultLeases(lambda: self.urgent.append(1))
        worker: Any = self
        self.reader = ResultReader(worker, self.in_flight, self.leases, self.prepared.append)

    def request(self, rows: int = 1) -> Request:
        request = Request(0, time.monotonic())
        slab = self.pool.allocate(64)
        assert slab is not None
        request.block = Block(None, slab.view, rows, (), slab)
        request.block.live = request.rows = rows
        request.slot = self.in_flight.free.pop()
        self.in_flight.pending[request.slot] = request
        return request

    def slab(self, raw: bytes) -> Slab:
        slab = self.results.allocate(len(raw))
        assert slab is not None
        slab.view[:] = raw
        return slab

    def say(
        self, kind: int, signature: int = 0, count: int = 0, rows: int = 0, offset: int = 0, nbytes: int = 0
    ) -> None:
        assert self.ring.push(kind, 0, signature, count, rows, offset, nbytes, 1.0, 2.0, 3.0, 4.0)
        self.ring.publish()

    def send(self, number: int = 0) -> int:
        raw = msgpack.packb(SIGNATURES)
        slab = self.slab(raw)
        self.say(SIGNATURE, signature=number, offset=slab.offset, nbytes=len(raw))
        return slab.offset

    def result(self, requests: list[Request], rows: int, signature: int = 0) -> None:
        places, nbytes = output_places(len(requests), rows, SIGNATURES)
        raw = bytearray(nbytes)
        raw[: 4 * len(requests)] = array("I", [request.slot for request in requests]).tobytes()
        y, z = np.arange(2 * rows, dtype=np.float32), np.arange(rows, dtype=np.uint8)
        for (start, size), value in zip(places, (y.tobytes(), z.tobytes()), strict=True):
            raw[start : start + size] = value
        slab = self.slab(bytes(raw))
        self.say(RESULT, signature, len(requests), rows, slab.offset, nbytes)

    def read(self) -> tuple[bool, list[BatchResult | Failure]]:
        outcome: list[BatchResult | Failure] = []
        return self.reader.read(outcome), outcome


@pytest.fixture
def other() -> Iterator[Other]:
    made = Other()
    yield made
    made.ring.close()
    made.to_front.close()


def test_a_result_lists_its_requests_and_shows_its_outputs(other: Other) -> None:
    first, second = other.request(), other.request(2)
    introduced = other.send()
    other.result([second, first], 3)
    progress, (result,) = other.read()
    assert progress
    assert isinstance(result, BatchResult)
    assert result.requests == [second, first]
    assert (result.batch_rows, result.planned, result.copied_in, result.computed, result.copied_out) == (3, 1, 2, 3, 4)
    y, z = result.outputs
    assert result.signature[0] == ("y", "float32", (2,), 8)
    assert np.frombuffer(y, np.float32).tolist() == [0, 1, 2, 3, 4, 5]
    assert bytes(z) == b"\x00\x01\x02"
    assert list(other.leases.released) == [introduced]
    assert other.in_flight.count == 0
    assert other.pool.in_use == 0


def test_an_encoded_result_is_body_metadata_and_dims(other: Other) -> None:
    request = other.request()
    raw = request.slot.to_bytes(4, "little") + bytes(60) + b"the body" + b"meta" + b"di"
    slab = other.slab(raw)
    other.say(ENCODED, signature=4, count=2, rows=1, offset=slab.offset, nbytes=8)
    _, (result,) = other.read()
    assert isinstance(result, BatchResult)
    assert result.encoded is not None
    assert (result.encoded.meta, result.encoded.dims) == (b"meta", b"di")
    assert (b"".join(result.encoded.buffers), result.encoded.body_length) == (b"the body", 8)


def test_a_cancelled_request_is_over_without_a_result(other: Other) -> None:
    request = other.request()
    other.say(CANCELLED, count=request.slot)
    assert other.read() == (True, [])
    assert other.in_flight.count == 0


def test_news_that_end_no_request_are_no_progress(other: Other) -> None:
    other.say(PREPARED, count=5)
    other.say(SHORT)
    assert other.read() == (False, [])
    assert other.prepared == [5]
    assert other.leases.eager


def test_a_result_ends_the_hurry(other: Other) -> None:
    other.send()
    other.say(SHORT)
    other.result([other.request()], 1)
    _, outcome = other.read()
    assert outcome
    assert not other.leases.eager


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (99, {}),
        (RESULT, {"signature": 7}),
        (RESULT, {"count": 1, "rows": 1, "offset": 1 << 40, "nbytes": 4096}),
        (RESULT, {"count": 1, "rows": 1, "offset": 0, "nbytes": 0}),
        (RESULT, {"count": 1 << 20, "rows": 1, "offset": 0, "nbytes": 4096}),
        (ENCODED, {"offset": 0, "nbytes": 1 << 50}),
        (CANCELLED, {"count": 3}),
        (CANCELLED, {"count": 1 << 20}),
        (SIGNATURE, {"offset": 0, "nbytes": 0}),
        (SIGNATURE, {"offset": 1 << 19, "nbytes": 3}),
    ],
)
def test_what_cannot_be_is_refused_and_what_came_before_is_kept(
    other: Other, kind: int, fields: dict[str, int]
) -> None:
    good, waiting = other.request(), other.request()
    other.send()
    other.result([good], 1)
    other.say(kind, **fields)
    outcome: list[BatchResult | Failure] = []
    with pytest.raises(PROTOCOL_VIOLATIONS):
        other.reader.read(outcome)
    assert [each.requests for each in outcome] == [[good]]
    assert other.in_flight.holds(waiting)
