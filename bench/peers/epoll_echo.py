"""The floor: the raw echo's server in C, one thread and epoll (epoll_echo.c, compiled on demand)."""

from __future__ import annotations

import os

from bench import native_tools

from .raw_client import RAW_CANNOT, RAW_WORKS, caller, callers, check, native

__all__ = ["CANNOT", "WORKS", "caller", "callers", "check", "native", "serve"]

WORKS, CANNOT = RAW_WORKS, RAW_CANNOT


def serve() -> None:
    program = native_tools.built(native_tools.BENCH / "epoll_echo")
    os.execv(program, [program])
