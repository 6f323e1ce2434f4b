"""What one connection came in with: a key that it proves, a client's certificate, or nothing; and whether that is good.

What lives here: whom it stands for, now. What must not: proofs (protocol/signing.py), certificates (tls_layer.py),
what becomes of the connection (session.py).
"""

from __future__ import annotations

from math import inf

from ..key_file import ANONYMOUS, Key
from ..keys import EVERYTHING, KeyStore, Scope
from .ports import ConnectionInfo


class Credentials:
    """One connection's. keys: the server's, None if it has none. insecure: whether it takes callers without any.

    What key the peer names, be it true or not, is noted in `info`. certified: the principal of the client's
    certificate, "" for none.
    """

    __slots__ = ("_ends", "_info", "_insecure", "_key", "_keys", "certified")

    def __init__(self, info: ConnectionInfo, keys: KeyStore | None, *, insecure: bool) -> None:
        self._info = info
        self._keys = keys
        self._insecure = insecure
        self._key: Key | None = None
        self._ends = 0.0
        self.certified = ""

    def secret_of(self, key_id: bytes) -> tuple[bytes, bool]:
        """Return what the peer, which names this key, has to prove (protocol.SecretOf)."""
        self._info.key_id = key_id
        if self._keys is None:
            raise RuntimeError("a server without keys asked for one")
        key, valid = self._keys.find(key_id)
        self._key = key if valid else None
        return key.secret, valid

    def principal(self) -> tuple[str, Scope] | None:
        """Return whom a peer that has proven its key, if it named one, stands for, and what that one may do.

        None: it stands for nobody.

        A key and a certificate stand for the same principal, or for nobody; where there is a key file, it says what a
        principal may do, however it came in.
        """
        keys, key, name = self._keys, self._key, self.certified
        if key is not None and keys is not None:
            if not keys.holds(key) or name not in {"", key.principal}:  # guard: key-revoked
                return None
            name = key.principal
        if not name:
            return (ANONYMOUS, EVERYTHING) if self._insecure else None  # guard: no-key
        scope = EVERYTHING if keys is None else keys.scope_of(name)
        return None if scope is None else (name, scope)

    def left(self) -> float | None:
        """Return the seconds until the key ends, inf if it does not; None if that end was told before."""
        if self._key is None or self._keys is None:
            return inf
        left, ends = self._keys.end_of(self._key)
        if ends == self._ends:
            return None
        self._ends = ends
        return left
