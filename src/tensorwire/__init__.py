"""tensorwire: tensors over a raw TCP socket into batched PyTorch inference and back.

``tensorwire.connect(url)`` gives the blocking client, ``tensorwire.aio.connect(url)`` the asyncio one.
The names are loaded on first use, so that importing one part never pays for another.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .clients import aio as aio
    from .clients.blocking import Client as Client
    from .clients.blocking import connect as connect

__all__ = ["Client", "__version__", "aio", "connect"]


_LAZY = {"Client": ".clients.blocking", "aio": ".clients.aio", "connect": ".clients.blocking"}


def __getattr__(name: str) -> Any:
    home = _LAZY.get(name)
    if home is None:
        raise AttributeError(f"module 'tensorwire' has no attribute {name!r}")
    module = import_module(home, __name__)
    return module if name == "aio" else getattr(module, name)
