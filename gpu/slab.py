"""The memory that request and reply bodies live in: one shared mapping, cut into slabs.

What lives here: `SlabPool` (a memfd, its mapping, a buddy allocator over it) and `Slab` (one piece of it).
What must not: sockets, CUDA calls (see `pinned.py`), and any rule about *who* may have how much memory.

Design
- **One mapping.** The pool is one memfd, so that another process can map the same bytes (an offset means the same
  place on both sides) and so that CUDA can pin all of it with a single registration.
- **Power-of-two classes** from one page (4 KiB). A block is aligned to its own size, so its buddy is `offset ^ size`.
- **Large slabs to the page.** What is larger than an eighth of the pool takes no more than its pages; the rest of its
  block goes back at once. Rounded up, a body of a third of the pool would take two thirds of it.
- **Magazines.** Each class keeps a few freed blocks unmerged on a stack. The steady state (allocate and free the same
  sizes, over and over) is then one `list.pop` and one `list.append`; splitting and merging happen at the edges, and
  every operation has a bound that does not grow with the pool.
- **High-water mark.** Pages come from the kernel when first touched. Freed blocks keep theirs, up to `keep` bytes over
  the whole pool; above that a freed block gives its pages back (`MADV_REMOVE`): a burst does not hold memory for ever.

Not thread-safe, by design: a pool has one owner thread (the event loop's, or the engine's). Views of a leased slab must
be dropped on that thread too. Only one process allocates from a pool; others attach by descriptor and only `view`.
"""
# ruff: noqa: SLF001 - Slab and SlabPool are one thing in two classes

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import tempfile
import weakref
from typing import Any, Final

import numpy as np

PAGE: Final = 4096
_PAGE_SHIFT: Final = 12
#: Freed blocks of one class that stay unmerged. 32 covers one full batch of rows being allocated and freed together.
_MAGAZINE: Final = 32
#: Blocks below this size keep their pages until they merge into a larger one: a system call per small block costs more.
_REMOVE_FROM: Final = 64 * 1024
_MADV_REMOVE: Final[int] = getattr(mmap, "MADV_REMOVE", 0)  # 0: not Linux


class Slab:
    """A piece of the pool: `view` is a writable memoryview of exactly `nbytes` bytes at `offset`.

    Give it back exactly once, with `release()`; or `lease()` it and let the last dropped view do so.
    """

    __slots__ = ("_order", "_pool", "nbytes", "offset", "released", "room", "view")

    def __init__(self, pool: SlabPool, offset: int, nbytes: int, order: int, view: memoryview) -> None:
        self._pool = pool  # order: of a whole block; of a large slab the number of its pages, negative
        self._order = order
        self.room = PAGE << order if order >= 0 else -order * PAGE
        """Bytes of the pool that it takes."""
        self.offset = offset
        self.nbytes = nbytes
        self.view = view
        self.released = False

    def release(self) -> None:
        """Return the memory to the pool. Idempotent. Views still held afterwards show somebody else's bytes."""
        if not self.released:
            self.released = True
            self._pool._free(self.offset, self._order)

    def lease(self) -> memoryview:
        """Return a view of the slab that releases it when the last view derived from it is dropped.

        Slices, `np.frombuffer` arrays and DLPack capsules made from the returned view all count. Call it once per slab,
        and let the returned view (not `slab.view`, which counts for nothing) be the one that is handed on.
        """
        owner = np.frombuffer(self.view, dtype=np.uint8)
        self._pool._leases[self.offset] = weakref.ref(owner, self._dropped)
        return owner.data

    def leave(self, owners: list[Any]) -> None:
        """Let the slab be released once none of `owners` exists any more: at the latest when the pool has no room.

        They may go on any thread, since nothing happens then.
        """
        self._pool._release_left()
        self._pool._left.append(([weakref.ref(owner) for owner in owners], self))

    def _dropped(self, _owner: object) -> None:
        self._pool._leases.pop(self.offset, None)
        self.release()

    @property
    def plenty(self) -> bool:
        """Whether at most half of the pool is in use: only then may memory be held longer than it must."""
        return 2 * self._pool.in_use <= self._pool.nbytes

    def __repr__(self) -> str:
        return f"<Slab {self.offset:#x}+{self.nbytes}{' released' if self.released else ''}>"


class SlabPool:
    """Shared memory of `nbytes` bytes (rounded up to a page), handed out as slabs.

    `name` shows in /proc/PID/maps. `keep` is the high-water mark: how many bytes of freed memory may stay with the
    process (default: a quarter of the pool). `fd` attaches to the memory of a pool in another process instead of making
    new memory; it is duplicated, the caller keeps its own. `allocates` says which of the processes that share the
    memory hands it out; by default the one that made it. There must be one only.
    """

    def __init__(
        self,
        nbytes: int,
        name: str = "tensorwire",
        keep: int | None = None,
        fd: int | None = None,
        allocates: bool | None = None,
    ) -> None:
        if nbytes <= 0:
            raise ValueError(f"a slab pool of {nbytes} bytes: give a positive size")
        self.nbytes = -(-nbytes // PAGE) * PAGE
        self.name = name
        self.keep = self.nbytes // 4 if keep is None else keep
        self.allocates = fd is None if allocates is None else allocates
        self.fd = shared_memory(name, self.nbytes) if fd is None else _attach(fd, self.nbytes)
        self._mapping = mmap.mmap(self.fd, self.nbytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._bytes = memoryview(self._mapping)
        self.closed = False
        self._in_use = 0
        #: A weak reference that nobody holds would die without calling back.
        self._leases: dict[int, weakref.ref[Any]] = {}
        self._left: list[tuple[list[weakref.ref[Any]], Slab]] = []
        self._hold_pages = not _MADV_REMOVE
        orders = (self.nbytes >> _PAGE_SHIFT).bit_length()
        self._magazines: list[list[int]] = [[] for _ in range(orders)]
        #: Per class: offset -> how many bytes of the block may have pages (an upper bound).
        self._blocks: list[dict[int, int]] = [{} for _ in range(orders)]
        self.largest = PAGE << (orders - 1)
        """Bytes of the largest slab, over half of all: an idle pool has room for it, and for none that is larger."""
        self._whole = max(0, orders - 4)  # the highest class whose blocks are not cut to the page
        self._paged = 0  # of the block that was split off last, as in _blocks
        self._magazine_bytes = 0
        self._block_bytes = 0
        self._busy = False
        self._deferred: list[tuple[int, int]] = []
        if self.allocates:
            self._add_everything()

    # -- using it

    def allocate(self, nbytes: int) -> Slab | None:
        """Return a slab of `nbytes` bytes (0 gives a valid empty one), its content undefined; None if there is no room.

        Offsets are multiples of 4096. About 1 us in the steady state.
        """
        order = ((nbytes - 1) >> _PAGE_SHIFT).bit_length() if nbytes > 0 else 0
        if order > self._whole or nbytes < 0:
            return self._allocate_large(nbytes, order)
        magazine = self._magazines[order]
        if magazine:
            offset = magazine.pop()
            self._magazine_bytes -= PAGE << order
        else:
            offset = self._take(order)
            if offset < 0:
                return None
        self._in_use += PAGE << order
        return Slab(self, offset, nbytes, order, self._bytes[offset : offset + nbytes])

    def room(self, nbytes: int) -> int:
        """Bytes of the pool that a slab of `nbytes` bytes takes."""
        pages = max(1, -(-nbytes // PAGE))
        order = (pages - 1).bit_length()
        return PAGE << order if order <= self._whole else pages * PAGE

    def view(self, offset: int, nbytes: int) -> memoryview:
        """Return the bytes at `offset`, writable; works on attached pools. ValueError if outside of the pool."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"bytes {offset}..{offset + nbytes} are outside of pool {self.name} ({self.nbytes} bytes)")
        return self._bytes[offset : offset + nbytes]

    @property
    def in_use(self) -> int:
        """Bytes handed out now, as `room` counts: in whole classes (5000 bytes are 8192), large slabs to the page."""
        return self._in_use

    @property
    def idle_pages(self) -> int:
        """Bytes of freed memory that may still hold pages (an upper bound). Held at about `keep`."""
        return self._magazine_bytes + self._block_bytes

    @property
    def address(self) -> int:
        """Where the mapping starts in this process, for registration with a device driver."""
        return int(np.frombuffer(self._bytes, dtype=np.uint8).ctypes.data)

    def hold_pages(self) -> None:
        """Never give pages back from now on.

        Needed before any process pins this memory: a device goes on using the pages that were pinned, while the mapping
        would get fresh ones in place of those given back, and the two would no longer be the same memory.
        """
        self._hold_pages = True

    def close(self) -> None:
        """Unmap. Idempotent. With views still out the mapping lives on until the last of them is dropped."""
        if self.closed:
            return
        self.closed = True
        os.close(self.fd)
        with contextlib.suppress(BufferError):
            self._bytes.release()
            self._mapping.close()

    def __repr__(self) -> str:
        return f"<SlabPool {self.name} {self._in_use}/{self.nbytes} bytes in use>"

    # -- the allocator

    def _add_everything(self) -> None:
        """Cut the pool into the largest aligned blocks; their pages do not exist yet."""
        offset = 0
        for order in reversed(range(len(self._blocks))):
            size = PAGE << order
            if self.nbytes - offset >= size:
                self._blocks[order][offset] = 0
                offset += size

    def _allocate_large(self, nbytes: int, order: int) -> Slab | None:
        """Take the first pages of a block, and give the rest back."""
        if order >= len(self._blocks) or nbytes < 0:
            return None
        offset = self._take(order)
        if offset < 0:
            return None
        pages = -(-nbytes // PAGE)
        end, paged = 1 << order, self._paged
        at = pages
        while at < end:  # the largest aligned pieces
            size = at & -at
            part = min(paged, size << _PAGE_SHIFT)
            self._blocks[size.bit_length() - 1][offset + (at << _PAGE_SHIFT)] = part
            self._block_bytes += part
            at += size
        self._in_use += pages << _PAGE_SHIFT
        return Slab(self, offset, nbytes, -pages, self._bytes[offset : offset + nbytes])

    def _free_large(self, offset: int, pages: int) -> None:
        self._in_use -= pages << _PAGE_SHIFT
        while pages:
            order = pages.bit_length() - 1
            self._merge(offset, order, PAGE << order)
            offset += PAGE << order
            pages -= 1 << order

    def _free(self, offset: int, order: int) -> None:
        if order < 0:
            self._free_large(offset, -order)
            return
        size = PAGE << order
        self._in_use -= size
        magazine = self._magazines[order]
        if len(magazine) < _MAGAZINE and (self._hold_pages or self.idle_pages + size <= self.keep):
            magazine.append(offset)
            self._magazine_bytes += size
        else:
            self._merge(offset, order, size)

    def _take(self, order: int) -> int:
        """Split the smallest block that is large enough; -1 if there is none even after merging the magazines."""
        if not self.allocates:
            raise RuntimeError(f"pool {self.name} belongs to another process: only that one allocates from it")
        offset = self._split(order)
        if offset < 0 and (self._magazine_bytes or self._left):
            self._release_left()
            self._empty_magazines()
            offset = self._split(order)
        return offset

    def _split(self, order: int) -> int:
        blocks = self._blocks
        for large in range(order, len(blocks)):
            if blocks[large]:
                break
        else:
            return -1
        offset, paged = blocks[large].popitem()
        self._block_bytes -= paged
        while large > order:
            large -= 1
            half = PAGE << large
            paged = min(paged, half)
            blocks[large][offset + half] = paged
            self._block_bytes += paged
        self._paged = paged
        return offset

    def _merge(self, offset: int, order: int, paged: int) -> None:
        """Put a block back, joined with its buddy as far up as possible.

        A lease can end at any bytecode here (the garbage collector drops its view): such a release waits its turn.
        """
        if self._busy:
            self._deferred.append((offset, order))
            return
        self._busy = True
        blocks = self._blocks
        while order + 1 < len(blocks):
            buddy = offset ^ (PAGE << order)
            joined = blocks[order].pop(buddy, None)
            if joined is None:
                break
            self._block_bytes -= joined
            paged += joined
            offset = min(offset, buddy)
            order += 1
        size = PAGE << order
        if paged and size >= _REMOVE_FROM and not self._hold_pages and self.idle_pages + paged > self.keep:
            self._give_pages_back(offset, size)
            paged = 0
        blocks[order][offset] = paged
        self._block_bytes += paged
        self._busy = False
        while self._deferred:
            self._merge(*(waiting := self._deferred.pop()), PAGE << waiting[1])

    def _release_left(self) -> None:
        left, self._left = self._left, []
        for owners, slab in left:
            if any(owner() is not None for owner in owners):
                self._left.append((owners, slab))
            else:
                slab.release()

    def _empty_magazines(self) -> None:
        for order, magazine in enumerate(self._magazines):
            while magazine:
                offset = magazine.pop()
                self._magazine_bytes -= PAGE << order
                self._merge(offset, order, PAGE << order)

    def _give_pages_back(self, offset: int, size: int) -> None:
        self._mapping.madvise(_MADV_REMOVE, offset, size)


def shared_memory(name: str, nbytes: int) -> int:
    """Anonymous shared memory whose size is sealed: nobody who holds it can shrink it under a reader (SIGBUS)."""
    if not hasattr(os, "memfd_create"):  # not Linux: an unlinked file does, without the seal
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
        os.ftruncate(fd, nbytes)
        return fd
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, nbytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(fd)
        raise
    return fd


def _attach(fd: int, nbytes: int) -> int:
    size = os.fstat(fd).st_size
    if size != nbytes:
        raise ValueError(f"the shared memory behind descriptor {fd} has {size} bytes, expected {nbytes}")
    return os.dup(fd)
