"""tensorwire as it runs where nothing was compiled: the same source, interpreted."""

from __future__ import annotations

from .ours import measure, serve

__all__ = ["NAME", "PATH", "measure", "serve"]

NAME = "tensorwire, pure Python"
PATH = "src"
