"""A timer that is a file descriptor: it wakes whatever loop watches it, and needs no thread.

What lives here: the three Linux calls behind it (Python has them from 3.13 on). What must not: what the time is for.
"""

from __future__ import annotations

import ctypes
import os
from math import modf

_CLOCK_MONOTONIC = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK and TFD_CLOEXEC have these values


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("first", _Timespec))


class TimerDescriptor:
    """Becomes readable when it fires. `fileno()` is what to watch."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = int(self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS))
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def once(self, seconds: float) -> None:
        """Fire once, `seconds` from now, in place of whatever was set."""
        self._set(0.0, max(seconds, 1e-6))

    def every(self, seconds: float) -> None:
        """Fire every `seconds`, in place of whatever was set."""
        self._set(seconds, seconds)

    def off(self) -> None:
        """Do not fire."""
        self._set(0.0, 0.0)

    def clear(self) -> bool:
        """Whether it fired (and was not set anew since); it is not readable any more."""
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def _set(self, interval: float, first: float) -> None:
        setting = _Setting(_timespec(interval), _timespec(first))
        if self._libc.timerfd_settime(self._descriptor, 0, ctypes.byref(setting), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")


def _timespec(seconds: float) -> _Timespec:
    fraction, whole = modf(seconds)
    return _Timespec(int(whole), int(fraction * 1e9))
