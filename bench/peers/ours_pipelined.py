"""tensorwire with the blocking client where the asyncio one is the rule: calls submitted ahead."""

from __future__ import annotations

from .ours import check, pipeline, serve

__all__ = ["SERVER", "VARIANT", "WORKS", "check", "pipeline", "serve"]

SERVER, VARIANT, WORKS = "ours", True, ("B.python", "C.rate")
