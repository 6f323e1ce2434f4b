"""One direction of TCP: what arrives twice, late, not at all, and over the wrap of the sequence number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorwire.clients.cli.decoding.tcp import Direction, Run


def text(runs: list[Run]) -> str:
    """Bytes as they are, lost ones as dots."""
    return "".join("." * run.lost + run.data.decode() for run in runs)


def add(direction: Direction, seq: int, data: str, length: int | None = None) -> str:
    return text(direction.add(seq % 2**32, data.encode(), len(data) if length is None else length, 0, 0))


@pytest.mark.parametrize("base", [0, 2**32 - 4, 2**31 - 3])
def test_segments_out_of_order_wait_and_retransmissions_are_dropped(base: int) -> None:
    direction = Direction()
    direction.start((base - 1) % 2**32)
    assert add(direction, base + 3, "def") == ""
    assert add(direction, base + 6, "ghi") == ""
    assert add(direction, base, "abc") == "abcdefghi"
    assert add(direction, base, "abc") == ""
    assert add(direction, base + 6, "GHIj") == "j"
    assert direction.waiting == 0


def test_a_gap_that_is_given_up_counts_what_is_lost() -> None:
    direction = Direction()
    assert add(direction, 100, "ab") == "ab"
    assert add(direction, 105, "f") == ""
    assert add(direction, 110, "k") == ""
    assert text(direction.give_up()) == "...f"
    assert text(direction.give_up()) == "....k"
    assert direction.give_up() == []
    assert direction.waiting == 0
    assert add(direction, 102, "cde") == ""


def test_what_the_snap_length_cut_is_lost_at_its_place() -> None:
    direction = Direction()
    assert add(direction, 0, "ab", 5) == "ab..."
    assert add(direction, 5, "f") == "f"
    assert add(direction, 3, "defg", 6) == "g.."


def test_without_a_syn_the_first_segment_is_the_start() -> None:
    direction = Direction()
    assert add(direction, 777, "abc") == "abc"
    assert not direction.started


@given(st.data())
def test_property_segments_in_any_order_with_copies_give_the_bytes_in_order(data: st.DataObject) -> None:
    whole = bytes(data.draw(st.lists(st.integers(65, 90), min_size=1, max_size=60)))
    base = data.draw(st.sampled_from((0, 2**32 - 20, 2**31 - 20)))
    cuts = data.draw(st.lists(st.tuples(st.integers(0, 59), st.integers(1, 20)), max_size=15))
    pieces = [(at, whole[at : at + n]) for at, n in cuts] + [(at, whole[at : at + 7]) for at in range(0, len(whole), 7)]
    pieces = [(at, piece) for at, piece in pieces if piece]
    direction = Direction()
    direction.start((base - 1) % 2**32)
    found = b""
    for at, piece in data.draw(st.permutations(pieces)):
        for run in direction.add((base + at) % 2**32, piece, len(piece), 0, 0):
            assert run.lost == 0
            found += run.data
    assert found == whole
    assert direction.waiting == 0
