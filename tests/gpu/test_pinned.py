"""A pool is registered once, whole, and unregistered at close; what CUDA refuses is a PinError."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from tensorwire.gpu import SlabPool
from tensorwire.gpu.pinned import PinError, Registration, pin_problem


class RuntimeErrorOfCuda(Exception):
    pass


def install(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Any, ...]], fails: bool = False) -> None:
    def register(address: int, nbytes: int, flags: int) -> None:
        if fails:
            raise RuntimeErrorOfCuda("out of memory")
        calls.append(("register", address, nbytes, flags))

    runtime = types.SimpleNamespace(
        hostRegister=register,
        setDevice=lambda device: None,
        hostUnregister=lambda address: calls.append(("unregister", address)),
        CUDARuntimeError=RuntimeErrorOfCuda,
    )
    module: Any = types.ModuleType("cupy")
    module.cuda = types.SimpleNamespace(runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", module)


def test_the_whole_pool_is_registered_and_unregistered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    install(monkeypatch, calls)
    pool = SlabPool(1 << 20)
    registration = Registration(pool)
    registration.close()
    registration.close()
    assert calls == [("register", pool.address, 1 << 20, 1), ("unregister", pool.address)]


def test_a_pinned_pool_keeps_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [])
    pool = SlabPool(1 << 20, keep=0)
    Registration(pool)
    slab = pool.allocate(1 << 19)
    assert slab is not None
    slab.view[:1] = b"x"
    slab.release()
    assert bytes(pool.view(slab.offset, 1)) == b"x"


def test_a_refusal_says_how_much_and_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [], fails=True)
    with pytest.raises(PinError, match=r"1048576 bytes.*out of memory.*ulimit"):
        Registration(SlabPool(1 << 20))


def test_without_a_cuda_library_the_reasons_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PinError, match="no CUDA library"):
        Registration(SlabPool(1 << 20))


def test_whether_slabs_can_be_pinned_is_found_out_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    install(monkeypatch, calls)
    assert pin_problem() == ""
    assert [call[0] for call in calls] == ["register", "unregister"]
    install(monkeypatch, calls, fails=True)
    assert "out of memory" in pin_problem()
