"""tensorwire over a Unix socket instead of TCP: both clients."""

from __future__ import annotations

from functools import partial

from . import ours
from .ours import check, serve, unix_url

__all__ = ["SERVER", "VARIANT", "WORKS", "caller", "callers", "check", "serve"]

SERVER, VARIANT, WORKS = "ours", True, ("A.python", "B.python", "C.python", "C.rate", "D")
caller = partial(ours.caller, url=unix_url)
callers = partial(ours.callers, url=unix_url)
