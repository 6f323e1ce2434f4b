"""The server: front (sockets, sessions), engine (queue, batcher, executors), registry, settings, app."""

from .. import __version__ as __version__
