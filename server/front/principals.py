"""Who is connected: one Principal per name, with what is remembered for it and what it may see.

What lives here: that connections of one principal share its caches and that those of two never do. What must not:
which keys there are (server/keys.py), who is let in (session.py).
"""

from __future__ import annotations

from itertools import count

from ...codec import FairCache, Metadata
from ..key_file import ANONYMOUS
from ..keys import EVERYTHING, Scope
from ..settings import Settings
from .call import Route


class Principal:
    """Who calls, and what is remembered for them.

    Its connections share that: each owns what it brought, so that none can push out what another uses.

    number: stands for the principal in engines; no two that are connected have the same. scope: what it may see.
    """

    __slots__ = ("connections", "metadata", "name", "number", "routes", "scope")

    def __init__(self, name: str, number: int, settings: Settings, scope: Scope = EVERYTHING) -> None:
        self.name = name
        self.number = number
        self.scope = scope
        self.connections = 0
        entries, nbytes = settings.cache_entries, int(settings.cache_bytes)
        self.routes: FairCache[tuple[bytes, bytes], Route] = FairCache(entries, nbytes)
        self.metadata: FairCache[bytes, Metadata] = FairCache(entries, nbytes)

    def sees(self, model: str) -> bool:
        """Tell whether a model of this name exists for the principal."""
        return bool(self.scope.sees(model))

    def limit(self, scope: Scope) -> None:
        """Let it see this from now on: routes that were found before are forgotten."""
        self.scope = scope
        self.routes.clear()  # guard: scope-shrunk

    def leave(self, connection_id: bytes) -> None:
        """Let go of what one of its connections brought, which is gone."""
        self.routes.leave(connection_id)
        self.metadata.leave(connection_id)


class Principals:
    """Everybody who is connected. `anonymous` are the callers without a key."""

    __slots__ = ("_named", "_settings", "anonymous")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._named: dict[str, Principal] = {}
        self.anonymous = Principal(ANONYMOUS, 0, settings)

    def enter(self, name: str, scope: Scope) -> Principal:
        """Return the principal of this name, of which a connection begins."""
        principal = self.anonymous if name == ANONYMOUS else self._named.get(name)
        if principal is None:
            taken = {other.number for other in self._named.values()}
            number = next(number for number in count(1) if number not in taken)
            principal = self._named[name] = Principal(name, number, self._settings, scope)
        elif principal.scope != scope:
            principal.limit(scope)
        principal.connections += 1
        return principal

    def leave(self, principal: Principal, connection_id: bytes) -> None:
        """Take note that a connection is over; with the last goes all that is remembered of a principal."""
        principal.leave(connection_id)
        if principal is not self.anonymous:
            principal.connections -= 1
            if not principal.connections:
                del self._named[principal.name]

    def clear_routes(self) -> None:
        """Have every route found anew: a name leads to another model than before."""
        for principal in self.all():
            principal.routes.clear()

    def all(self) -> list[Principal]:
        """Return the anonymous one and all that are connected."""
        return [self.anonymous, *self._named.values()]
