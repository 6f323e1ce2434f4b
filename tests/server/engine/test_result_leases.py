"""A result slab goes back when the last view of it is gone; a wake-up is asked for only when it is worth one."""

from __future__ import annotations

import gc

import numpy as np

from tensorwire.server.engine.result_leases import LARGE, MANY, ResultLeases


def make() -> tuple[ResultLeases, list[int]]:
    calls: list[int] = []
    return ResultLeases(lambda: calls.append(1)), calls


def memory() -> memoryview:
    return memoryview(bytearray(64))


def test_a_slab_is_released_with_its_last_view() -> None:
    leases, _ = make()
    view = leases.lease(memory(), 4096)
    array = np.frombuffer(view[8:16], np.float32)
    del view
    gc.collect()
    assert list(leases.released) == []
    assert array.tolist() == [0.0, 0.0]
    del array
    assert list(leases.released) == [4096]


def test_releases_wait_until_there_are_many() -> None:
    leases, calls = make()
    for offset in range(MANY):
        assert calls == []
        leases.lease(memory(), offset)
    assert calls == [1]


def test_a_large_slab_does_not_wait() -> None:
    leases, calls = make()
    leases.lease(memoryview(bytearray(LARGE)), 1)
    assert calls == [1]


def test_in_a_hurry_nothing_waits() -> None:
    leases, calls = make()
    leases.release_eagerly()
    assert calls == [1]  # whoever is woken sees that memory is short
    leases.lease(memory(), 1)
    assert calls == [1, 1]


def test_hurry_tells_what_has_waited() -> None:
    leases, calls = make()
    leases.lease(memory(), 1)
    assert calls == []
    leases.release_eagerly()
    assert calls == [1]


def test_after_close_views_live_on_and_nothing_is_told() -> None:
    leases, calls = make()
    view = leases.lease(memory(), 1)
    leases.eager = True
    leases.close()
    view[:2] = b"ok"
    assert bytes(view[:2]) == b"ok"
    del view
    assert list(leases.released) == []
    assert calls == []
