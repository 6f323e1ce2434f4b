"""What a client is told at its start, the same for both clients: :class:`ClientOptions`.

Here: defaults, and values made what the core wants. Not here: addresses (``url``), keys themselves (``keys``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .arguments import seconds, whole
from .core import CONNECT_TIMEOUT, MAX_REPLY
from .keys import Credentials, KeySource
from .url import Address

if TYPE_CHECKING:
    from pathlib import Path

    from .tls import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """The options of ``connect``, whose docstring has their meaning. Raises :class:`InvalidInput` for what is no number
    where one is meant.
    """

    key: KeySource | None = None
    mac: str | Sequence[str] | None = None
    tls_ca: str | Path | None = None
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
    wait_for_ready: bool = False
    timeout: float = CONNECT_TIMEOUT
    max_reply: int = MAX_REPLY
    capture: str | Path | None = None
    spin: float | None = None
    """The blocking client's alone."""

    def __post_init__(self) -> None:
        for name, value in (
            ("wait_for_ready", bool(self.wait_for_ready)),
            ("timeout", seconds("timeout", self.timeout)),
            ("max_reply", whole("max_reply", self.max_reply)),
            ("spin", None if self.spin is None else seconds("spin", self.spin)),
        ):
            object.__setattr__(self, name, value)  # frozen for everybody else

    def credentials(self, address: Address) -> Credentials:
        """Read who the caller is at ``address``. Raises :class:`InvalidKey`."""
        return Credentials(address, self.key, self.mac)

    def trust(self, address: Address) -> Trust | None:
        """Read whom to trust under TLS; None where ``address`` has none. Raises :class:`InvalidInput`."""
        if not address.tls and self.tls_ca is None and self.tls_cert is None and self.tls_key is None:
            return None
        from .tls import trust_for  # only who uses TLS pays for its import

        return trust_for(address, self.tls_ca, self.tls_cert, self.tls_key)


DEFAULTS = ClientOptions()
