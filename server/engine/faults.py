"""What models raise while they run, for whoever owns them: one record each, with the whole traceback.

What lives here: how many reach the log, and the words of a traceback, in which nothing is trusted: the classes of what
is raised, and their texts, are the model's, and a text may hold a caller's bytes. What must not: what callers hear.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from math import inf
from typing import Any, Final

from ...codec.errors import shown
from .log import log
from .quota import Quota
from .redaction import text_of, type_of

__all__ = ["Faults", "traceback_of"]

A_SECOND: Final = 1
"""Records of one model: callers must not be able to fill the log."""
TEXT_LENGTH: Final = 1000
"""Characters of what an exception says."""
TRACEBACK_LENGTH: Final = 16_000
"""Characters of a traceback; of a longer one the middle is left out."""
CHAIN: Final = 8
"""Exceptions that were raised while another one was handled, at most."""

_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"


class Faults:
    """Those of the model that `label` names. `clock` gives monotonic seconds."""

    def __init__(self, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._quota = Quota(A_SECOND, clock)

    @property
    def tell_at(self) -> float:
        """When there is something to tell; inf: nothing was left out."""
        return self._quota.over if self._quota.left_out else inf

    def note(self, message: str, error: BaseException | None = None) -> None:
        """Log what went wrong in a run, or count it: there was one in this second already."""
        self.tell()
        if self._quota.take():
            log.error(f"{self._label}: {message}", "" if error is None else traceback_of(error))

    def tell(self) -> None:
        """Say how many were left out, once their second is over."""
        left_out = self._quota.renew()
        if left_out:
            log.error(f"{self._label}: {left_out} more like it left out")


def traceback_of(error: BaseException) -> str:
    """Return where it was raised, and what it came from, as Python prints it but with nothing that is obeyed."""
    parts: list[str] = []
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and len(seen) < CHAIN and not any(at is each for each in seen):
        seen.append(at)
        frames = "".join(traceback.format_tb(_own(at, "__traceback__")))
        head = f"Traceback (most recent call last):\n{frames}" if frames else ""
        parts.append(f"{head}{type_of(at)}: {shown(text_of(at), TEXT_LENGTH)}\n")
        cause, context = _own(at, "__cause__"), _own(at, "__context__")
        if cause is None and (context is None or _own(at, "__suppress_context__")):
            break
        parts.append(_CONTEXT if cause is None else _CAUSE)
        at = context if cause is None else cause
    else:
        parts.pop()  # what led to the last is not told
    text = "".join(reversed(parts))
    if len(text) <= TRACEBACK_LENGTH:
        return text
    half = TRACEBACK_LENGTH // 2
    return f"{text[:half]}\n  ...\n{text[-half:]}"


def _own(error: BaseException, name: str) -> Any:
    """Return an attribute as BaseException has it: the model's class may have another of that name."""
    return BaseException.__dict__[name].__get__(error)
