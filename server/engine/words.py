"""What a caller may read of what went wrong in here.

What lives here: taking out of a text what is the owner's alone. What must not: escaping and capping (codec.errors).
The log keeps the whole text.
"""

from __future__ import annotations

import re

__all__ = ["without_folders"]

_FOLDERS = re.compile(r"(?<![\w.)/])(?!(?<=:)//)(?:/[^\s/'\"]*)+/")  # not the slashes of a URL


def without_folders(text: str) -> str:
    """`text` with the names of files but not the folders they are in: no absolute path leaves the server."""
    return _FOLDERS.sub("", text)
