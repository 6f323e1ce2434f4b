"""tensorwire where both ends sleep until there is something to read, as both ends of the raw echo do (A and C)."""

from __future__ import annotations

from functools import partial

from . import ours
from .ours import PATH, check, native

__all__ = ["PATH", "VARIANT", "WORKS", "caller", "check", "native", "serve"]

VARIANT, WORKS = True, ("A", "C.python", "C.native")
caller = partial(ours.caller, spin=0.0)
serve = partial(ours.serve, "--spin", "0")
