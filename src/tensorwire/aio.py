"""``import tensorwire.aio``: the asyncio client, the same module as ``tensorwire.clients.aio``."""

from __future__ import annotations

import sys

from .clients import aio
from .clients.aio import *  # noqa: F403 - for type checkers

sys.modules[__name__] = aio
