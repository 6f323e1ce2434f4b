"""ReplyEncoder: rows handed on as views, names and shapes encoded once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import decode_arrays, decode_metadata, resolve
from tensorwire.protocol import LocalError, Status, parse_extension
from tensorwire.protocol.header import DATA, END_STREAM, HEADER, HEADER_SIZE
from tensorwire.server.engine.api import BatchResult
from tensorwire.server.front.reply_encoder import ReplyEncoder


class FakeTarget:
    """Takes what would be sent."""

    def __init__(self) -> None:
        self.sent: dict[int, tuple[bytes, bytes, list[Any], int]] = {}
        self.failed: dict[int, Status] = {}
        self.done: list[int] = []
        self.broken = False
        self.behind = False
        self.over_budget = False
        self.in_chunks: set[int] = set()
        self.together: list[list[int]] = []

    def reply_limit_reached(self) -> bool:
        return self.behind

    def over_reply_budget(self) -> bool:
        return self.over_budget

    def reply(self, call: Any, meta: bytes, ext: bytes, body: list[Any], length: int) -> None:
        if self.broken:
            raise LocalError("not open")
        self.sent[call.stream_id] = (meta, ext, body, length)
        self.done.append(call.stream_id)

    def reply_together(self, calls: list[Any], stream_ids: list[int], frames: list[Any], nbytes: int) -> bool:
        if self.broken or self.in_chunks.intersection(stream_ids):
            return False
        raw = b"".join(frames)
        assert len(raw) == nbytes
        self.together.append(stream_ids)
        while raw:
            length, kind, of_class, flags, stream_id, seq, aux, meta_len, ext_len, _ = HEADER.unpack_from(raw)
            assert (kind, of_class, flags, seq, aux) == (DATA, calls[0].priority, END_STREAM, 0, 0)
            assert stream_id in stream_ids
            ext, rest = raw[HEADER_SIZE : HEADER_SIZE + ext_len], raw[HEADER_SIZE + ext_len : HEADER_SIZE + length]
            self.sent[stream_id] = (rest[:meta_len], ext, [rest[meta_len:]], len(rest) - meta_len)
            raw = raw[HEADER_SIZE + length :]
        self.done += stream_ids
        return True

    def fail(self, call: Any, status: Status, message: str, *, started: bool) -> None:
        self.failed[call.stream_id] = status

    def arrays(self, stream_id: int) -> dict[str, Any]:
        meta, ext, body, length = self.sent[stream_id]
        raw = b"".join(body)
        assert len(raw) == length
        return decode_arrays(resolve(decode_metadata(meta), parse_extension(ext).dims), raw)


def call(
    target: FakeTarget, stream_id: int, rows: int, *, done: bool = False, timing: bool = False, priority: int = 0
) -> Any:
    route = SimpleNamespace(engine=SimpleNamespace(spec=SimpleNamespace(max_wait=0.0)))
    return SimpleNamespace(
        target=target,
        stream_id=stream_id,
        rows=rows,
        done=done,
        want_timing=timing,
        priority=priority,
        arrived=1.0,
        first_byte=0.5,
        route=route,
    )


def batch(calls: list[Any], arrays: dict[str, np.ndarray[Any, Any]]) -> BatchResult:
    signature = tuple((name, a.dtype.name, a.shape[1:], a[:1].nbytes) for name, a in arrays.items())
    outputs = [a.reshape(-1).view(np.uint8).data for a in arrays.values()]
    return BatchResult(calls, signature, outputs, sum(one.rows for one in calls), 1.1, 1.2, 1.4, 1.5)


def deliver(arrays: dict[str, np.ndarray[Any, Any]], calls: list[Any], replies: ReplyEncoder | None = None) -> set[Any]:
    touched: set[Any] = set()
    replied: list[Any] = []
    (replies or ReplyEncoder("m", "1")).deliver(batch(calls, arrays), 2.0, touched, replied)
    assert all(one.stream_id in one.target.done for one in replied)
    return touched


@pytest.mark.parametrize(("columns", "shares"), [(2, False), (8192, True)])
def test_each_call_gets_its_rows_and_no_byte_of_a_large_output_is_copied(columns: int, shares: bool) -> None:
    """Outputs up to 64 KiB are copied once, all rows together."""
    y = np.arange(5 * columns, dtype=np.float32).reshape(5, columns)
    target = FakeTarget()
    assert deliver({"y": y}, [call(target, 1, 2), call(target, 2, 3)]) == {target}
    np.testing.assert_array_equal(target.arrays(1)["y"], y[:2])
    np.testing.assert_array_equal(target.arrays(2)["y"], y[2:])
    assert np.shares_memory(np.frombuffer(target.sent[2][2][0], np.uint8), y) == shares


def test_the_metadata_of_all_replies_is_the_same_bytes() -> None:
    target, replies = FakeTarget(), ReplyEncoder("m", "1")
    for stream_id, rows in ((1, 1), (2, 7)):
        deliver({"y": np.zeros((rows, 2), np.float32)}, [call(target, stream_id, rows)], replies)
    assert target.sent[1][0] == target.sent[2][0]


def test_a_call_that_is_over_is_skipped_and_its_rows_too() -> None:
    y = np.arange(3, dtype=np.int64)
    target = FakeTarget()
    deliver({"y": y}, [call(target, 1, 1), call(target, 2, 1, done=True), call(target, 3, 1)])
    assert sorted(target.sent) == [1, 3]
    assert target.arrays(3)["y"][0] == 2


def test_several_outputs_are_padded_and_empty_ones_take_no_place() -> None:
    outputs: dict[str, np.ndarray[Any, Any]] = {
        "a": np.arange(3, dtype=np.float32).reshape(3, 1),
        "empty": np.zeros((3, 0), np.float32),
        "b": np.arange(6, dtype=np.float64).reshape(3, 2),
        "flag": np.array([True, False, True]),
    }
    target = FakeTarget()
    deliver(outputs, [call(target, 1, 1), call(target, 2, 2)])
    for name, array in outputs.items():
        np.testing.assert_array_equal(target.arrays(2)[name], array[1:], err_msg=name)


def test_more_outputs_than_dims_have_room_for_are_sent_with_fixed_shapes() -> None:
    outputs: dict[str, Any] = {f"y{number}": np.full((2, 3), number, np.float32) for number in range(200)}
    target = FakeTarget()
    deliver(outputs, [call(target, 1, 2)])
    assert target.arrays(1)["y150"].tolist() == [[150] * 3] * 2
    assert len(target.sent[1][1]) == 0


def test_timing_tells_where_the_time_went() -> None:
    target = FakeTarget()
    deliver({"y": np.zeros((1, 1), np.float32)}, [call(target, 1, 1, timing=True)])
    timing = parse_extension(target.sent[1][1]).timing
    assert timing == pytest.approx((500_000, 100_000, 0, 100_000, 200_000, 100_000, 1_500_000), abs=2)


def test_a_reply_that_cannot_be_sent_fails_alone() -> None:
    good, bad = FakeTarget(), FakeTarget()
    bad.broken = True
    deliver({"y": np.zeros((2, 1), np.float32)}, [call(bad, 1, 1), call(good, 1, 1)])
    assert bad.failed == {1: Status.INTERNAL}
    assert good.done == [1]


def test_an_engine_whose_shapes_change_gets_its_replies_right() -> None:
    target, replies = FakeTarget(), ReplyEncoder("m", "1")
    for stream_id, width in enumerate((2, 3, 2, 4), 1):
        y = np.full((1, width), stream_id, np.float32)
        deliver({"y": y}, [call(target, stream_id, 1)], replies)
        assert target.arrays(stream_id)["y"].tolist() == y.tolist()


def test_the_plan_is_kept_while_the_engine_gives_the_same_signature() -> None:
    target, replies = FakeTarget(), ReplyEncoder("m", "1")
    first = batch([call(target, 1, 1)], {"y": np.zeros((1, 2), np.float32)})
    replies.deliver(first, 2.0, set(), [])
    again = BatchResult([call(target, 2, 1)], first.signature, first.outputs, 1, 1.1, 1.2, 1.4, 1.5)
    replies.deliver(again, 2.0, set(), [])
    assert target.sent[2][0] == target.sent[1][0]


def test_neighbours_of_one_session_class_and_number_of_rows_are_queued_together() -> None:
    y = np.arange(22, dtype=np.float32).reshape(11, 2)
    one, other = FakeTarget(), FakeTarget()
    calls = [
        *(call(one, 1, 1), call(one, 2, 1, done=True), call(one, 3, 1), call(other, 1, 1), call(other, 2, 1)),
        *(call(one, 4, 1), call(one, 5, 2), call(one, 6, 1, priority=3), call(one, 7, 1, timing=True)),
        call(one, 8, 1, priority=3),
    ]
    deliver({"y": y}, calls)
    assert (one.together, other.together) == ([[1, 3], [4], [5], [6], [8]], [[1, 2]])
    sent = [(target, stream_id) for target in (one, other) for stream_id in sorted(target.sent)]
    rows = [target.arrays(stream_id)["y"][:, 0].tolist() for target, stream_id in sent]
    assert rows == [[0], [4], [10], [12, 14], [16], [18], [20], [6], [8]]


def test_no_more_are_queued_together_than_one_record_may_hold() -> None:
    target = FakeTarget()
    deliver({"y": np.zeros((14, 2500), np.float32)}, [call(target, i, 1) for i in range(1, 15)])
    assert [len(ids) for ids in target.together] == [6, 6, 2]


def test_the_reply_to_a_call_that_came_in_chunks_leaves_with_its_neighbours() -> None:
    y = np.arange(8, dtype=np.float32).reshape(4, 2)
    target = FakeTarget()
    target.in_chunks = {2}
    deliver({"y": y}, [call(target, i, 1) for i in range(1, 5)])
    assert sorted(target.done) == [1, 2, 3, 4]
    assert [target.arrays(i)["y"][0, 0] for i in range(1, 5)] == [0, 2, 4, 6]


def test_who_does_not_read_gets_an_error_instead_of_a_reply() -> None:
    y = np.arange(2, dtype=np.float32).reshape(2, 1)
    slow, other = FakeTarget(), FakeTarget()
    slow.behind = True
    deliver({"y": y}, [call(slow, 1, 1), call(other, 1, 1)])
    assert (slow.sent, slow.failed) == ({}, {1: Status.RESOURCE_EXHAUSTED})
    assert other.arrays(1)["y"][0] == 1


def test_over_the_budget_a_large_reply_holds_its_own_rows_and_not_the_batch() -> None:
    y = np.ones((2, 1 << 15), np.float32)
    target = FakeTarget()
    target.over_budget = True
    deliver({"y": y}, [call(target, 1, 1), call(target, 2, 1)])
    deliver({"y": y}, [call(target, 3, 2)])
    shared = [np.shares_memory(np.frombuffer(target.sent[i][2][0], np.uint8), y) for i in (1, 2, 3)]
    assert shared == [False, False, True]
    np.testing.assert_array_equal(target.arrays(2)["y"], y[1:])
