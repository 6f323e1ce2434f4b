"""SlabPool: what is handed out never overlaps, comes back exactly once, and gives its pages back above the mark."""

from __future__ import annotations

import gc
import mmap
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tensorwire.gpu.slab import PAGE, Slab, SlabPool

MIB = 1 << 20


def test_a_slab_is_page_aligned_and_its_view_has_the_length_asked_for() -> None:
    pool = SlabPool(MIB)
    slab = pool.allocate(5000)
    assert slab is not None
    assert slab.offset % PAGE == 0
    assert len(slab.view) == slab.nbytes == 5000
    assert not slab.view.readonly
    assert pool.in_use == 2 * PAGE


def test_an_empty_slab_is_valid() -> None:
    pool = SlabPool(MIB)
    slab = pool.allocate(0)
    assert slab is not None
    assert len(slab.view) == 0
    slab.release()
    assert pool.in_use == 0


def test_a_full_pool_gives_none_and_has_room_again_after_release() -> None:
    pool = SlabPool(4 * PAGE)
    slabs = [pool.allocate(PAGE) for _ in range(4)]
    assert all(slabs)
    assert pool.allocate(1) is None
    slabs[0].release()  # type: ignore[union-attr]
    assert pool.allocate(1) is not None


@pytest.mark.parametrize("nbytes", [-1, MIB + 1, 1 << 62])
def test_sizes_that_can_never_fit_give_none(nbytes: int) -> None:
    assert SlabPool(MIB).allocate(nbytes) is None


def test_release_is_idempotent() -> None:
    pool = SlabPool(MIB)
    first = pool.allocate(PAGE)
    assert first is not None
    first.release()
    first.release()
    assert pool.in_use == 0
    again, other = pool.allocate(PAGE), pool.allocate(PAGE)
    assert again is not None
    assert other is not None
    assert again.offset != other.offset


def test_small_blocks_merge_into_one_that_fills_the_pool() -> None:
    pool = SlabPool(MIB)
    slabs = [pool.allocate(PAGE) for _ in range(MIB // PAGE)]
    for slab in slabs[::2] + slabs[1::2]:
        assert slab is not None
        slab.release()
    whole = pool.allocate(MIB)
    assert whole is not None
    assert whole.offset == 0


def test_a_size_that_is_no_power_of_two_is_used_to_the_last_page() -> None:
    pool = SlabPool(7 * PAGE)
    assert [pool.allocate(size * PAGE) is not None for size in (4, 2, 1, 1)] == [True, True, True, False]


def test_a_lease_ends_when_the_last_derived_view_is_dropped() -> None:
    pool = SlabPool(MIB)
    slab = pool.allocate(PAGE)
    assert slab is not None
    view = slab.lease()
    part = view[16:32]
    array = np.frombuffer(part, dtype=np.float32)
    del view, part
    assert pool.in_use == PAGE
    assert array.shape == (4,)
    del array
    assert pool.in_use == 0
    assert slab.released


def test_a_lease_lives_without_anybody_holding_the_slab() -> None:
    pool = SlabPool(MIB)
    view = pool.allocate(PAGE).lease()  # type: ignore[union-attr]
    gc.collect()
    assert pool.in_use == PAGE
    view[:3] = b"abc"
    del view
    assert pool.in_use == 0


def test_a_released_lease_is_not_released_again_by_its_views() -> None:
    pool = SlabPool(MIB)
    slab = pool.allocate(PAGE)
    assert slab is not None
    view = slab.lease()
    slab.release()
    other = pool.allocate(PAGE)
    assert other is not None
    assert other.offset == slab.offset
    del view
    assert pool.in_use == PAGE


def test_an_empty_lease_comes_back() -> None:
    pool = SlabPool(MIB)
    view = pool.allocate(0).lease()  # type: ignore[union-attr]
    assert pool.in_use == PAGE
    del view
    assert pool.in_use == 0


def resident(pool: SlabPool) -> int:
    return os.fstat(pool.fd).st_blocks * 512


@pytest.mark.skipif(not hasattr(mmap, "MADV_REMOVE"), reason="this system cannot give pages of a mapping back")
def test_pages_go_back_above_the_high_water_mark() -> None:
    pool = SlabPool(64 * MIB, keep=4 * MIB)
    slabs = [pool.allocate(MIB) for _ in range(32)]
    for slab in slabs:
        assert slab is not None
        slab.view[:] = b"x" * MIB
    assert resident(pool) >= 32 * MIB
    for slab in slabs:
        assert slab is not None
        slab.release()
    assert resident(pool) <= 4 * MIB
    assert pool.idle_pages <= 4 * MIB


@pytest.mark.skipif(not hasattr(mmap, "MADV_REMOVE"), reason="this system cannot give pages of a mapping back")
def test_many_small_slabs_give_their_pages_back_too() -> None:
    pool = SlabPool(32 * MIB, keep=MIB)
    slabs = [pool.allocate(PAGE) for _ in range(4096)]
    for slab in slabs:
        assert slab is not None
        slab.view[:1] = b"x"
    for slab in slabs:
        assert slab is not None
        slab.release()
    assert resident(pool) <= 2 * MIB


def test_held_pages_are_never_given_back() -> None:
    pool = SlabPool(16 * MIB, keep=0)
    pool.hold_pages()
    slab = pool.allocate(8 * MIB)
    assert slab is not None
    slab.view[:] = b"x" * len(slab.view)
    before = resident(pool)
    slab.release()
    assert resident(pool) == before


def test_an_attached_pool_sees_the_same_bytes_and_does_not_allocate() -> None:
    pool = SlabPool(MIB)
    slab = pool.allocate(100)
    assert slab is not None
    slab.view[:5] = b"hello"
    attached = SlabPool(MIB, fd=pool.fd)
    assert bytes(attached.view(slab.offset, 5)) == b"hello"
    with pytest.raises(RuntimeError, match="belongs to another process"):
        attached.allocate(1)


def test_attaching_memory_of_another_size_is_refused() -> None:
    pool = SlabPool(MIB)
    with pytest.raises(ValueError, match="expected"):
        SlabPool(2 * MIB, fd=pool.fd)


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 1), (MIB, 1), (0, MIB + 1), (0, -1), (MIB - 1, 2)])
def test_a_view_outside_of_the_pool_is_refused(offset: int, nbytes: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        SlabPool(MIB).view(offset, nbytes)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="seals exist on Linux only")
def test_the_size_of_the_memory_is_sealed() -> None:
    pool = SlabPool(MIB)
    with pytest.raises(OSError):
        os.ftruncate(pool.fd, PAGE)


def test_close_with_views_out_leaves_them_readable() -> None:
    pool = SlabPool(MIB)
    slab = pool.allocate(10)
    assert slab is not None
    view = slab.lease()
    view[:2] = b"ok"
    pool.close()
    pool.close()
    assert bytes(view[:2]) == b"ok"


class PoolMachine(RuleBasedStateMachine):
    """Random allocations, releases and leases: slabs never overlap, counts are exact, nothing is lost."""

    slabs: Bundle[Slab] = Bundle("slabs")
    pages = 61

    def __init__(self) -> None:
        super().__init__()
        self.pool = SlabPool(self.pages * PAGE, keep=16 * PAGE)
        self.live: dict[int, Slab] = {}
        self.views: dict[int, memoryview] = {}

    @rule(target=slabs, pages=st.integers(0, 40), leased=st.booleans())
    def allocate(self, pages: int, leased: bool) -> Slab:
        slab = self.pool.allocate(pages * PAGE)
        if slab is None:
            return Slab(self.pool, 0, 0, 0, memoryview(b""))
        for other in self.live.values():
            before, after = sorted((slab, other), key=lambda each: each.offset)
            assert before.offset + max(before.nbytes, 1) <= after.offset
        self.live[slab.offset] = slab
        if leased:
            self.views[slab.offset] = slab.lease()
        return slab

    @rule(slab=consumes(slabs))
    def give_back(self, slab: Slab) -> None:
        if self.live.get(slab.offset) is slab:
            del self.live[slab.offset]
            if self.views.pop(slab.offset, None) is None:
                slab.release()
            assert slab.released

    @invariant()
    def counts_agree(self) -> None:
        assert self.pool.in_use == sum(slab.room for slab in self.live.values())
        assert all(slab.room == self.pool.room(slab.nbytes) for slab in self.live.values())

    def teardown(self) -> None:
        self.views.clear()
        for slab in self.live.values():
            slab.release()
        assert self.pool.in_use == 0
        for nbytes in (self.pool.largest, self.pool.largest - 1, self.pool.nbytes // 2, 3 * PAGE, 0):
            room = self.pool.allocate(nbytes)
            assert room is not None
            room.release()
        assert self.pool.allocate(self.pool.largest + 1) is None


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestSlabPool = PoolMachine.TestCase


class PowerMachine(PoolMachine):
    """The same in a pool that is one block."""

    pages = 64


PowerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestPowerOfTwoPool = PowerMachine.TestCase


@given(st.integers(1, 4096 * PAGE), st.data())
def test_an_idle_pool_has_room_for_a_slab_if_and_only_if_it_is_at_most_largest(
    nbytes: int, data: st.DataObject
) -> None:
    pool = SlabPool(nbytes)
    assert pool.nbytes // 2 < pool.largest <= pool.nbytes
    around = [0, 1, PAGE, pool.nbytes // 8, pool.nbytes // 3, pool.nbytes // 2, pool.largest, pool.nbytes]
    sizes = st.one_of(
        st.integers(0, pool.nbytes + PAGE), st.builds(int.__add__, st.sampled_from(around), st.integers(0, 1))
    )
    history = [pool.allocate(size) for size in data.draw(st.lists(sizes, max_size=12))]
    for slab in data.draw(st.permutations(history)):
        if slab is not None:
            slab.release()
    assert pool.in_use == 0
    for size in [*data.draw(st.lists(sizes, max_size=4)), pool.largest, pool.largest + 1]:
        slab = pool.allocate(size)
        assert (slab is not None) == (size <= pool.largest)
        if slab is not None:
            assert len(slab.view) == size
            assert pool.in_use == slab.room == pool.room(size) <= max(PAGE, -(-size // PAGE) * PAGE, pool.nbytes // 8)
            slab.release()


def test_what_a_large_slab_leaves_of_its_block_is_used() -> None:
    pool = SlabPool(96 * MIB)
    large = pool.allocate(40 * MIB)
    assert large is not None
    assert pool.in_use == 40 * MIB
    others = [pool.allocate(8 * MIB) for _ in range(7)]
    assert all(others)
    assert pool.in_use == 96 * MIB


@pytest.mark.skipif(not hasattr(mmap, "MADV_REMOVE"), reason="this system cannot give pages of a mapping back")
def test_the_pages_of_a_large_slab_go_back_and_its_rest_counts_none() -> None:
    pool = SlabPool(64 * MIB, keep=4 * MIB)
    slab = pool.allocate(20 * MIB)
    assert slab is not None
    assert pool.idle_pages == 0
    slab.view[:] = b"x" * len(slab.view)
    slab.release()
    assert resident(pool) <= 4 * MIB
    assert pool.idle_pages <= 4 * MIB
