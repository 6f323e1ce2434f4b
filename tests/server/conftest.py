"""Which tests cannot run against compiled modules (make unit-compiled): those whose stand-ins have a compiled type."""

from __future__ import annotations

from tensorwire.server.engine import core

STAND_INS = [
    "engine/test_batcher.py",
    "engine/test_signature_sync.py",
    "front/test_admission.py",
    "front/test_calls.py",
    "front/test_drain.py",
    "front/test_open_calls.py",
    "front/test_replies.py",
]
"""A compiled method takes no duck for an argument. Most of their rules are in test_session.py and test_core.py, too."""

collect_ignore = [] if str(core.__file__).endswith(".py") else STAND_INS
