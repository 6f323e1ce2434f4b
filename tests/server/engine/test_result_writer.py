"""Results as the front finds them: one record and one slab per batch, layouts told once, memory waited for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import Encoded
from tensorwire.gpu import SlabPool
from tensorwire.protocol import Status
from tensorwire.server.engine.api import BatchResult, Failure, Request
from tensorwire.server.engine.records import ENCODED, RESULT, SHORT, SIGNATURE, TO_FRONT
from tensorwire.server.engine.result_writer import SLOTS_PER_MESSAGE, ResultWriter
from tensorwire.server.engine.ring import Ring


class Other:
    """A publisher, and the front's end of its ring."""

    def __init__(self, pool_bytes: int = 1 << 20) -> None:
        self.pool = SlabPool(pool_bytes)
        self.ring = Ring(TO_FRONT, 8)
        self.front = Ring(TO_FRONT, 8, self.ring.fd, self.ring.event)
        self.sent: list[dict[str, Any]] = []
        self.records: list[tuple[Any, ...]] = []
        channel: Any = SimpleNamespace(send=lambda kind, **fields: self.sent.append({"kind": kind, **fields}))
        self.publisher = ResultWriter(self.pool, self.ring, channel, self.give_back, self.read)

    def read(self) -> list[tuple[Any, ...]]:
        fresh = self.front.read()
        self.records += fresh
        return fresh

    def give_back(self) -> None:
        for record in self.read():
            if record[0] in {RESULT, SIGNATURE}:
                self.publisher.released(record[5])

    def publish(self, *outcome: BatchResult | Failure) -> list[tuple[Any, ...]]:
        self.publisher.lay_out([*outcome])
        self.publisher.flush()
        return self.read()


@pytest.fixture
def other() -> Iterator[Other]:
    made = Other()
    yield made
    made.front.close()
    made.ring.close()


def requests(*slots: int) -> list[Request]:
    made = [Request(slot, 1.0) for slot in slots]
    for request in made:
        request.slot = request.stream_id
        request.rows = 1
    return made


def batch(*slots: int, row_bytes: int = 8) -> BatchResult:
    y = np.arange(len(slots) * row_bytes, dtype=np.uint8).data
    signature = (("y", "uint8", (row_bytes,), row_bytes),)
    return BatchResult(requests(*slots), signature, [y], len(slots), 1.0, 2.0, 3.0, 4.0)


def test_a_layout_is_told_once_and_each_batch_is_slots_and_outputs(other: Other) -> None:
    layout, result = other.publish(batch(5, 3))
    assert (layout[0], result[0]) == (SIGNATURE, RESULT)
    view = other.pool.view(result[5], result[6])
    assert list(view[:8].cast("I")) == [5, 3]
    assert bytes(view[64:]) == bytes(range(16))
    assert [record[0] for record in other.publish(batch(1))] == [RESULT]


def test_one_that_ran_alone_is_body_metadata_and_dims(other: Other) -> None:
    encoded = Encoded(b"meta", b"di", [memoryview(b"the body")], 8)
    (record,) = other.publish(BatchResult(requests(7), (), [], 1, 1.0, 2.0, 3.0, 4.0, encoded))
    assert (record[0], record[2], record[3], record[6]) == (ENCODED, 4, 2, 8)
    view = other.pool.view(record[5], 64 + 8 + 4 + 2)
    assert (view[0], bytes(view[64:])) == (7, b"the bodymetadi")


def test_a_failure_goes_by_the_channel_in_pieces_that_fit(other: Other) -> None:
    slots = range(SLOTS_PER_MESSAGE + 1)
    other.publish(Failure(requests(*slots), Status.INTERNAL, "no", started=True))
    assert [len(message["slots"]) for message in other.sent] == [SLOTS_PER_MESSAGE, 1]


def test_memory_is_waited_for_and_the_front_is_told(other: Other) -> None:
    for slot in range(6):
        other.publisher.lay_out([batch(slot, row_bytes=400_000)])
        other.publisher.flush()
    assert SHORT in {record[0] for record in other.records}
    assert other.sent == []


def test_outputs_that_can_never_fit_fail_their_batch(other: Other) -> None:
    other.publish(batch(2, row_bytes=4 << 20))
    assert [(message["kind"], message["slots"]) for message in other.sent] == [("failure", [2])]


def test_a_full_ring_is_stood_by_for(other: Other) -> None:
    for _ in range(20):
        other.publisher.say(SHORT)
    other.publisher.flush()
    other.read()
    assert len(other.records) == 20


def test_a_result_that_can_never_fit_waits_for_nobody_and_names_the_limit() -> None:
    other = Other(96 << 10)
    (result,) = [record for record in other.publish(batch(1)) if record[0] == RESULT]
    assert [record[0] for record in other.publish(batch(2, row_bytes=80 << 10))] == [SIGNATURE]
    (failure,) = other.sent
    assert failure["status"] == int(Status.RESOURCE_EXHAUSTED)
    assert "more than the 65536 that the model's result memory has room for" in failure["message"]
    other.publisher.released(result[5])
    other.front.close()
    other.ring.close()


def rows_of(other: Other, record: tuple[Any, ...], row_bytes: int) -> dict[int, int]:
    """Slot -> first byte of its row, of one result whose calls have one row each."""
    count, offset = record[3], record[5]
    view = other.pool.view(offset, record[6])
    start = -(-4 * count // 64) * 64
    return {slot: view[start + at * row_bytes] for at, slot in enumerate(view[: 4 * count].cast("I"))}


def test_a_batch_whose_outputs_do_not_fit_goes_in_pieces_that_do() -> None:
    other = Other(256 << 10)
    got: dict[int, int] = {}

    def give_back() -> None:
        for record in other.front.read():
            if record[0] == RESULT:
                assert record[4] == record[3]  # rows
                got.update(rows_of(other, record, 12 << 10))
            if record[0] in {RESULT, SIGNATURE}:
                other.publisher.released(record[5])

    other.publisher._wait = give_back
    y = np.repeat(np.arange(28, dtype=np.uint8), 12 << 10)
    signature = (("y", "uint8", (12 << 10,), 12 << 10),)
    other.publisher.lay_out([BatchResult(requests(*range(28)), signature, [y.data], 28, 1.0, 2.0, 3.0, 4.0)])
    other.publisher.flush()
    give_back()
    assert got == {slot: slot for slot in range(28)}
    assert other.sent == []


def test_of_a_batch_only_the_call_that_never_fits_fails_and_is_told_the_limit_and_the_setting() -> None:
    other = Other(96 << 10)
    calls = requests(0, 1, 2)
    for call, rows in zip(calls, (1, 5, 1), strict=True):
        call.rows = rows
    y = np.repeat(np.arange(7, dtype=np.uint8), 16 << 10)
    signature = (("y", "uint8", (16 << 10,), 16 << 10),)
    records = other.publish(BatchResult(calls, signature, [y.data], 7, 1.0, 2.0, 3.0, 4.0))
    results = [rows_of(other, record, 16 << 10) for record in records if record[0] == RESULT]
    assert results == [{0: 0}, {2: 6}]
    (failure,) = other.sent
    assert failure["slots"] == [1]
    assert "65536 that the model's result memory has room for; result_bytes in model.toml" in failure["message"]
    other.front.close()
    other.ring.close()
