"""What a model raises to say that its caller is wrong: the one name of the server for models' own code.

What lives here: the exception. What must not: imports; models and core.py share this module, and nothing else.
"""

__all__ = ["BadInput"]


class BadInput(ValueError):  # noqa: N818 - raised by models: it says what is bad, not that something went wrong
    """Raise it in a model for values that it cannot take in a shape that it can: `tensorwire.BadInput`.

    The caller gets INVALID_ARGUMENT with this text (on one line, without folders, at most 300 characters), and nothing
    is logged. Of a batch each call is run once more, alone, so that only the caller who is wrong gets it.
    """
