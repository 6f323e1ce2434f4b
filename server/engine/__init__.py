"""Queue, batcher and executor of one model instance. No asyncio here."""

from ...version import __version__ as __version__
