"""Sources whose handshakes keep failing are refused at accept for a while, before a byte of theirs is parsed.

A source is an IPv4 address or an IPv6 /64, which is what one host is given; a Unix socket is none. What counts as a
failure is decided in front.py. The table is bounded, established connections are never touched, and one handshake that
succeeds wipes the slate: many clients behind one address are refused together only while all of them fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

MAX_SOURCES = 4096
"""Sources remembered, 0.6 MB; the one that failed longest ago goes first. Who has that many addresses is not stopped by
a table of addresses, and shall not fill memory with it either."""

LONGEST = 300.0
"""Seconds of the longest penalty; and a source that began none for so long starts with a short one again."""

HOST_BYTES = 8  # of an IPv6 address: the /64


Network = IPv4Network | IPv6Network


class _Record:
    """What is remembered of one source; times are monotonic seconds."""

    __slots__ = ("failures", "seconds", "since", "until")

    def __init__(self, now: float, seconds: float) -> None:
        self.failures = 0
        self.since = now
        self.until = 0.0
        self.seconds = seconds


class HandshakeThrottle:
    """Failures by source, and who is refused until when.

    failures: failed handshakes within `window` seconds that bring a penalty; 0: none ever does.
    seconds: of the first penalty; each further one takes twice as long, up to LONGEST.
    exempt: networks that are never refused, such as loopback and proxies that hide their clients' addresses.
    """

    __slots__ = ("_exempt", "_failures", "_records", "_seconds", "_window", "imposed")

    def __init__(self, failures: int, window: float, seconds: float, exempt: Sequence[Network] = ()) -> None:
        self._failures = failures
        self._window = window
        self._seconds = seconds
        self._exempt = tuple(exempt)
        self._records: dict[bytes, _Record] = {}
        self.imposed = 0

    def __len__(self) -> int:
        return len(self._records)

    def source(self, address: str) -> bytes:
        """Return the source of `address` (numeric; "" for a Unix socket); b"" for one that is never refused."""
        if not self._failures or not address:
            return b""
        host = ip_address(address.partition("%")[0])  # a link-local address names its interface
        if isinstance(host, IPv6Address):
            # guard: penalty-ipv4-mapped
            host = host.ipv4_mapped or host  # what an IPv4 client looks like on a socket for both
        if any(host in network for network in self._exempt):
            return b""
        return host.packed if host.version == 4 else host.packed[:HOST_BYTES]  # guard: penalty-of-host

    def refused(self, address: str, now: float) -> bool:
        """Tell whether a connection from `address` is to be refused now."""
        if not self._records:  # as a rule: then nothing is paid
            return False
        record = self._records.get(self.source(address))
        return record is not None and now < record.until

    def failed(self, address: str, now: float) -> float:
        """Count a failed handshake; the seconds of the penalty that it brings, or 0.0."""
        source = self.source(address)
        if not source:
            return 0.0
        record = self._records.pop(source, None)
        if record is None:
            record = _Record(now, self._seconds)
            if len(self._records) >= MAX_SOURCES:  # guard: penalty-table
                del self._records[next(iter(self._records))]
        self._records[source] = record  # the last in the order in which they are forgotten
        # guard: penalty-of-pending
        if now < record.until:  # it was pending already when the penalty began
            return 0.0
        if now - record.since > self._window:
            record.failures, record.since = 0, now
        record.failures += 1
        if record.failures < self._failures:
            return 0.0
        return self._impose(record, now)

    def succeeded(self, address: str) -> None:
        """Forget the failures of a source: a handshake succeeded."""
        if self._records:
            self._records.pop(self.source(address), None)

    def _impose(self, record: _Record, now: float) -> float:
        again = record.until and now - record.until < LONGEST
        record.seconds = min(2 * record.seconds, LONGEST) if again else self._seconds
        record.until = now + record.seconds
        record.failures, record.since = 0, record.until
        self.imposed += 1
        return record.seconds
