"""The device path on a real device: pinned slabs, copies on a stream of their own, graphs. Run by `make gpu-check`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tensorwire.gpu import SlabPool, discover
from tensorwire.gpu.graphs import WARM_UP, GraphedModel
from tensorwire.gpu.pinned import Registration
from tensorwire.gpu.staging import BatchInput, CudaStager

pytestmark = pytest.mark.gpu

Allocate = Callable[[int], memoryview]


@pytest.fixture
def pool() -> Iterator[SlabPool]:
    """A pinned pool."""
    made = SlabPool(64 << 20)
    registration = Registration(made)
    yield made
    torch.cuda.synchronize()
    registration.close()


@pytest.fixture
def allocate(pool: SlabPool) -> Allocate:
    def give(nbytes: int) -> memoryview:
        slab = pool.allocate(nbytes)
        assert slab is not None
        return slab.view

    return give


def fill(allocate: Allocate, array: np.ndarray[Any, Any]) -> memoryview:
    view = allocate(array.nbytes)
    view[:] = array.tobytes()
    return view


def test_devices_are_found_and_described() -> None:
    cuda = [device for device in discover() if device.kind == "cuda"]
    assert len(cuda) == torch.cuda.device_count()
    assert all(device.memory > 0 and device.capability and device.driver for device in cuda)
    assert cuda[0].name == torch.cuda.get_device_name(0)


def test_a_registered_pool_is_pinned_for_torch(allocate: Allocate) -> None:
    tensor = torch.frombuffer(allocate(4096), dtype=torch.uint8)
    assert tensor.is_pinned()


def test_rows_of_several_slabs_become_one_device_batch(allocate: Allocate) -> None:
    rows = np.random.default_rng(0).standard_normal((7, 3, 5)).astype(np.float32)
    runs = [fill(allocate, rows[:2]), fill(allocate, rows[2:3]), fill(allocate, rows[3:])]
    batch = CudaStager("cuda:0").copy_in([BatchInput("x", "float32", (3, 5), runs)], 7)
    assert batch["x"].is_cuda
    np.testing.assert_array_equal(batch["x"].cpu().numpy(), rows)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "bfloat16", "float64", "complex64"])
def test_bytes_of_every_dtype_survive_the_round_trip(allocate: Allocate, dtype: str) -> None:
    size = torch.empty((), dtype=getattr(torch, dtype)).element_size()
    source = np.random.default_rng(1).integers(0, 2, (4, 6 * size), np.uint8)
    stager = CudaStager("cuda:0")
    batch = stager.copy_in([BatchInput("x", dtype, (6,), [fill(allocate, source)])], 4)
    assert batch["x"].shape == (4, 6)
    copies = stager.copy_out({"y": batch["x"]}, allocate)
    assert bytes(copies["y"]) == source.tobytes()


def test_a_refilled_batch_does_not_disturb_the_one_that_is_computed(allocate: Allocate) -> None:
    stager = CudaStager("cuda:0", static=True)
    big = 1 << 20
    views = [fill(allocate, np.full((1, big), n, np.float32)) for n in range(4)]
    results = []
    for view in views:
        x = stager.copy_in([BatchInput("x", "float32", (big,), [view])], 1)["x"]
        for _ in range(50):  # keeps the compute stream busy while the next copy is issued
            x = x + 0
        results.append(x)
    torch.cuda.synchronize()
    assert [result[0, 0].item() for result in results] == [0, 1, 2, 3]
    assert all(bool((result == result[0, 0]).all()) for result in results)


def test_empty_rows_and_non_contiguous_results_are_fine(allocate: Allocate) -> None:
    stager = CudaStager("cuda:0")
    batch = stager.copy_in([BatchInput("x", "float32", (0,), [allocate(0)])], 3)
    assert batch["x"].shape == (3, 0)
    output = torch.arange(6, device="cuda:0").reshape(2, 3).T
    copies = stager.copy_out({"x": batch["x"], "y": output}, allocate)
    assert len(copies["x"]) == 0
    assert np.frombuffer(copies["y"], np.int64).tolist() == [0, 3, 1, 4, 2, 5]


def test_flags_that_bytes_do_not_carry_are_resolved(allocate: Allocate) -> None:
    source = torch.tensor([[1 + 2j, 3 - 4j]], device="cuda:0")
    copies = CudaStager("cuda:0").copy_out({"conj": source.conj(), "neg": source.conj().imag}, allocate)
    assert np.frombuffer(copies["conj"], np.complex64).tolist() == [1 - 2j, 3 + 4j]
    assert np.frombuffer(copies["neg"], np.float32).tolist() == [-2, 4]


def net() -> Callable[[Mapping[str, Any]], Any]:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 8)).to("cuda:0").eval()

    def run(inputs: Mapping[str, Any]) -> Any:
        return layers(inputs["x"])

    return run


@torch.inference_mode()
def test_a_recorded_model_gives_what_the_model_gives(allocate: Allocate) -> None:
    model = net()
    graphed = GraphedModel(model)
    stager = CudaStager("cuda:0", static=True)
    random = np.random.default_rng(2)
    for turn in range(3 * WARM_UP):
        for rows in (1, 4):
            x = random.standard_normal((rows, 32)).astype(np.float32)
            batch = stager.copy_in([BatchInput("x", "float32", (32,), [fill(allocate, x)])], rows)
            copies = stager.copy_out({"y": graphed(batch)}, allocate)
            expected = model({"x": torch.from_numpy(x).cuda()}).cpu().numpy()
            got = np.frombuffer(copies["y"], np.float32).reshape(rows, 8)
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=f"turn {turn}")
    assert graphed.recorded == 2
    assert graphed.eager == {}


@torch.inference_mode()
def test_a_model_that_looks_at_values_runs_eagerly(allocate: Allocate) -> None:
    def looks(inputs: Mapping[str, Any]) -> Any:
        return inputs["x"] * (2 if inputs["x"].sum().item() > 0 else 3)

    graphed = GraphedModel(looks)
    for n in (1.0, -1.0) * (WARM_UP + 1):
        output = graphed({"x": torch.full((2, 2), n, device="cuda:0")})
        assert output[0, 0].item() == (2 * n if n > 0 else 3 * n)
    assert graphed.recorded == 0
    assert len(graphed.eager) == 1


@torch.inference_mode()
def test_a_random_model_runs_eagerly_or_stays_random() -> None:
    def noisy(inputs: Mapping[str, Any]) -> Any:
        return inputs["x"] + torch.rand_like(inputs["x"])

    graphed = GraphedModel(noisy)
    x = {"x": torch.zeros((64, 64), device="cuda:0")}
    results = [graphed(x).clone() for _ in range(WARM_UP + 4)]
    assert not torch.equal(results[-1], results[-2])


@torch.inference_mode()
def test_timing_of_the_device_path(allocate: Allocate, record_property: Callable[[str, object], None]) -> None:
    """Not a target, a record: one batch of 32 small rows, in and out, with a replay in between."""
    graphed, stager = GraphedModel(net()), CudaStager("cuda:0", static=True)
    view = fill(allocate, np.ones((32, 32), np.float32))
    result = allocate(32 * 8 * 4)
    times = []
    for _ in range(200):
        begin = time.perf_counter()
        batch = stager.copy_in([BatchInput("x", "float32", (32,), [view])], 32)
        stager.copy_out({"y": graphed(batch)}, lambda _nbytes: result)
        times.append(time.perf_counter() - begin)
    median = sorted(times[50:])[75] * 1e6
    record_property("median_us", median)
    print(f"copy in, replay, copy out of 32 rows: {median:.0f} us")
    assert graphed.recorded == 1
