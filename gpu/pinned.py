"""Registering a slab pool with CUDA, so that what the front received is already where a device can fetch it.

What lives here: `Registration`. What must not: copies (staging.py) and the pool's own bookkeeping (slab.py).
One registration covers the whole pool; without it every copy to the device goes through a hidden staging buffer
of the driver and is not asynchronous.
"""

from __future__ import annotations

from typing import Any

from .slab import PAGE, SlabPool


class PinError(Exception):
    """CUDA refused to register the memory, or there is no CUDA library to do it with."""


class Registration:
    """A pool pinned for every CUDA device of this process, until `close()`. Raises PinError.

    `device` is the one whose context does it: name the one that is used, or a context is made on another for nothing.
    The creator of the pool must have called `pool.hold_pages()` before: see there. Registering touches every page of
    the pool, so it costs about 0.3 s per GiB and the whole pool becomes resident.
    """

    def __init__(self, pool: SlabPool, device: int = 0) -> None:
        pool.hold_pages()
        self._address = pool.address
        self._runtime = _runtime(device)
        self._runtime.register(self._address, pool.nbytes)
        self.closed = False

    def close(self) -> None:
        """Unpin. Idempotent. The device must be done with the memory: synchronise first."""
        if not self.closed:
            self.closed = True
            self._runtime.unregister(self._address)


def pin_problem() -> str:
    """Why slabs cannot be pinned, in words for people; empty if they can. Tries it, with one page."""
    try:
        Registration(SlabPool(PAGE)).close()
    except PinError as error:
        return str(error)
    return ""


class _CupyRuntime:
    def __init__(self, device: int) -> None:
        import cupy

        self._runtime: Any = cupy.cuda.runtime
        self._runtime.setDevice(device)

    def register(self, address: int, nbytes: int) -> None:
        # Flag 1, cudaHostRegisterPortable: pinned for every context, not only for the current device's.
        try:
            self._runtime.hostRegister(address, nbytes, 1)
        except self._runtime.CUDARuntimeError as error:
            raise PinError(f"CUDA cannot pin {nbytes} bytes: {error}; is `ulimit -l` high enough?") from error

    def unregister(self, address: int) -> None:
        self._runtime.hostUnregister(address)


class _TorchRuntime:
    def __init__(self, device: int) -> None:
        import torch

        torch.cuda.set_device(device)
        self._runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]

    def register(self, address: int, nbytes: int) -> None:
        code = int(self._runtime.cudaHostRegister(address, nbytes, 1))
        if code:
            raise PinError(f"CUDA cannot pin {nbytes} bytes: error {code}; is `ulimit -l` high enough?")

    def unregister(self, address: int) -> None:
        self._runtime.cudaHostUnregister(address)


def _runtime(device: int) -> _CupyRuntime | _TorchRuntime:
    problems = []
    for runtime in (_CupyRuntime, _TorchRuntime):
        try:
            return runtime(device)
        except Exception as error:  # noqa: BLE001 - a broken installation fails in its own ways
            problems.append(f"{type(error).__name__}: {error}")
    raise PinError("no CUDA library can pin memory: " + "; ".join(problems))
