"""What a caller may read of what went wrong in here.

What lives here: taking out of a text what is the owner's alone, and the words for what a model raised, which may be
anything. What must not: escaping and capping (codec.errors). The log keeps the whole text.
"""

from __future__ import annotations

import re
import signal

from ...codec.errors import shown
from ...protocol.safe_text import masked, printable

__all__ = ["is_ctrl_c", "one_line", "raised", "text_of", "type_of", "without_folders"]

_NAME_LENGTH = 80
_FOLDERS = re.compile(r"(?<![\w.)/])(?!(?<=:)//)(?:/[^\s/'\"]*)+/")  # not the slashes of a URL


def without_folders(text: str) -> str:
    """`text` with the names of files but not the folders they are in: no absolute path leaves the server."""
    return _FOLDERS.sub("", text)


def is_ctrl_c(error: BaseException) -> bool:
    """Whether this came from the terminal and not from a model: where the server runs, SIGINT raises nothing."""
    # Not isinstance, which asks the error for its __class__: that is the model's code, and may raise.
    return issubclass(type(error), KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def raised(error: BaseException, limit: int) -> str:
    """Return what a model raised, fit for a caller: one line, escaped, at most about `limit` characters of its text."""
    return f"model raised {type_of(error)}: {shown(text_of(error), limit)}"  # guard: text-of-model


def one_line(error: BaseException, limit: int) -> str:
    """Return what it says, fit for a caller: one line, escaped, at most about `limit` characters."""
    return printable(text_of(error), limit)  # guard: text-of-refusal


def type_of(error: object) -> str:
    """Return the name of its class, which may be any text."""
    name = type.__dict__["__name__"].__get__(type(error))
    return name if name.isidentifier() and len(name) <= _NAME_LENGTH else shown(name)


def text_of(error: BaseException) -> str:
    """Return what it says, as a plain str, keys masked: `__str__` is the model's, and may raise, or return a str with
    its own methods.
    """
    try:
        return masked("".join(("", str(error))))
    except BaseException as again:
        if is_ctrl_c(again):
            raise
        return "(no text)"
