"""``import tensorwire.errors``: what clients raise, the same module as ``tensorwire.clients.errors``."""

from __future__ import annotations

import sys

from .clients import errors
from .clients.errors import *  # noqa: F403 - all of them, for type checkers

sys.modules[__name__] = errors
