"""Who is connected: one Principal per name, with what is remembered for it and what it may see.

What lives here: that connections of one principal share its caches and that those of two never do. What must not:
which keys there are (server/keys.py), who is let in (session.py).
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from ...codec import FairCache, Metadata
from ..key_file import ANONYMOUS
from ..keys import EVERYTHING, Scope

if TYPE_CHECKING:
    from ..settings import Settings
    from .call import Route


class Principal:
    """Who calls, and what is remembered for them. Its connections share that: each owns what it brought, so that none
    can push out what another uses.

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
        """Whether a model of this name exists for the principal."""
        return bool(self.scope.sees(model))

    def limit(self, scope: Scope) -> None:
        """From now on this is what it may see: routes that were found before are forgotten."""
        self.scope = scope
        self.routes.clear()

    def leave(self, connection_id: bytes) -> None:
        """One of its connections is gone."""
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
        """A connection of the principal of this name begins."""
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
        """A connection is over; with the last one goes all that is remembered of a principal."""
        principal.leave(connection_id)
        if principal is not self.anonymous:
            principal.connections -= 1
            if not principal.connections:
                del self._named[principal.name]

    def all(self) -> list[Principal]:
        """The anonymous one and all that are connected."""
        return [self.anonymous, *self._named.values()]
