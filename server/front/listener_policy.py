"""The ways in: what holds for all connections of one listening address, and whom it takes.

What lives here: which MACs are allowed where, and whether a key is needed. What must not: sockets (listener.py), TLS
(tls_layer.py), who a caller is (credentials.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...protocol import Config, Limits, Role
from ...protocol.signing import available_macs
from ..settings import Settings


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
        """Return whom a client's certificate, as `ssl` gives it when verified, stands for; "" for nobody."""
        subject = (certificate or {}).get("subject", ())
        names = [value for part in subject for name, value in part if name == "commonName"]
        return self.principals.get(names[0], "") if len(names) == 1 else ""


def unbound() -> bytes:
    """Return the channel binding of a transport that has none."""
    return b""


def make_policy(
    settings: Settings,
    kind: str,
    binding: Callable[[], bytes] = unbound,
    principals: Mapping[str, str] | None = None,
    *,
    keys: bool,
) -> ListenerPolicy:
    """Make the policy of an address as the settings have it. `keys`: whether the server has any.

    A key is needed but where the operator (`insecure`) or a certificate (`principals`) says who a caller is.
    """
    keyless = settings.insecure or bool(principals)
    macs = tuple(name for name in available_macs() if name != "none") if keys else ()
    limits = Limits(
        max_message=settings.message_limit,
        max_streams=settings.max_streams,
        handshake_timeout=settings.handshake_timeout,
        max_abuse=settings.control_frames,
        max_control=int(settings.control_bytes),
    )
    macs += ("none",) if keyless else ()  # guard: no-tag
    config = Config(role=Role.SERVER, limits=limits, mac_algorithms=macs, keyless=keyless)
    return ListenerPolicy(config, binding, kind, principals or {})
