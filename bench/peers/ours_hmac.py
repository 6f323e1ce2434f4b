"""tensorwire with a key, every record signed: HMAC-SHA256, 16 bytes a record; both clients and the native load."""

from __future__ import annotations

from functools import partial

from . import ours
from .ours import KEY, check, serve

__all__ = ["SERVER", "VARIANT", "WORKS", "caller", "callers", "check", "native", "serve"]

SERVER, VARIANT, WORKS = "ours", True, ("A", "B", "C", "D", "E", "F")
caller = partial(ours.caller, key=KEY, mac="hmac-sha256")
callers = partial(ours.callers, key=KEY, mac="hmac-sha256")
native = partial(ours.native, key=KEY, mac="hmac-sha256")
