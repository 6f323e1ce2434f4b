"""A ring of fixed-size records from one process to another: shared memory for the records, an eventfd for the news.

What lives here: one direction, one writer, one reader. What must not: what the records mean (records.py).

Why this is correct without locks or atomics, in Python:

* The writer packs records into free places, then calls `publish()`, which adds *their number* to the eventfd. The
  reader takes that number out of the eventfd and reads exactly so many records. A place is therefore only ever read
  after the kernel handed its announcement from one process to the other, under a lock of its own: everything the writer
  stored before the write is visible after the read, on any processor. There is no shared tail that could be seen early.
* The reader stores how many records it has taken, in one aligned 8-byte store (a memoryview item of format Q is copied
  with one move). If the writer sees an old value it believes the ring fuller than it is, which is safe. The new value
  is stored after the records were copied out, so a place is never overwritten while it is being read.
* A wake-up cannot be lost: the eventfd stays readable until the reader has taken the number.

`publish()` is one system call for all records of a turn, `read()` one for all that were announced.
"""

from __future__ import annotations

import mmap
import os
from struct import Struct
from typing import Any

from ...gpu import PAGE, shared_memory


class RingError(Exception):
    """The other side announced what cannot be: it is broken and must not be believed any more."""


class Ring:
    """`capacity` records (a power of two) laid out as `layout`.

    The creator gives neither `fd` nor `event`; the other process attaches with both (they are duplicated).
    An instance is used as writer or as reader, never as both, and by one thread.
    """

    def __init__(self, layout: Struct, capacity: int, fd: int | None = None, event: int | None = None) -> None:
        if capacity & (capacity - 1) or capacity <= 0:
            raise ValueError(f"a ring of {capacity} records: the capacity must be a power of two")
        self.capacity = capacity
        self._size = layout.size
        self._pack_into = layout.pack_into
        self._iter_unpack = layout.iter_unpack
        nbytes = PAGE + capacity * layout.size
        self.fd = shared_memory("tensorwire-ring", nbytes) if fd is None else os.dup(fd)
        self.event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if event is None else os.dup(event)
        if os.fstat(self.fd).st_size != nbytes:
            raise RingError(f"the shared memory of a ring has {os.fstat(self.fd).st_size} bytes, expected {nbytes}")
        self._mapping = mmap.mmap(self.fd, nbytes)
        memory = memoryview(self._mapping)
        self._taken = memory[:8].cast("Q")
        self._records = memory[PAGE:]
        self._mask = capacity - 1
        self._position = 0  # writer: records written; reader: records read
        self._published = 0
        self._seen = 0  # writer: what it last saw of the reader's count

    # writer

    def push(self, *fields: Any) -> bool:
        """Write one record; False if the ring is full. The reader learns of it at `publish()`."""
        position = self._position
        if position - self._seen >= self.capacity:
            self._seen = self._taken[0]
            if position - self._seen >= self.capacity:
                return False
        self._pack_into(self._records, (position & self._mask) * self._size, *fields)
        self._position = position + 1
        return True

    def publish(self) -> None:
        """Announce all records written since the last time; no system call if there are none."""
        fresh = self._position - self._published
        if fresh:
            self._published = self._position
            os.eventfd_write(self.event, fresh)

    # reader

    def read(self) -> list[tuple[Any, ...]]:
        """Every record announced so far. Raises RingError if more were announced than the ring can hold."""
        try:
            fresh = os.eventfd_read(self.event)
        except BlockingIOError:
            return []
        if fresh > self.capacity:
            raise RingError(f"{fresh} records announced in a ring of {self.capacity}")
        size = self._size
        start = self._position & self._mask
        first = min(fresh, self.capacity - start)
        records = list(self._iter_unpack(self._records[start * size : (start + first) * size]))
        if first < fresh:
            records += self._iter_unpack(self._records[: (fresh - first) * size])
        self._position += fresh
        self._taken[0] = self._position
        return records

    def close(self) -> None:
        """Give back the descriptors and the mapping."""
        self._taken.release()
        self._records.release()
        self._mapping.close()
        os.close(self.fd)
        os.close(self.event)
