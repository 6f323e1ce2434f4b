"""The raw echo with a receive buffer of 256 KiB a connection: fewer reads of an image, four times the idle memory."""

from __future__ import annotations

from functools import partial

from . import raw_echo
from .raw_client import caller, callers, check, native

__all__ = ["VARIANT", "WORKS", "caller", "callers", "check", "native", "serve"]

VARIANT, WORKS = True, ("C",)
serve = partial(raw_echo.serve, 1 << 18)
