"""The raw echo and a client whose writes of one turn of the loop leave together, as those of our asyncio client do."""

from __future__ import annotations

from functools import partial

from . import raw_client
from .raw_echo import check, serve

__all__ = ["SERVER", "VARIANT", "WORKS", "callers", "check", "serve"]

SERVER, VARIANT, WORKS = "raw_echo", True, ("B.python", "C.rate")
callers = partial(raw_client.callers, batched=True)
