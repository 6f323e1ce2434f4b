"""tensorwire with a blocking client that asks for its reply without sleeping, which costs it a core (A and C)."""

from __future__ import annotations

from functools import partial

from . import ours
from .ours import check, serve

__all__ = ["SERVER", "VARIANT", "WORKS", "caller", "check", "serve"]

SERVER, VARIANT, WORKS = "ours", True, ("A.python", "C.python")
caller = partial(ours.caller, spin=0.001)
