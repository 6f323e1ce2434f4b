"""Caches bounded in entries and in cost, and the one of decoded metadata that clients and engines keep.

What lives here: storage, and what is forgotten first: the least recently used (BoundedCache), or what the owner with
most of it brought (FairCache). What must not: authorisation; a hit says that these bytes were verified before, not that
anyone may use them. One instance belongs to one principal (server) or one client.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from threading import Lock
from typing import Generic, TypeVar

from .metadata import Metadata, decode_metadata

K = TypeVar("K")
V = TypeVar("V")

_NOBODY = b""
"""The owner of what those brought who are gone."""

_ENTRY_OVERHEAD = 1024
"""Bytes charged for one decoded entry beyond its key: the objects of a one-tensor message take about this much."""


class BoundedCache(Generic[K, V]):
    """Least-recently-used map with at most `max_entries` entries and `max_cost` total cost.

    The value that was hit last is the youngest already: hitting it again costs a look-up and a comparison.
    Safe to use from several threads: changes take a lock; a hit takes none, and a race costs its place in the order.
    """

    __slots__ = ("_costs", "_entries", "_lock", "_youngest", "cost", "max_cost", "max_entries")

    def __init__(self, max_entries: int, max_cost: int) -> None:
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._costs: dict[K, int] = {}
        self._lock = Lock()
        self._youngest: V | None = None
        self.cost = 0
        self.max_entries = max_entries
        self.max_cost = max_cost

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return the value of `key`, which becomes the youngest entry; None if there is none."""
        value = self._entries.get(key)
        if value is not None and value is not self._youngest:
            with suppress(KeyError):  # another thread may have evicted it between the two lines
                self._entries.move_to_end(key)
            self._youngest = value
        return value

    def put(self, key: K, value: V, cost: int = 1) -> None:
        """Store `value`, evict the oldest over the bounds. A value dearer than the whole cache is not kept."""
        with self._lock:
            self._remove(key)
            if cost > self.max_cost or self.max_entries < 1:
                return
            self._entries[key] = value
            self._youngest = None  # so that a hit on any other puts it behind that one
            self._costs[key] = cost
            self.cost += cost
            while len(self._entries) > self.max_entries or self.cost > self.max_cost:
                oldest, _ = self._entries.popitem(last=False)
                self.cost -= self._costs.pop(oldest)

    def discard(self, key: K) -> None:
        """Forget `key` if it is there."""
        with self._lock:
            self._remove(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._costs.clear()
            self._youngest = None
            self.cost = 0

    def _remove(self, key: K) -> None:
        if self._entries.pop(key, None) is not None:
            self.cost -= self._costs.pop(key)


class _Share(Generic[K]):
    """What one owner brought: the cost of each key, the oldest first."""

    __slots__ = ("cost", "keys")

    def __init__(self) -> None:
        self.cost = 0
        self.keys: dict[K, int] = {}


class FairCache(Generic[K, V]):
    """Map with at most `max_entries` entries and `max_cost` total cost, shared by owners who do not trust each other.

    When it is full, the oldest entry of the owner with the highest cost goes: a flood of one owner's pushes out its
    own, and everybody else's hits stay hits. What owners brought who left is one share like any other. Any owner may
    use any entry. An owner without entries takes no memory. A hit is one dictionary look-up.
    """

    __slots__ = ("_entries", "_least", "_shares", "cost", "max_cost")

    def __init__(self, max_entries: int, max_cost: int) -> None:
        self._entries: dict[K, V] = {}
        self._shares: dict[bytes, _Share[K]] = {}
        self._least = -(-max_cost // max_entries)  # no entry costs less, so that cost bounds the entries too
        self.cost = 0
        self.max_cost = max_cost

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """Return the value of `key`; None if there is none."""
        return self._entries.get(key)

    def add(self, key: K, value: V, cost: int, owner: bytes) -> None:
        """Store `value` for a key that is not there yet. `owner` is not empty; one dearer than all is not kept."""
        cost = max(cost, self._least)
        if cost > self.max_cost or key in self._entries:
            return
        share = self._shares.get(owner)
        if share is None:
            share = self._shares[owner] = _Share()
        self._entries[key] = value
        share.keys[key] = cost
        share.cost += cost
        self.cost += cost
        while self.cost > self.max_cost:  # guard: cache-bound
            self._evict()

    def leave(self, owner: bytes) -> None:
        """Let an owner go: its entries stay while there is room."""
        share = self._shares.pop(owner, None)
        if share is not None:
            left = self._shares.get(_NOBODY)
            if left is None:
                self._shares[_NOBODY] = share
            else:
                left.keys.update(share.keys)
                left.cost += share.cost

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._shares.clear()
        self.cost = 0

    def _evict(self) -> None:
        owner = max(self._shares, key=self._cost_of)  # guard: cache-share
        share = self._shares[owner]
        oldest = next(iter(share.keys))
        cost = share.keys.pop(oldest)
        share.cost -= cost
        self.cost -= cost
        del self._entries[oldest]
        if not share.keys:
            del self._shares[owner]

    def _cost_of(self, owner: bytes) -> int:
        return self._shares[owner].cost


def metadata_cost(raw: bytes, decoded: Metadata) -> int:
    """Count the bytes that one decoded metadata takes, its key included."""
    return len(raw) + _ENTRY_OVERHEAD * (1 + len(decoded.tensors))


class MetadataCache:
    """Metadata bytes -> verified, decoded Metadata. A hit costs about 0.2 us, a miss about 15 us with one tensor.

    `misses` counts decodings: whoever charges a principal for them reads it.
    """

    __slots__ = ("_cache", "_find", "misses")

    def __init__(self, max_entries: int = 256, max_bytes: int = 1 << 20) -> None:
        self._cache: BoundedCache[bytes, Metadata] = BoundedCache(max_entries, max_bytes)
        self._find = self._cache.get
        self.misses = 0

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, raw: bytes) -> Metadata:
        """Return the decoded form of `raw`. CodecError if it is malformed; malformed bytes are never kept."""
        found = self._find(raw)
        if found is None:
            self.misses += 1
            found = decode_metadata(raw)
            self._cache.put(raw, found, metadata_cost(raw, found))
        return found
