"""View or gather, warm-up, and models without a batch axis."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tensorwire.codec import RaggedArray
from tensorwire.gpu.staging import HostStager
from tensorwire.server.engine import executor
from tensorwire.server.engine.api import BatchResult
from tensorwire.server.engine.backends import Backend, LoadError
from tensorwire.server.engine.executor import Executor, _best_size, _past_the_best, _sizes
from tests.server.engine.helpers import ECHO, ECHO_TOML, Harness, outputs_of, python_spec

SEEN = """
def build():
    return Model()

class Model:
    def __init__(self):
        self.seen = []
    def __call__(self, inputs):
        self.seen.append((inputs["x"].__array_interface__["data"][0], inputs["x"].shape))
        return {"y": inputs["x"] * 2}
"""
NO_WARM_UP = ECHO_TOML.replace("max_batch = 32", "max_batch = 32\nwarmup = false")


def row(value: float, rows: int = 1) -> dict[str, Any]:
    return {"x": np.full((rows, 16), value, np.float32)}


def model_of(harness: Harness) -> Any:
    return harness.engine._core._executor._backend._model  # type: ignore[union-attr]


def address(memory: Any) -> int:
    return np.frombuffer(memory, np.uint8).ctypes.data


def test_a_batch_of_several_is_a_copy_made_once(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, NO_WARM_UP, SEEN))
    requests = [harness.submit(row(n)) for n in range(3)]
    block = requests[0].block
    assert block is not None
    where = address(block.memory)
    results = harness.run()
    ((seen, shape),) = model_of(harness).seen
    assert shape == (3, 16)
    copy = harness.engine._core._executor.inputs._copy  # type: ignore[union-attr]
    assert copy is not None
    assert seen == address(copy.memory) != where
    assert (outputs_of(results, requests[2])["y"] == 4).all()


def test_a_large_lone_body_is_a_view(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, NO_WARM_UP.replace("16]", "65536]"), SEEN))
    request = harness.submit({"x": np.ones((1, 65536), np.float32)}, adopt=True)
    assert request.block is not None
    where = address(request.block.memory)
    harness.run()
    assert model_of(harness).seen == [(where, (1, 65536))]


def test_rows_of_several_blocks_are_gathered_in_order(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, NO_WARM_UP, SEEN))
    requests = [harness.submit(row(n, rows=1 + n % 3), adopt=n % 2 == 0) for n in range(6)]
    results = harness.run()
    assert [shape for _, shape in model_of(harness).seen] == [(12, 16)]
    assert model_of(harness).seen[0][0] % 64 == 0
    for n, request in enumerate(requests):
        got = outputs_of(results, request)["y"]
        assert got.shape == (1 + n % 3, 16)
        assert (got == 2 * n).all()
    harness.assert_all_memory_returned()


def test_earliest_deadline_order_is_gathered_right(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, NO_WARM_UP, SEEN))
    requests = [harness.submit(row(n), deadline=1e12 - n) for n in range(5)]
    results = harness.run()
    for n, request in enumerate(requests):
        assert (outputs_of(results, request)["y"] == 2 * n).all()


def test_stamps_are_in_the_order_of_the_phases(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    harness.submit(row(1))
    (result,) = harness.run()
    assert isinstance(result, BatchResult)
    assert 0 < result.planned <= result.copied_in <= result.computed <= result.copied_out
    assert result.batch_rows == 1


def test_sizes_to_measure() -> None:
    assert _sizes(1) == [1]
    assert _sizes(8) == [1, 2, 4, 8]
    assert _sizes(12) == [1, 2, 4, 8, 12]


def test_batching_stops_where_it_brings_nothing(tmp_path: Path) -> None:
    """A model whose time grows with its rows gains nothing from a batch; one with a fixed cost gains all of it."""
    spin = """
    import time
    def build():
        def model(inputs):
            until = time.perf_counter() + {cost}
            while time.perf_counter() < until:
                pass
            return {{"y": inputs["x"]}}
        return model
    """
    toml = ECHO_TOML.replace("max_batch = 32", "max_batch = 8")
    linear = Harness(python_spec(tmp_path / "a", toml, spin.format(cost="0.002 * len(inputs['x'])")))
    fixed = Harness(python_spec(tmp_path / "b", toml, spin.format(cost="0.002")))
    assert linear.engine.effective_max_batch <= 2
    assert fixed.engine.effective_max_batch == 8
    assert sorted(fixed.engine.warm_up_seconds) == [1, 2, 4, 8]
    assert _best_size({1: 1.0, 2: 1.5, 4: 3.5}) == 2
    assert _past_the_best({1: 1.0, 2: 2.0, 4: 4.0})
    assert not _past_the_best({1: 1.0, 2: 1.5, 4: 3.0})
    assert fixed.engine.warm_up_seconds[8] == pytest.approx(0.002, rel=0.5)


@pytest.mark.parametrize("spell", [(10, 20), (15, 20)])
def test_a_spell_in_which_others_have_the_core_does_not_decide_the_batch_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spell: tuple[int, int]
) -> None:
    """Each size is run five times at first; within the spell a run takes ten times as long. The clock is the thread's
    own time, so that no spell but this one counts.
    """
    monkeypatch.setattr(executor, "time", SimpleNamespace(perf_counter=time.thread_time, monotonic=time.thread_time))
    toml = ECHO_TOML.replace("max_batch = 32", "max_batch = 8")
    model = f"""
    import time
    def build():
        runs = 0
        def model(inputs):
            nonlocal runs
            until = time.thread_time() + (0.01 if {spell[0]} <= runs < {spell[1]} else 0.001)
            runs += 1
            while time.thread_time() < until:
                pass
            return {{"y": inputs["x"]}}
        return model
    """
    assert Harness(python_spec(tmp_path, toml, model)).engine.effective_max_batch == 8


def test_a_call_above_the_measured_size_still_runs(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    harness.engine._core.rules.max_rows = 2
    assert (harness.infer(row(5, rows=20))["y"] == 5).all()


def test_free_axes_are_warmed_up_small(tmp_path: Path) -> None:
    source = """
    shapes = []
    def build():
        def model(inputs):
            shapes.append(inputs["x"].shape)
            return {"y": inputs["x"]}
        model.shapes = shapes
        return model
    """
    harness = Harness(python_spec(tmp_path, ECHO_TOML.replace("16]", "-1, 3]"), source))
    assert model_of(harness).shapes[0] == (1, 8, 3)


def test_a_model_that_cannot_be_warmed_up_does_not_start(tmp_path: Path) -> None:
    source = """
    def build():
        def model(inputs):
            raise ValueError("zeros are not for me")
        return model
    """
    with pytest.raises(LoadError, match=r"warm-up with 1 rows of zeros: model raised ValueError: zeros are not for me"):
        Harness(python_spec(tmp_path, ECHO_TOML, source))


@pytest.mark.parametrize(
    ("tensor", "code", "seen"),
    [
        ('dtype = "float32"\nshape = [-1, 16]\nwarmup_value = 1.5', "float(x.min()) + float(x.max())", 3.0),
        ('dtype = "bool"\nshape = [-1, 16]\nwarmup_value = true', "int(x.all())", 1),
        ('kind = "string"\nshape = [-1]\nwarmup_value = "eins"', "len(''.join(x))", 8 * 4),
        ('kind = "ragged"\ndtype = "int64"\nshape = [-1]\nwarmup_value = 7', "int(x.values.sum())", 8 * 7),
    ],
)
def test_warm_up_runs_with_the_value_that_is_asked_for(tmp_path: Path, tensor: str, code: str, seen: float) -> None:
    toml = f"""
    backend = "python"
    batch_with = "anyone"
    [[inputs]]
    name = "x"
    {tensor.replace(chr(10), chr(10) + "    ")}
    [[outputs]]
    name = "y"
    dtype = "float32"
    shape = [-1, 1]
    """
    source = f"""
    import numpy as np
    seen = []
    def model(inputs):
        x = inputs["x"]
        seen.append({code})
        return {{"y": np.zeros((len(x), 1), np.float32)}}
    model.seen = seen
    def build():
        return model
    """
    assert set(model_of(Harness(python_spec(tmp_path, toml, source))).seen) == {seen}


def test_a_model_whose_warm_up_gives_the_wrong_shape_does_not_start(tmp_path: Path) -> None:
    source = 'def build():\n    return lambda inputs: {"y": inputs["x"][:, :3]}\n'
    with pytest.raises(LoadError, match=r"model output 'y' is float32\[1, 3\], expected float32\[1, 16\]"):
        Harness(python_spec(tmp_path, ECHO_TOML, source))


STRINGS = """
backend = "python"
[[inputs]]
name = "text"
kind = "string"
shape = [-1]
[[inputs]]
name = "ids"
dtype = "int64"
kind = "ragged"
shape = [-1]
[[outputs]]
name = "upper"
kind = "string"
shape = [-1]
[[outputs]]
name = "twice"
dtype = "int64"
kind = "ragged"
shape = [-1]
[[outputs]]
name = "total"
dtype = "int64"
shape = []
"""
UPPER = """
import numpy as np
from tensorwire.codec import RaggedArray
def build():
    def model(inputs):
        ids = inputs["ids"]
        return {
            "upper": np.array([text.upper() for text in inputs["text"]], dtype=object),
            "twice": RaggedArray(ids.offsets, ids.values * 2),
            "total": np.asarray(ids.values.sum()),
        }
    return model
"""


def test_strings_and_ragged_run_alone(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, STRINGS, UPPER))
    ids = RaggedArray.from_rows([[1, 2], [], [3]], np.int64)
    arrays = {"text": np.array(["a", "\u00df", "c"], dtype=object), "ids": ids}
    requests = [harness.submit(arrays) for _ in range(3)]
    results = harness.run()
    assert [len(result.requests) for result in results] == [1, 1, 1]
    got = outputs_of(results, requests[1])
    assert list(got["upper"]) == ["A", "SS", "C"]
    assert [list(each) for each in got["twice"]] == [[2, 4], [], [6]]
    assert got["total"] == 6
    harness.assert_all_memory_returned()


def test_dense_without_batch_axis_runs_alone_and_may_alias(tmp_path: Path) -> None:
    toml = ECHO_TOML.replace("max_batch = 32", "max_batch = 0").replace("[-1, 16]", "[2, -1]")
    harness = Harness(python_spec(tmp_path, toml, ECHO))
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    request = harness.submit({"x": x})
    results = harness.run()
    harness.submit({"x": np.zeros((2, 5), np.float32)})  # takes the same memory again
    np.testing.assert_array_equal(outputs_of(results, request)["y"], x)
    harness.run()
    harness.assert_all_memory_returned()


class Staged(Backend):
    """A model behind the stager interface, on the host: the device path without a device."""

    def __init__(self) -> None:
        self.stager = HostStager(lambda nbytes: memoryview(bytearray(nbytes)))

    def run(self, inputs: dict[str, Any]) -> Any:
        return {"y": inputs["x"] * 2}


def test_the_device_path_stages_runs_and_copies_results_out(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    spec = harness.engine.spec
    allocated: list[int] = []

    def allocate(nbytes: int) -> memoryview:
        allocated.append(nbytes)
        return memoryview(bytearray(nbytes))

    executor = Executor(spec, Staged(), allocate=allocate)
    assert executor.warm_up().effective_max_batch >= 1
    harness.engine._core._executor = executor
    requests = [harness.submit(row(n, rows=1 + n % 2), adopt=n == 2) for n in range(4)]
    results = harness.run()
    for n, request in enumerate(requests):
        assert (outputs_of(results, request)["y"] == 2 * n).all()
    assert allocated == [6 * 64], "results go to the memory the engine was given"
    harness.assert_all_memory_returned()


def test_the_device_path_checks_outputs_too(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    staged = Staged()
    staged.run = lambda inputs: {"y": inputs["x"][:, :2]}  # type: ignore[method-assign]
    with pytest.raises(LoadError, match=r"output 'y' is float32\[1, 2\], expected float32\[1, 16\]"):
        Executor(harness.engine.spec, staged).warm_up()
