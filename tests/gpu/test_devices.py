"""discover() always finds the CPU, asks CUDA libraries only behind a driver, and never fails because of them."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest

from tensorwire.gpu import devices
from tensorwire.gpu.devices import cuda_devices, cuda_problem, discover


def fake_cupy(count: int = 1, error: Exception | None = None) -> Any:
    def device_count() -> int:
        if error is not None:
            raise error
        return count

    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: 13010,
        getDeviceCount=device_count,
        getDeviceProperties=lambda index: {
            "name": f"Device {index}".encode(),
            "totalGlobalMem": 1 << 34,
            "major": 9,
            "minor": 0,
        },
    )
    module: Any = types.ModuleType("cupy")
    module.cuda = types.SimpleNamespace(runtime=runtime)
    return module


def test_the_cpu_comes_first_with_cores_memory_and_name() -> None:
    cpu = discover()[0]
    assert (cpu.kind, cpu.label) == ("cpu", "cpu")
    assert cpu.cores >= 1
    assert cpu.memory > 0
    assert cpu.name


def test_without_a_driver_there_are_no_cuda_devices_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_driver_present", lambda: False)
    assert cuda_devices() == []
    assert "driver" in cuda_problem()


def test_without_a_driver_no_cuda_library_is_imported() -> None:
    code = (
        "import sys; from tensorwire.gpu import devices; devices._driver_present = lambda: False; devices.discover();"
        "assert not {'torch', 'cupy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"], check=True)


def test_cupy_tells_name_memory_capability_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_driver_present", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(2))
    found = cuda_devices()
    assert [each.label for each in found] == ["cuda:0", "cuda:1"]
    first = found[0]
    assert (first.name, first.memory, first.capability, first.driver) == ("Device 0", 1 << 34, "9.0", "13.1")
    assert cuda_problem() == ""


def test_a_broken_installation_is_a_reason_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_driver_present", lambda: True)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(error=RuntimeError("driver is too old")))
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cuda_devices() == []
    assert "driver is too old" in cuda_problem()
    assert discover()[0].kind == "cpu"
