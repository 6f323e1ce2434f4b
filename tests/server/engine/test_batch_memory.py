"""BatchMemory: where rows lie, when a block is used again, and that every byte goes back to the pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tensorwire.server.engine.api import BatchResult
from tensorwire.server.engine.blocks import FORMING_BYTES, Bucket, Field
from tests.server.engine.helpers import ECHO, ECHO_TOML, Harness, outputs_of, python_spec

FLOAT = np.dtype("float32")


def row(value: float) -> dict[str, Any]:
    return {"x": np.full((1, 16), value, np.float32)}


def test_a_layout_is_that_of_a_body() -> None:
    bucket = Bucket((Field("a", FLOAT, (3,)), Field("b", FLOAT, ())), 8)
    assert bucket.layout(5) == ((0, 64), 84)
    assert bucket.row_bytes == 16


def test_a_forming_block_is_bounded_in_bytes() -> None:
    assert Bucket((Field("a", FLOAT, (4,)),), 32).capacity == 32
    assert Bucket((Field("a", FLOAT, (16384,)),), 256).capacity == FORMING_BYTES // 65536
    assert Bucket((Field("a", FLOAT, (1 << 20,)),), 256).capacity == 1
    assert Bucket((Field("a", FLOAT, (0,)),), 256).capacity == 256


def test_small_bodies_share_a_block_in_order(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    requests = [harness.submit(row(n)) for n in range(5)]
    assert len({id(request.block) for request in requests}) == 1
    assert [request.start for request in requests] == [0, 1, 2, 3, 4]
    harness.run()
    harness.assert_all_memory_returned()


def test_an_emptied_block_starts_over_without_the_pool(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    first = harness.submit(row(1))
    harness.run()
    again = harness.submit(row(2))
    assert again.block is first.block
    assert again.start == 0
    harness.run()
    assert harness.engine.in_use == 0
    assert harness.pool.in_use > 0, "one idle block is kept"
    harness.assert_all_memory_returned()


def test_more_rows_than_a_block_begin_another(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    requests = [harness.submit({"x": np.full((3, 16), n, np.float32)}) for n in range(15)]
    assert len({id(request.block) for request in requests}) == 2
    results = harness.run()
    for n, request in enumerate(requests):
        assert (outputs_of(results, request)["y"] == n).all()
    harness.assert_all_memory_returned()


def test_an_adopted_slab_is_not_copied_and_goes_back(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path))
    request = harness.submit(row(7), adopt=True)
    assert request.block is not None
    assert request.block.slab is not None
    harness.run()
    assert harness.pool.in_use == 0


def test_a_large_output_that_is_the_input_leaves_from_where_it_came_in(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, ECHO_TOML.replace("16", "40000")))
    x = np.arange(80_000, dtype=np.float32).reshape(2, 40_000)
    request = harness.submit({"x": x}, adopt=True)
    assert request.block is not None
    memory = np.frombuffer(request.block.memory, np.uint8)
    (result,) = harness.run()
    assert isinstance(result, BatchResult)
    (output,) = result.outputs
    del result
    assert np.shares_memory(np.frombuffer(output, np.uint8), memory)
    assert harness.engine.in_use == 0
    assert harness.pool.in_use > 0, "until the reply is gone"
    other = harness.submit({"x": 2 * x}, adopt=True)
    harness.run()
    assert bytes(output) == x.tobytes()
    del output, request, other
    harness.assert_all_memory_returned()


def test_where_memory_is_short_an_output_that_is_the_input_is_copied(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, ECHO_TOML.replace("16", "40000")))
    taken = harness.pool.allocate(harness.pool.nbytes // 2)
    assert taken is not None
    request = harness.submit({"x": np.ones((2, 40_000), np.float32)}, adopt=True)
    assert request.block is not None
    memory = np.frombuffer(request.block.memory, np.uint8)
    (result,) = harness.run()
    assert isinstance(result, BatchResult)
    assert not np.shares_memory(np.frombuffer(result.outputs[0], np.uint8), memory)
    taken.release()
    harness.assert_all_memory_returned()


def test_a_refused_adopted_slab_goes_back(tmp_path: Path) -> None:
    harness = Harness(python_spec(tmp_path, ECHO_TOML.replace("max_batch = 32", "max_batch = 32\nmax_queue = 1")))
    harness.submit(row(1))
    refusal = harness.try_submit(row(2), harness.request(), adopt=True)
    assert refusal is not None
    harness.run()
    harness.assert_all_memory_returned()


def test_a_short_pool_gives_smaller_blocks_then_refuses(tmp_path: Path) -> None:
    toml = ECHO_TOML.replace("16]", "1024]")
    harness = Harness(python_spec(tmp_path, toml), pool_bytes=16384)
    arrays = {"x": np.zeros((1, 1024), np.float32)}
    admitted = 0
    while (refusal := harness.try_submit(arrays, harness.request())) is None:
        admitted += 1
    assert admitted == 4, "all of the pool is used, not only whole batches"
    assert refusal.status.name == "RESOURCE_EXHAUSTED"
    assert not refusal.started
    assert len(harness.run()) >= 1
    harness.assert_all_memory_returned()


def test_idle_blocks_of_other_shapes_go_back(tmp_path: Path) -> None:
    toml = ECHO_TOML.replace("16]", "-1]")
    harness = Harness(python_spec(tmp_path, toml, ECHO))
    for width in range(1, 50):
        harness.infer({"x": np.zeros((1, width), np.float32)})
    assert harness.pool.in_use <= 1 << 13, "one idle block at most"
    harness.assert_all_memory_returned()


def test_inputs_in_another_order_reach_their_own_slots(tmp_path: Path) -> None:
    toml = """
    backend = "python"
    [[inputs]]
    name = "a"
    dtype = "float32"
    shape = [-1, 3]
    [[inputs]]
    name = "b"
    dtype = "int64"
    shape = [-1]
    [[outputs]]
    name = "y"
    dtype = "float32"
    shape = [-1, 3]
    """
    source = """
    def build():
        return lambda inputs: {"y": (inputs["a"] * inputs["b"][:, None]).astype("float32")}
    """
    harness = Harness(python_spec(tmp_path, toml, source))
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([10, 100])
    small = harness.submit({"b": b, "a": a})
    large = harness.submit({"b": b, "a": a}, adopt=True)
    results = harness.run()
    for request in (small, large):
        np.testing.assert_array_equal(outputs_of(results, request)["y"], a * b[:, None])
    harness.assert_all_memory_returned()
