"""tensorwire as it runs where nothing was compiled: the same source, interpreted."""

from __future__ import annotations

from .ours import caller, callers, check, native, serve

__all__ = ["PATH", "VARIANT", "WORKS", "caller", "callers", "check", "native", "serve"]

PATH = "src"
VARIANT, WORKS = True, ("A", "B", "C", "D", "E", "F")
