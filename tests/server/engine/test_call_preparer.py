"""A call against a model's signature: rows, parts in the model's order, and one bucket per shape of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import Encoder, SignatureError, decode_metadata, resolve
from tensorwire.gpu import SlabPool
from tensorwire.server.engine.api import Prepared
from tensorwire.server.engine.batch_memory import BatchMemory
from tensorwire.server.engine.call_preparer import CallPreparer
from tests.server.engine.helpers import python_spec

TOML = """
backend = "python"
max_batch = 4
[[inputs]]
name = "a"
dtype = "float32"
shape = [-1, 4]
[[inputs]]
name = "b"
dtype = "int64"
shape = [-1, -1]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 4]
"""
A, B = np.zeros((2, 4), np.float32), np.zeros((2, 3), np.int64)


@pytest.fixture
def preparer(tmp_path: Path) -> CallPreparer:
    return CallPreparer(python_spec(tmp_path, TOML), BatchMemory(SlabPool(1 << 20), 4))


def prepare(preparer: CallPreparer, **arrays: Any) -> Prepared:
    encoded = Encoder().encode("m", "", arrays)
    return preparer.prepare(resolve(decode_metadata(encoded.meta), encoded.dims), encoded.meta, encoded.dims)


def test_parts_are_in_the_order_of_the_model_whatever_was_sent_first(preparer: CallPreparer) -> None:
    prepared = prepare(preparer, b=B, a=A)
    assert prepared.rows == 2
    assert prepared.parts == ((64, 32), (0, 48))


def test_calls_of_one_shape_share_a_bucket_and_have_numbers_of_their_own(preparer: CallPreparer) -> None:
    first, second = prepare(preparer, a=A, b=B), prepare(preparer, a=A[:1], b=B[:1])
    other = prepare(preparer, a=A, b=B[:, :1])
    assert first.bucket is second.bucket is not None
    assert other.bucket is not first.bucket
    assert [each.number for each in (first, second, other)] == [0, 1, 2]


def test_calls_with_and_without_an_optional_input_share_no_batch(tmp_path: Path) -> None:
    spec = python_spec(tmp_path, TOML.replace('name = "a"', 'name = "a"\noptional = true'))
    preparer = CallPreparer(spec, BatchMemory(SlabPool(1 << 20), 4))
    whole, part, again = prepare(preparer, a=A, b=B), prepare(preparer, b=B), prepare(preparer, b=B[:1])
    assert part.bucket is again.bucket is not whole.bucket
    assert [len(each.parts) for each in (whole, part)] == [2, 1]
    with pytest.raises(SignatureError, match="'a': sent float32"):
        prepare(preparer, a=A[:, :3], b=B)


def test_more_rows_than_a_batch_holds_are_refused_with_advice(preparer: CallPreparer) -> None:
    with pytest.raises(SignatureError, match="at most 4; split the call"):
        prepare(preparer, a=np.zeros((5, 4), np.float32), b=np.zeros((5, 3), np.int64))


def test_what_does_not_fit_names_the_tensor(preparer: CallPreparer) -> None:
    with pytest.raises(SignatureError, match="'b'"):
        prepare(preparer, a=A, b=B.astype(np.int32))


def test_padding_is_something_to_look_at_in_each_body(preparer: CallPreparer) -> None:
    assert prepare(preparer, a=A, b=B).unchecked
    assert not prepare(preparer, a=np.zeros((4, 4), np.float32), b=np.zeros((4, 2), np.int64)).unchecked


def test_without_a_batch_axis_a_call_runs_alone(tmp_path: Path) -> None:
    spec = python_spec(tmp_path, TOML.replace("max_batch = 4", "").replace("[-1, ", "[2, "))
    prepared = prepare(CallPreparer(spec, BatchMemory(SlabPool(1 << 20), 1)), a=A, b=B)
    assert (prepared.bucket, prepared.rows) == (None, 1)
