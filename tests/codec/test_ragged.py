"""RaggedArray behaves like a list of rows and never lets rows leave the values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from fuzz import strategies_tensors as strategies
from tensorwire.codec import CodecError, RaggedArray


@given(strategies.ragged_arrays())
def test_rows_cover_the_values_in_order(ragged: RaggedArray) -> None:
    rows = list(ragged)
    assert len(rows) == len(ragged)
    assert sum(map(len, rows)) == len(ragged.values)
    for index, row in enumerate(rows):
        assert strategies.same_bits(row, ragged[index])
        assert strategies.same_bits(row, ragged[index - len(ragged)])
        assert row.base is not None


def test_it_is_a_sequence() -> None:
    ragged = RaggedArray.from_rows([[1, 2], [3], []])
    assert (ragged.tolist(), ragged.shape, ragged.dtype) == ([[1, 2], [3], []], (3,), np.dtype(np.int64))
    assert [row.tolist() for row in ragged[1:]] == [[3], []]
    assert repr(ragged) == "RaggedArray(3 rows, 3 items, int64)"
    assert RaggedArray.from_rows([], np.float32).tolist() == []
    for index in (3, -4):
        with pytest.raises(IndexError):
            ragged[index]


@pytest.mark.parametrize(
    ("offsets", "values"),
    [([], [1]), ([1, 1], [1]), ([0, 2], [1]), ([0, 1, 0, 1], [1]), ([[0, 1]], [1]), ([0, 1], 1), ([0, -1, 1], [1])],
)
def test_offsets_that_do_not_fit_are_refused(offsets: Any, values: Any) -> None:
    with pytest.raises(CodecError, match="ragged"):
        RaggedArray(offsets, values)
