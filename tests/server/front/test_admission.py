"""Where a call goes is worked out once per signature; what cannot go anywhere is told why."""

from __future__ import annotations

import struct
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.codec import FREE, Resolved, SignatureError, TensorSpec, dtype_by_name, encode_metadata
from tensorwire.gpu import SlabPool
from tensorwire.gpu.slab import PAGE
from tensorwire.protocol import Status, pack_extension
from tensorwire.server.engine.api import Prepared
from tensorwire.server.front.admission import Admission, certainly_late
from tensorwire.server.front.body_memory import BodyPool
from tensorwire.server.front.call import Call, Refuse, Route
from tensorwire.server.front.principals import Principal
from tensorwire.server.latency_estimate import MIN_BATCHES
from tensorwire.server.model import Model
from tensorwire.server.model_stats import ModelStats
from tensorwire.server.registry import Registry
from tensorwire.server.settings import load_settings

META = encode_metadata("m", "", [TensorSpec("x", dtype_by_name("float32"), (FREE, FREE))])
POOL_BYTES = 1 << 20


class FakeEngine:
    """Knows one width; counts what it is asked."""

    def __init__(self) -> None:
        self.prepared = 0
        self.effective_max_batch = 1
        self.queue_depth = 0

    def prepare(self, resolved: Resolved, meta: bytes, dims: bytes) -> Prepared:
        self.prepared += 1
        if resolved.tensors[0].shape[1] != 4:
            raise SignatureError("x", str(resolved.tensors[0]), "float32[-1, 4]")
        return Prepared(1, 1, None, (), resolved, meta, dims)

    def submit(self, *arguments: Any) -> None:
        return


class Harness:
    def __init__(self, *flags: tuple[str, str]) -> None:
        self.engine = FakeEngine()
        spec: Any = SimpleNamespace(name="m", version="1", max_queue=64)
        engine: Any = self.engine
        self.model = Model(spec, engine, "inline", ModelStats("m", "1"))
        registry = Registry()
        registry.add(self.model)
        self.pool = SlabPool(POOL_BYTES)
        self.admission = Admission(registry)
        self.bodies = BodyPool(self.pool)
        self.principal = Principal("anonymous", 0, load_settings(flags=dict(flags)))

    def route(
        self, dims: tuple[int, ...] = (2, 4), meta: bytes = META, owner: bytes = b"one", **items: Any
    ) -> Route | Resolved:
        ext = pack_extension(dims=struct.pack(f"<{len(dims)}Q", *dims), **items)
        return self.admission.route(self.principal, ext, meta, owner)

    def refused(self, *arguments: Any, **options: Any) -> Refuse:
        with pytest.raises(Refuse) as refused:
            self.route(*arguments, **options)
        return refused.value


def test_a_signature_is_worked_out_once() -> None:
    harness = Harness()
    first = harness.route()
    assert harness.route() is first
    assert harness.engine.prepared == 1
    assert isinstance(first, Route)
    assert first.body_length == 32


def test_what_differs_from_call_to_call_is_not_part_of_the_key() -> None:
    harness = Harness()
    first = harness.route()
    for number in range(10):
        assert harness.route(trace=bytes([number] * 25)) is first
    assert len(harness.principal.routes) == 1


def test_the_length_of_a_big_body_is_part_of_the_key_it_is_found_by() -> None:
    harness = Harness()
    route = harness.route(body_length=32)
    ext = pack_extension(dims=struct.pack("<2Q", 2, 4), body_length=32)
    assert harness.principal.routes.get((ext, META)) is route


def test_what_is_remembered_is_bounded() -> None:
    harness = Harness(("cache_entries", "8"))
    for rows in range(100):
        harness.route((rows, 4))
    assert len(harness.principal.routes) <= 8
    assert len(harness.principal.metadata) <= 8


def test_a_flood_of_one_connection_pushes_out_its_own_signatures_only() -> None:
    harness = Harness(("cache_entries", "8"))
    first = [harness.route((rows, 4), owner=b"quiet") for rows in (1, 2, 3)]
    for rows in range(4, 500):
        harness.route((rows, 4), owner=b"flood")
    worked_out = harness.engine.prepared
    assert [harness.route((rows, 4), owner=b"quiet") for rows in (1, 2, 3)] == first
    assert harness.engine.prepared == worked_out
    assert len(harness.principal.routes) == 8


def test_what_a_lost_connection_brought_stays_and_is_nobodys() -> None:
    harness = Harness(("cache_entries", "8"))
    for rows in range(1, 9):
        harness.route((rows, 4), owner=b"lost")
    harness.principal.leave(b"lost")
    mine = harness.route((100, 4), owner=b"mine")
    worked_out = harness.engine.prepared
    harness.route((2, 4), owner=b"mine")  # still there while there is room
    assert harness.engine.prepared == worked_out
    for rows in range(200, 203):  # until it has half of the room, the larger share gives way
        harness.route((rows, 4), owner=b"mine")
    assert harness.route((100, 4), owner=b"mine") is mine


def test_a_wrong_signature_is_refused_and_not_remembered() -> None:
    harness = Harness()
    refusal = harness.refused((2, 5))
    assert refusal.status is Status.INVALID_ARGUMENT
    assert refusal.message == "model 'm': x: sent float32[2, 5], expected float32[-1, 4]"
    assert refusal.model is harness.model
    assert len(harness.principal.routes) == 0


def test_malformed_metadata_is_refused() -> None:
    refusal = Harness().refused(meta=b"nonsense")
    assert refusal.status is Status.INVALID_ARGUMENT
    assert "metadata" in refusal.message


def test_a_service_name_is_not_a_model() -> None:
    meta = encode_metadata("$models", "", [TensorSpec("payload", dtype_by_name("uint8"), (FREE,))])
    assert isinstance(Harness().route((1,), meta), Resolved)


def test_memory_is_given_whole_or_not_at_all() -> None:
    harness = Harness()
    big = harness.route((POOL_BYTES // 32, 4))
    assert isinstance(big, Route)
    others = harness.pool.allocate(POOL_BYTES)
    assert others is not None
    with pytest.raises(Refuse, match=f"{POOL_BYTES} of {POOL_BYTES} bytes are in use") as refused:
        harness.bodies.take(big, big.body_length, 0)
    assert refused.value.status is Status.RESOURCE_EXHAUSTED
    others.release()
    assert len(harness.bodies.take(big, big.body_length, 0).view) == big.body_length


MIB = 1 << 20
FOUND = [(96 * MIB, 48 * MIB), (1536 * MIB, 600 * MIB), (3072 * MIB, 1100 * MIB), (10240 * MIB, 4096 * MIB + 7)]


@given(st.one_of(st.sampled_from(FOUND), st.tuples(st.integers(MIB, 1 << 34), st.integers(1, 1 << 34))))
def test_an_idle_server_takes_every_body_up_to_the_limit_that_it_announces(sizes: tuple[int, int]) -> None:
    pool_bytes, body_length = sizes
    limit = load_settings(flags={"pool_bytes": str(pool_bytes)}).message_limit
    pool = SlabPool(pool_bytes)
    bodies = BodyPool(pool)
    assert pool.nbytes // 2 - 2 * PAGE < limit <= pool.nbytes // 2
    for nbytes in (limit, min(limit, body_length)):
        route: Any = SimpleNamespace(body_length=nbytes)
        slab = bodies.take(route, nbytes, 0)
        assert slab.nbytes == nbytes
        bodies.receiving -= slab.room
        slab.release()


def test_unfinished_bodies_leave_a_quarter_of_the_pool_to_the_others() -> None:
    harness = Harness()
    quarter = harness.route((POOL_BYTES // 64, 4))
    assert isinstance(quarter, Route)
    for _ in range(3):
        harness.bodies.take(quarter, quarter.body_length, 0)
    with pytest.raises(Refuse, match=f"{POOL_BYTES // 4 * 3} bytes are held by unfinished bodies") as refused:
        harness.bodies.take(quarter, quarter.body_length, 0)
    assert refused.value.status is Status.RESOURCE_EXHAUSTED


def test_unfinished_bodies_of_one_connection_hold_at_most_half_of_the_pool() -> None:
    harness = Harness()
    route = harness.route((POOL_BYTES // 64 + 1, 4))  # a little more than a quarter: two are more than a half
    assert isinstance(route, Route)
    held = harness.bodies.take(route, route.body_length, 0).room
    assert POOL_BYTES // 4 < held == harness.pool.in_use <= POOL_BYTES // 4 + PAGE
    with pytest.raises(Refuse, match="this connection's unfinished bodies") as refused:
        harness.bodies.take(route, route.body_length, held)
    assert refused.value.status is Status.RESOURCE_EXHAUSTED


def test_memory_for_another_length_than_the_shapes_is_refused() -> None:
    harness = Harness()
    route = harness.route()
    assert isinstance(route, Route)
    with pytest.raises(Refuse, match="sent 33 bytes, expected 32"):
        harness.bodies.take(route, 33, 0)
    assert harness.pool.in_use == 0


@pytest.mark.parametrize(
    ("batches", "queued", "allowed", "refused"),
    [
        (MIN_BATCHES, 10, 0.05, True),
        (MIN_BATCHES, 10, 0.2, False),
        (MIN_BATCHES, 0, 0.005, False),
        (MIN_BATCHES - 1, 10, 0.05, False),
        (MIN_BATCHES, 10, inf, False),
    ],
    ids=["late", "in-time", "idle", "unknown", "no-deadline"],
)
def test_only_what_is_certainly_late_is_refused(batches: int, queued: int, allowed: float, refused: bool) -> None:
    harness = Harness()
    for _ in range(batches):
        harness.model.latency.batch_done(0.010, now=100.0)
    harness.engine.queue_depth = queued
    route = harness.route()
    assert isinstance(route, Route)
    target: Any = None
    call = Call(1, target, 100.0, route, 0, 0, want_timing=False)
    call.deadline = 100.0 + allowed
    assert (certainly_late(call) is not None) is refused
