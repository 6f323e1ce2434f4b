"""Everything between the socket and the engines: listener, transport, sessions, admission, metrics. No torch here."""

from ...version import __version__ as __version__
