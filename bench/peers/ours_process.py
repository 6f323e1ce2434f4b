"""tensorwire with the network of E in an engine process of its own, beside the server's loop on the same core."""

from __future__ import annotations

from functools import partial

from . import ours
from .ours import check, serve

__all__ = ["SERVER", "VARIANT", "WORKS", "callers", "check", "serve"]

SERVER, VARIANT, WORKS = "ours", True, ("E",)
callers = partial(ours.callers, model="mlp_process")
