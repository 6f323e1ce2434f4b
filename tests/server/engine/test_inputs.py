"""What a model does to its inputs is its own affair: no other call, and no repetition, sees it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.server.engine.api import BatchResult, Failure
from tests.server.engine.conftest import Said
from tests.server.engine.helpers import ECHO_TOML, Harness, failure_of, outputs_of, python_spec

NO_WARM_UP = ECHO_TOML.replace("max_batch = 32", "max_batch = 32\nwarmup = false")
LARGE = NO_WARM_UP.replace("16]", "65536]")
ALONE = LARGE.replace("max_batch = 32", "max_batch = 0").replace("[-1, 65536]", "[1, -1]")
PROMISED = LARGE.replace("warmup = false", "warmup = false\nlend_inputs = true")

WRITER = """
import numpy as np
def build():
    def model(inputs):
        x = inputs["x"]
        x -= 10
        if np.isnan(x).any():
            raise ValueError("a NaN")
        return {"y": x * 1}
    return model
"""
KEEPER = """
def build():
    return Model()
class Model:
    def __init__(self):
        self.kept = []
    def __call__(self, inputs):
        self.kept.append(inputs["x"])
        return {"y": inputs["x"] * 2}
"""


def row(value: float, width: int = 16) -> dict[str, Any]:
    return {"x": np.full((1, width), value, np.float32)}


def model_of(harness: Harness) -> Any:
    return harness.engine._core._executor._backend._model  # type: ignore[union-attr]


@pytest.mark.parametrize("bad", [(0,), (2,), (0, 1), (1, 3)])
@pytest.mark.parametrize("adopt", [False, True])
def test_a_repetition_sees_what_was_sent(tmp_path: Path, bad: tuple[int, ...], adopt: bool) -> None:
    harness = Harness(python_spec(tmp_path, NO_WARM_UP, WRITER))
    requests = [harness.submit(row(np.nan if n in bad else 100 + n), adopt=adopt) for n in range(4)]
    results = harness.run()
    for n, request in enumerate(requests):
        if n in bad:
            assert failure_of(results, request).message == "model raised ValueError: 'a NaN'"
        else:
            assert (outputs_of(results, request)["y"] == 90 + n).all()
    harness.assert_all_memory_returned()


def test_what_is_kept_of_small_calls_stays_as_it_was(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, NO_WARM_UP, KEEPER))
    for first in range(0, 30, 3):
        requests = [harness.submit(row(first + n)) for n in range(1 + first % 2 * 2)]
        results = harness.run()
        for n, request in enumerate(requests):
            assert (outputs_of(results, request)["y"] == 2 * (first + n)).all()
    for first, kept in zip(range(0, 30, 3), model_of(harness).kept, strict=True):
        assert kept[:, 0].tolist() == [first + n for n in range(1 + first % 2 * 2)]
    harness.engine.trim()
    held = harness.pool.in_use  # the block that the first lone call lay in, and no more
    assert 0 < held < 1 << 17
    model_of(harness).kept.clear()
    slabs = []
    while (slab := harness.pool.allocate(held)) is not None:
        slabs.append(slab)
    assert len(slabs) == harness.pool.nbytes // held


@pytest.mark.parametrize("toml", [LARGE, ALONE, PROMISED])
def test_what_is_kept_of_large_calls_stays_as_it_was(tmp_path: Path, toml: str) -> None:
    """The first is left to the model, which gets copies from then on: it holds one body of the pool."""
    harness = Harness(python_spec(tmp_path, toml, KEEPER))
    for value in range(5):
        request = harness.submit(row(value, 65536), adopt=True)
        assert (outputs_of(harness.run(), request)["y"] == 2 * value).all()
        assert harness.pool.in_use == 1 << 18
    kept = model_of(harness).kept
    assert [x[0, 0] for x in kept] == [0, 1, 2, 3, 4]
    assert [x[0, -1] for x in kept] == [0, 1, 2, 3, 4]
    kept.clear()
    slabs = []  # and the pool has it back when the model has let go of it
    while (slab := harness.pool.allocate(1 << 18)) is not None:
        slabs.append(slab)
    assert len(slabs) == harness.pool.nbytes >> 18


@pytest.mark.parametrize("toml", [LARGE, ALONE])
def test_what_is_kept_by_a_call_that_failed_stays_as_it_was(tmp_path: Path, toml: str) -> None:
    source = KEEPER.replace('return {"y"', 'raise ValueError\n        return {"y"')
    harness = Harness(python_spec(tmp_path, toml, source))
    for value in range(3):
        request = harness.submit(row(value, 65536), adopt=True)
        assert failure_of(harness.run(), request).message == "model raised ValueError: ''"
    assert [x[0, 0] for x in model_of(harness).kept] == [0, 1, 2]


@pytest.mark.parametrize("toml", [LARGE, ALONE])
def test_a_failed_call_that_keeps_nothing_is_lent_its_memory_again(tmp_path: Path, toml: str) -> None:
    source = "def build():\n    def model(inputs):\n        raise ValueError(inputs['x'].shape)\n    return model\n"
    harness = Harness(python_spec(tmp_path, toml, source))
    for _ in range(3):
        harness.submit(row(1, 65536), adopt=True)
        (failure,) = harness.run()
        assert isinstance(failure, Failure)
        inputs = harness.engine._core._executor.inputs  # type: ignore[union-attr]
        assert not inputs._keeps
        harness.assert_all_memory_returned()


def test_warm_up_finds_out_that_a_model_keeps_its_inputs(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, LARGE.replace("warmup = false\n", ""), KEEPER))
    for value in (1, 2):
        request = harness.submit(row(value, 65536), adopt=True)
        harness.run()
        del request
    harness.assert_all_memory_returned()
    assert [x[0, 0] for x in model_of(harness).kept[-2:]] == [1, 2]


def test_warm_up_shows_a_model_that_writes_zeros_every_time(tmp_path: Path) -> None:
    source = """
    import numpy as np
    def build():
        def model(inputs):
            if inputs["x"].any():
                raise ValueError("that is no zero")
            inputs["x"] += 1
            return {"y": np.zeros_like(inputs["x"])}
        return model
    """
    Harness(python_spec(tmp_path, ECHO_TOML, source))
    Harness(python_spec(tmp_path, ALONE.replace("warmup = false\n", ""), source))


def test_an_input_kept_by_the_model_is_not_sent_from_where_it_lies(tmp_path: Path) -> None:
    source = KEEPER.replace('{"y": inputs["x"] * 2}', "self.give(inputs)") + (
        "    def give(self, inputs):\n        return {'y': inputs['x']}\n"
    )
    harness = Harness(python_spec(tmp_path, LARGE, source))
    request = harness.submit(row(3, 65536), adopt=True)
    results = harness.run()
    model_of(harness).kept[0][:] = 7
    assert (outputs_of(results, request)["y"] == 3).all()


@pytest.mark.parametrize("part", ["[:, :]", "[:, ::-1]", "[:, 0:65536]"])
def test_an_input_that_is_the_output_holds_its_memory_until_it_is_read(tmp_path: Path, part: str) -> None:
    source = f"def build():\n    return lambda inputs: {{'y': inputs['x']{part}}}\n"
    harness = Harness(python_spec(tmp_path, LARGE, source))
    sent = np.arange(65536, dtype=np.float32).reshape(1, -1)
    held = []
    for n in range(4):
        request = harness.submit({"x": sent + n}, adopt=True)
        held.append((request, harness.run()))
    for n, (request, results) in enumerate(held):
        want = (sent + n)[:, ::-1] if part == "[:, ::-1]" else sent + n
        assert (outputs_of(results, request)["y"] == want).all()
    del held, request, results
    gc.collect()
    harness.assert_all_memory_returned()


def test_a_model_that_promised_and_keeps_is_told_of(tmp_path: Path, said: list[Said]) -> None:
    harness = Harness(python_spec(tmp_path, PROMISED, KEEPER))
    for value in (1, 2):
        harness.submit(row(value, 65536), adopt=True)
        harness.run()
    assert [record.line for record in said] == [
        "m/1: lend_inputs is set, but the model keeps its inputs: it gets copies from now on"
    ]


def test_a_model_that_promised_gets_batches_where_they_lie(tmp_path: Path) -> None:
    source = """
    def build():
        return Model()
    class Model:
        def __init__(self):
            self.seen = []
        def __call__(self, inputs):
            self.seen.append(inputs["x"].__array_interface__["data"][0])
            return {"y": inputs["x"] * 2}
    """
    harness = Harness(python_spec(tmp_path, PROMISED.replace("65536", "16"), source))
    for _ in range(3):
        requests = [harness.submit(row(n)) for n in range(3)]
        block = requests[0].block
        assert block is not None
        where = np.frombuffer(block.memory, np.uint8).ctypes.data
        results = harness.run()
        assert model_of(harness).seen[-1] == where
        assert (outputs_of(results, requests[2])["y"] == 4).all()
        assert isinstance(results[0], BatchResult)
    harness.assert_all_memory_returned()


def test_the_copys_memory_is_used_again_unless_it_was_kept(tmp_path: Path) -> None:
    source = """
    def build():
        return Model()
    class Model:
        def __init__(self):
            self.seen = []
            self.kept = []
            self.keep = False
        def __call__(self, inputs):
            self.seen.append(inputs["x"].__array_interface__["data"][0])
            if self.keep:
                self.kept.append(inputs["x"][:1])
            return {"y": inputs["x"] * 2}
    """
    harness = Harness(python_spec(tmp_path, NO_WARM_UP, source))
    model = model_of(harness)
    for keep in (False, False, True, False, False):
        model.keep = keep
        requests = [harness.submit(row(n)) for n in range(3)]
        assert (outputs_of(harness.run(), requests[2])["y"] == 4).all()
    seen = model.seen
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[4]
