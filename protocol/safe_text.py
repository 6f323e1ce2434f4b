"""Text from elsewhere, made fit to be shown: nothing in it that a terminal obeys, and no secret.

A peer's words, a model's, or a path in whose place a key was given. Here: what is shown instead. Not here: how a key is
read (the clients' and the server's own).
"""

from __future__ import annotations

import re
from typing import Final

# A secret is 43 characters of base64url; a few more or less are one that was copied badly. A digest in hex is 64.
_SECRET: Final = re.compile(r"(?<=[A-Za-z0-9._-]:)[A-Za-z0-9_=-]{40,46}(?![A-Za-z0-9_=-])")
TEXT_LIMIT: Final = 1024  # characters of a peer's text that are kept: more helps nobody and may flood a log


def masked(text: str) -> str:
    """Return ``text`` with ``***`` for every secret that stands behind its key's id, ``ID:SECRET``.

    Mask before a text is cut: a part of a secret is not recognised.
    """
    return _SECRET.sub("***", text) if ":" in text else text


def printable(text: str, limit: int = TEXT_LIMIT, tail: str = "...") -> str:
    """Return ``text`` as one line, escapes for what is not printable; ``tail`` for what is above ``limit``."""
    cut = text[:limit]
    if not str.isprintable(cut):  # TypeError for what is no text: it may come from another process
        cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return cut if len(text) <= limit else cut + tail
