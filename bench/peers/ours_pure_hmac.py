"""tensorwire interpreted, with a key: the same source with nothing compiled, every record signed with HMAC-SHA256."""

from __future__ import annotations

from .ours import check, serve
from .ours_hmac import caller, callers, native

__all__ = ["SERVER", "VARIANT", "WORKS", "caller", "callers", "check", "native", "serve"]

SERVER, VARIANT, WORKS = "ours_pure", True, ("A.python", "B.native.1")
