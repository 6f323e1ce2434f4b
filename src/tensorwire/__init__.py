"""tensorwire: tensors over a raw TCP socket into batched PyTorch inference and back.

``tensorwire.connect(url)`` gives the blocking client, ``tensorwire.aio.connect(url)`` the asyncio one;
``tensorwire.RaggedArray`` is for rows of different lengths, ``tensorwire.BadInput`` for models to raise.
The names are loaded on first use, so that importing one part never pays for another.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .clients import aio as aio
    from .clients import errors as errors
    from .clients.blocking import Client as Client
    from .clients.blocking import connect as connect
    from .codec import RaggedArray as RaggedArray
    from .server.engine.bad_input import BadInput as BadInput

__all__ = ["BadInput", "Client", "RaggedArray", "__version__", "aio", "connect", "errors"]

_LAZY = {
    "BadInput": ".server.engine.bad_input",
    "Client": ".clients.blocking",
    "RaggedArray": ".codec",
    "connect": ".clients.blocking",
}
_MODULES = {"aio": ".clients.aio", "errors": ".clients.errors"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name], __name__)
    home = _LAZY.get(name)
    if home is None:
        raise AttributeError(f"module 'tensorwire' has no attribute {name!r}")
    return getattr(import_module(home, __name__), name)
