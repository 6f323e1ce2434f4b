"""The ways in: what holds for all connections of one listening address, and whom it takes.

What lives here: which MACs are allowed where, and whether a key is needed. What must not: sockets (listener.py), TLS
(tls_layer.py), who a caller is (credentials.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...protocol import Config


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """One way in.

    config: what is negotiated with connections that come by it: which MACs, and whether a key is needed. binding:
    called once for each of them; the channel binding of its transport (SPEC 11.3), under TLS 32 bytes, else none.
    kind: tcp, unix or tls. principals: the common name of a client's certificate -> who it is taken for (TLS that asks
    for certificates).
    """

    config: Config
    binding: Callable[[], bytes]
    kind: str
    principals: Mapping[str, str] = field(default_factory=dict)

    def certified(self, certificate: Mapping[str, Any] | None) -> str:
        """Whom a client's certificate, as `ssl` gives it when it was verified, stands for; "" for nobody."""
        subject = (certificate or {}).get("subject", ())
        names = [value for part in subject for name, value in part if name == "commonName"]
        return self.principals.get(names[0], "") if len(names) == 1 else ""


def unbound() -> bytes:
    """The channel binding of a transport that has none."""
    return b""
