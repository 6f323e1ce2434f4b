"""The server: front (sockets, sessions), engine (queue, batcher, executors), registry, settings, app."""

from ..version import __version__ as __version__
