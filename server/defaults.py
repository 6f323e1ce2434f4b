"""What settings and the parts that they configure must agree on: defaults, and what a value may be.

What lives here: constants, and what follows from one value alone. What must not: anything that imports a part of the
server.
"""

from __future__ import annotations

import ipaddress

DEFAULT_ADMIN_PORT = 7412
"""TCP port of the admin HTTP server."""

FAR_LOW_WATER = 128 << 10
"""Bytes of a connection that the kernel keeps unsent: 0.1 ms at 10 Gbit/s, which a small reply may wait."""

NEAR_LOW_WATER = 1 << 20
"""The same on loopback, where it takes 0.3 ms. With less, a peer has read all there is before we can send more: it
sleeps, is woken for every chunk at our expense, and 16 MiB take 1.5 times as long."""

MASKABLE = ("principal", "key_id", "peer", "model")
"""Fields of the audit log that can be masked; the others name nobody."""

MIN_SALT = 16
"""Bytes that a configured salt must have, so that it cannot be guessed along with the values."""


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
