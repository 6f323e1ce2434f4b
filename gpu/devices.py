"""What this machine can compute on: the CPU always, CUDA devices where there are any.

What lives here: `discover()` and its answer. What must not: anything that keeps a device busy or allocates on it.
CuPy and torch are imported only after the CUDA driver was found, and whatever goes wrong there is a reason in the
answer, never an exception: a machine without a GPU must not notice that this module knows of them.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Device:
    """One device. `memory` in bytes (0: unknown); `cores` for CPUs; `capability` and `driver` for CUDA devices."""

    kind: str  # "cpu" or "cuda"
    index: int
    name: str
    memory: int
    cores: int = 0
    capability: str = ""
    driver: str = ""

    @property
    def label(self) -> str:
        """The name that model.toml uses: `cpu`, `cuda:0`."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def discover() -> list[Device]:
    """Every device, the CPU first. Never raises for a missing or broken CUDA installation."""
    return [_cpu(), *cuda_devices()]


def cuda_devices() -> list[Device]:
    """List the CUDA devices as CuPy sees them, else as torch does; none without a driver or either library."""
    return _ask()[0]


def cuda_problem() -> str:
    """Why `cuda_devices()` is empty, in words for people; empty if it is not."""
    return _ask()[1]


def _ask() -> tuple[list[Device], str]:
    if not _driver_present():
        return [], "no CUDA driver (libcuda.so.1) on this machine"
    problems: list[str] = []
    asked: tuple[tuple[str, Callable[[], list[Device]]], ...] = (("cupy", _through_cupy), ("torch", _through_torch))
    for library, ask in asked:
        try:
            devices = ask()
        except Exception as error:  # noqa: BLE001 - drivers, runtimes and wheels fail in their own ways
            problems.append(f"{library}: {type(error).__name__}: {error}")
            continue
        if devices:
            return devices, ""
        problems.append(f"{library}: sees no device")
    return [], "; ".join(problems)


def _driver_present() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _through_cupy() -> list[Device]:
    import cupy

    runtime = cupy.cuda.runtime
    driver = _version(runtime.driverGetVersion())
    devices = []
    for index in range(runtime.getDeviceCount()):
        properties: dict[str, Any] = runtime.getDeviceProperties(index)
        devices.append(
            Device(
                kind="cuda",
                index=index,
                name=properties["name"].decode(errors="replace"),
                memory=int(properties["totalGlobalMem"]),
                capability=f"{properties['major']}.{properties['minor']}",
                driver=driver,
            )
        )
    return devices


def _through_torch() -> list[Device]:
    import torch

    if not torch.cuda.is_available():
        return []
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            Device(
                kind="cuda",
                index=index,
                name=properties.name,
                memory=int(properties.total_memory),
                capability=f"{properties.major}.{properties.minor}",
                driver=f"runtime {torch.version.cuda}",
            )
        )
    return devices


def _version(number: int) -> str:
    """CUDA packs 13.1 as 13010."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _cpu() -> Device:
    return Device(kind="cpu", index=0, name=_cpu_name(), memory=_host_memory(), cores=usable_cores())


def usable_cores() -> int:
    """Cores this process may run on, which in a container is often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _host_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
