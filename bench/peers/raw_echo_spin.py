"""The raw echo and a bare socket that asks for its reply without sleeping: the floor of a client that spins (A, C)."""

from __future__ import annotations

from functools import partial

from . import raw_client
from .raw_echo import check, serve

__all__ = ["SERVER", "VARIANT", "WORKS", "caller", "check", "serve"]

SERVER, VARIANT, WORKS = "raw_echo", True, ("A.python", "C.python")
caller = partial(raw_client.caller, spin=True)
