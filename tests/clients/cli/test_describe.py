"""What `tensorwire describe` suggests to type can be typed."""

from __future__ import annotations

import shlex

import pytest

from tensorwire.clients.cli.commands.describe import suggestion
from tensorwire.clients.cli.inputs import build_inputs, parse_argument
from tensorwire.codec import Description, Encoder, Kind, TensorSpec, dtype_by_name

RAGGED, STRING = Kind.RAGGED, Kind.STRING


@pytest.mark.parametrize("max_batch", [0, 8])
@pytest.mark.parametrize(
    "specs",
    [
        [("x", "float32", (-1, 4), Kind.DENSE)],
        [("0", "bfloat16", (1, 2), Kind.DENSE), ("sepal length (cm)", "int8", (-1,), Kind.DENSE)],
        [("it's", "uint8", (-1,), STRING), ("b", "uint8", (), STRING), ("c", "uint8", (2, -1), STRING)],
        [("r", "int64", (-1,), RAGGED), ("s", "bool", (2, 3), RAGGED), ("t", "float32", (-1, -1, 2), RAGGED)],
    ],
)
def test_the_call_to_try_is_one_that_can_be_sent(
    specs: list[tuple[str, str, tuple[int, ...], Kind]], max_batch: int
) -> None:
    inputs = tuple(TensorSpec(name, dtype_by_name(dtype), shape, kind) for name, dtype, shape, kind in specs)
    words = shlex.split(suggestion(Description("m", "1", "python", "inline", "cpu", max_batch, inputs, ())))
    assert words[:3] == ["tensorwire", "send", "m"]
    assert words[3::2] == ["--input"] * len(inputs)
    arrays = build_inputs([parse_argument(word) for word in words[4::2]], inputs, batched=max_batch > 0)
    Encoder().encode("m", "", arrays)
    for spec in inputs:
        assert len(arrays[spec.name].shape) == len(spec.shape)
        assert all(want in {-1, have} for want, have in zip(spec.shape, arrays[spec.name].shape, strict=True))
