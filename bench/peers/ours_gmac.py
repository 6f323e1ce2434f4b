"""tensorwire with a key, every record signed: AES-256-GMAC, 16 bytes a record; both clients and the native load."""

from __future__ import annotations

from functools import partial

from . import ours
from .ours import KEY, check, serve

__all__ = ["SERVER", "VARIANT", "WORKS", "caller", "callers", "check", "native", "serve"]

SERVER, VARIANT, WORKS = "ours", True, ("A", "B", "C", "D")
caller = partial(ours.caller, key=KEY, mac="aes-256-gmac")
callers = partial(ours.callers, key=KEY, mac="aes-256-gmac")
native = partial(ours.native, key=KEY, mac="aes-256-gmac")
