"""Metadata is sent once per number and life, its memory returns when read, and a bounded number is kept."""

from __future__ import annotations

from typing import Any

import pytest

from tensorwire.gpu import SlabPool
from tensorwire.server.engine import signature_sync
from tensorwire.server.engine.api import Prepared
from tensorwire.server.engine.records import FORGET, PREPARE
from tensorwire.server.engine.signature_sync import SignatureSync


class _Resolved:
    body_length = 0
    unchecked = False


def prepared(number: int, meta: bytes = b"meta", dims: bytes = b"dims") -> Prepared:
    resolved: Any = _Resolved()
    return Prepared(number, 1, None, (), resolved, meta, dims)


def make(nbytes: int = 1 << 20) -> tuple[SignatureSync, SlabPool, list[tuple[int, dict[str, int]]]]:
    told: list[tuple[int, dict[str, int]]] = []
    pool = SlabPool(nbytes)
    return SignatureSync(pool, lambda kind, **fields: told.append((kind, fields))), pool, told


def test_metadata_and_dims_lie_where_the_record_says() -> None:
    known, pool, told = make()
    assert known.send(prepared(7, b"metadata", b"12345678"))
    ((kind, fields),) = told
    assert (kind, fields["number"]) == (PREPARE, 7)
    assert bytes(pool.view(fields["offset"], fields["start"] + fields["capacity"])) == b"metadata12345678"
    assert 7 in known.known


def test_memory_returns_when_it_was_read() -> None:
    known, pool, _ = make()
    known.send(prepared(7))
    assert known.in_use == 8
    known.read(7)
    known.read(7)
    known.read(8)
    assert known.in_use == pool.in_use == 0
    assert 7 in known.known


def test_a_full_pool_is_said_and_nothing_is_told() -> None:
    known, pool, told = make(4096)
    assert pool.allocate(4096)
    assert not known.send(prepared(1))
    assert told == []
    assert 1 not in known.known


def test_the_oldest_is_forgotten_once_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_sync, "MOST", 2)
    known, _, told = make()
    assert known.send(prepared(1))
    assert known.send(prepared(2))
    assert not known.send(prepared(3))
    known.read(1)
    assert known.send(prepared(3))
    assert [(kind, fields["number"]) for kind, fields in told[2:]] == [(FORGET, 1), (PREPARE, 3)]
    assert list(known.known) == [2, 3]


def test_close_gives_back_what_was_not_read() -> None:
    known, pool, _ = make()
    known.send(prepared(1))
    known.close()
    assert pool.in_use == 0
