"""Everything between the socket and the engines: listener, transport, sessions, admission, metrics. No torch here."""

from ... import __version__ as __version__
