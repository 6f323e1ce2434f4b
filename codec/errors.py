"""The errors of the codec. Nothing else leaves it on bad input, from a peer or from the caller.

What lives here: the exception classes and the one helper that makes peer text fit for a message.
What must not: wire status codes; who catches an error decides what it means on the wire.
"""

from __future__ import annotations


class CodecError(ValueError):
    """Malformed metadata, dims, body, msgpack or array; the message says which field, what came, what was expected."""


class SignatureError(CodecError):
    """Well-formed tensors that are not what the model takes or what it promised to give.

    `field` is the tensor (or "inputs"), `sent` what came, `expected` what the model's signature asks for.
    """

    def __init__(self, field: str, sent: str, expected: str) -> None:
        super().__init__(f"{field}: sent {sent}, expected {expected}")
        self.field = field
        self.sent = sent
        self.expected = expected


def shown(text: str, limit: int = 80) -> str:
    """Quote peer text for a message: escaped to printable ASCII, at most about `limit` characters."""
    quoted = ascii(text[: limit + 1])
    return quoted if len(text) <= limit else f"{quoted[:limit]}...'"
