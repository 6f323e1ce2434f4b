"""What becomes of connections when the key file changes, or a key begins or ends.

What lives here: looking, and telling the connections of one loop. What must not: reading the file (server/keys.py),
what a connection does when its key is gone (session.py).
"""

from __future__ import annotations

from ...protocol import Status
from ..key_file import KeyFileError
from ..keys import KeyStore
from ..logs import get_logger
from .connection_table import ConnectionTable
from .context import Context
from .principals import Principal
from .timers import Timer

KEYS_INTERVAL = 0.5
"""Seconds between looks at the key file: a key that is revoked closes its sessions within a second."""


class KeyWatch:
    """Looks at the keys every KEYS_INTERVAL from `now` on, on the loop's one heap of timers."""

    def __init__(self, context: Context, connections: ConnectionTable, keys: KeyStore, now: float) -> None:
        self._timers = context.timers
        self._principals = context.principals
        self._connections = connections
        self._keys = keys
        self._log = get_logger("keys")
        self._tick(now)

    def _tick(self, now: float) -> None:
        self._timers.add(now + KEYS_INTERVAL, Timer(self._tick))  # first: whatever a look comes to
        self.look(now)

    def look(self, now: float, *, again: bool = False) -> None:
        """Act on keys that came, went, began or ended; `again`: read the file even if it seems to be the same."""
        try:
            if not self._keys.refresh(look=again):
                return
        except KeyFileError as error:
            self._log.error("key file not taken, the keys of before go on", reason=str(error))
            return
        self._log.info("keys taken", keys=len(self._keys))
        limited: set[Principal] = set()
        for principal in self._principals.all():
            scope = self._keys.scope_of(principal.name)
            if scope is not None and scope != principal.scope:
                principal.limit(scope)
                limited.add(principal)
        for session in list(self._connections.sessions.values()):
            session.keys_changed(now)
            if session.principal in limited:
                session.watches.end_all(Status.UNAVAILABLE, "what the key may see has changed; ask again")
                session.calls.flush()
