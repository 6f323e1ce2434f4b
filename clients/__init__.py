"""The thin clients: ``blocking``, ``aio``, what they share (``core`` and below), their errors, and the command line."""

from ..version import __version__ as __version__
