"""Text that may hold a key by mistake, made fit to be shown: where a path was asked for, a key may have been given.

Here: what a key's text looks like to the eye. Not here: how a key is read (the clients' and the server's own).
"""

from __future__ import annotations

import re
from typing import Final

# A secret is 43 characters of base64url; a few more or less are one that was copied badly. A digest in hex is 64.
_SECRET: Final = re.compile(r"(?<=[A-Za-z0-9._-]:)[A-Za-z0-9_=-]{40,46}(?![A-Za-z0-9_=-])")


def masked(text: str) -> str:
    """``text`` with ``***`` for every secret that stands behind its key's id, ``ID:SECRET``. Mask before a text is cut:
    a part of a secret is not recognised.
    """
    return _SECRET.sub("***", text) if ":" in text else text
