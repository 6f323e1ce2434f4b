"""tensorwire with the asyncio client where the blocking one is the rule: one call in flight."""

from __future__ import annotations

from .ours import callers, check, serve

__all__ = ["SERVER", "VARIANT", "WORKS", "callers", "check", "serve"]

SERVER, VARIANT, WORKS = "ours", True, ("A.python", "C.python", "D")
