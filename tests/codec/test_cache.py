"""The cache is bounded in entries and in bytes, keeps the youngest, and never keeps what is malformed."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.codec import (
    BoundedCache,
    CodecError,
    FairCache,
    Kind,
    MetadataCache,
    TensorSpec,
    dtype_by_name,
    encode_metadata,
)


def test_the_oldest_entry_goes_first_and_a_hit_makes_it_young() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2, 100)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert ("a" in cache, "b" in cache, "c" in cache) == (True, False, True)


def test_cost_bounds_too_and_what_is_dearer_than_everything_is_not_kept() -> None:
    cache: BoundedCache[str, int] = BoundedCache(10, 10)
    cache.put("a", 1, 6)
    cache.put("b", 2, 6)
    assert (len(cache), cache.cost) == (1, 6)
    cache.put("c", 3, 11)
    assert ("c" in cache, "b" in cache) == (False, True)
    cache.put("b", 4, 2)
    assert (cache.get("b"), cache.cost) == (4, 2)
    cache.discard("nothing")
    cache.clear()
    assert (len(cache), cache.cost, cache.get("b")) == (0, 0, None)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))), st.integers(0, 5), st.integers(0, 20))
def test_the_bounds_hold_after_every_step(steps: list[tuple[int, int]], entries: int, cost: int) -> None:
    cache: BoundedCache[int, int] = BoundedCache(entries, cost)
    kept: dict[int, int] = {}
    for key, price in steps:
        cache.put(key, key, price)
        kept[key] = price
        assert len(cache) <= entries
        assert cache.cost <= cost
        assert cache.cost == sum(kept[key] for key in range(10) if key in cache)


def meta(index: int) -> bytes:
    return encode_metadata(f"m{index}", "", [TensorSpec("x", dtype_by_name("int8"), (-1,), Kind.DENSE)])


def test_the_same_bytes_give_the_same_object() -> None:
    cache = MetadataCache()
    first = cache.get(meta(1))
    assert cache.get(bytes(bytearray(meta(1)))) is first
    assert (len(cache), cache.misses) == (1, 1)


def test_a_flood_of_metadata_stays_within_entries_and_bytes() -> None:
    cache = MetadataCache(max_entries=8, max_bytes=1 << 20)
    small = MetadataCache(max_entries=1000, max_bytes=10_000)
    for index in range(100):
        cache.get(meta(index))
        small.get(meta(index))
    assert len(cache) == 8
    assert 1 <= len(small) <= 5
    assert cache.misses == small.misses == 100


def test_malformed_bytes_are_never_kept() -> None:
    cache = MetadataCache()
    for _ in range(2):
        with pytest.raises(CodecError):
            cache.get(b"garbage!")
    assert (len(cache), cache.misses) == (0, 2)


def test_threads_may_share_it() -> None:
    cache: BoundedCache[int, int] = BoundedCache(4, 100)
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(5000):
                key = (step * seed) % 11
                found = cache.get(key)
                assert found is None or found == key + 1
                cache.put(key, key + 1)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(cache) <= 4


def test_the_owner_with_most_pays_for_a_full_cache_and_its_oldest_entry_goes_first() -> None:
    cache: FairCache[int, str] = FairCache(4, 400)
    cache.add(1, "a", 1, b"quiet")
    for key in range(10, 20):
        cache.add(key, "b", 1, b"flood")
    assert [key for key in range(20) if key in cache] == [1, 17, 18, 19]
    assert (len(cache), cache.get(1), cache.get(10)) == (4, "a", None)


def test_few_dear_entries_weigh_more_than_many_cheap_ones() -> None:
    cache: FairCache[int, str] = FairCache(100, 1000)
    for key in range(20):
        cache.add(key, "a", 10, b"many")
    cache.add(100, "b", 500, b"few")
    cache.add(101, "b", 400, b"few")
    assert [key for key in (*range(20), 100, 101) if key not in cache] == [100]


def test_what_owners_that_left_brought_is_one_share() -> None:
    cache: FairCache[int, str] = FairCache(4, 400)
    for key, owner in enumerate((b"one", b"two", b"three")):
        cache.add(key, "a", 1, owner)
        cache.leave(owner)
        cache.leave(owner)
    cache.add(3, "b", 1, b"here")
    assert len(cache) == 4
    cache.add(4, "b", 1, b"here")
    assert [key for key in range(5) if key in cache] == [1, 2, 3, 4]
    for key in range(5, 9):  # theirs is no larger than its own: a flood does not push it out
        cache.add(key, "b", 1, b"here")
    assert len([key for key in (1, 2) if key in cache]) >= 1
    cache.clear()
    assert (len(cache), cache.cost) == (0, 0)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9), st.sampled_from([b"a", b"b", b"c"]), st.booleans())),
    st.integers(1, 5),
    st.integers(1, 20),
)
def test_the_bounds_of_a_shared_cache_hold_after_every_step(
    steps: list[tuple[int, int, bytes, bool]], entries: int, cost: int
) -> None:
    cache: FairCache[int, int] = FairCache(entries, cost)
    paid: dict[int, int] = {}
    for key, price, owner, leaves in steps:
        if key not in cache:
            paid[key] = max(price, -(-cost // entries))
        cache.add(key, key, price, owner)
        if leaves:
            cache.leave(owner)
        assert len(cache) <= entries
        assert cache.cost <= cost
        assert cache.get(key) in (None, key)
        assert cache.cost == sum(paid[key] for key in range(31) if key in cache)


@given(st.lists(st.integers(0, 500), max_size=100))
def test_no_flood_costs_another_owner_an_entry(flood: list[int]) -> None:
    cache: FairCache[int, int] = FairCache(8, 800)
    for key in (1000, 1001, 1002):
        cache.add(key, key, 1, b"quiet")
    for key in flood:
        cache.add(key, key, 1, b"flood")
    assert all(key in cache for key in (1000, 1001, 1002))
