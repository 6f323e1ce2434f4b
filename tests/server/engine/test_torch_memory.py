"""Tensors: memory that a module may use again is copied once, memory that is ours goes to the caller as it is."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tensorwire.server.engine.backends import torch_memory
from tensorwire.server.engine.backends.torch_backend import _arrays
from tensorwire.server.engine.spec import load_spec
from tests.server.engine.helpers import Harness, model_folder, outputs_of, python_spec

SIZE = 4096
Model = Callable[[torch.Tensor, list[Any]], Any]


def kept(x: torch.Tensor, keep: list[Any]) -> Any:
    keep.append(x * 2)
    return keep[-1]


def part_of_kept(x: torch.Tensor, keep: list[Any]) -> Any:
    keep.append(torch.cat([x * 2, x * 2]))
    return keep[-1][: len(x)]


def alias_kept(x: torch.Tensor, keep: list[Any]) -> Any:
    y = x * 2
    keep.append(y.detach())
    return y


def storage_kept(x: torch.Tensor, keep: list[Any]) -> Any:
    y = x * 2
    keep.append(y.untyped_storage())
    return y


def numpy_kept(x: torch.Tensor, keep: list[Any]) -> Any:
    y = x * 2
    keep.append(y.numpy())
    return y


def capsule_kept(x: torch.Tensor, keep: list[Any]) -> Any:
    y = x * 2
    keep.append(y.__dlpack__())
    return y


def weakly_kept(x: torch.Tensor, keep: list[Any]) -> Any:
    y = x * 2
    keep.append(weakref.ref(y))
    return y


def from_numpy(x: torch.Tensor, keep: list[Any]) -> Any:
    keep.append((x * 2).numpy().copy())
    return torch.from_numpy(keep[-1])


def from_buffer(x: torch.Tensor, keep: list[Any]) -> Any:
    keep.append(bytearray((x * 2).numpy().tobytes()))
    return torch.frombuffer(keep[-1], dtype=torch.float32).view(x.shape)


def parameter(x: torch.Tensor, keep: list[Any]) -> Any:
    keep.append(torch.nn.Parameter(x * 2, requires_grad=False))
    return keep[-1]


def shared(x: torch.Tensor, keep: list[Any]) -> Any:
    return (x * 2).share_memory_()  # type: ignore[no-untyped-call]  # torch has no types for it


def list_kept(x: torch.Tensor, keep: list[Any]) -> Any:
    keep.append([x * 2])
    return keep[-1]


def dict_kept(x: torch.Tensor, keep: list[Any]) -> Any:
    keep.append({"y": x * 2})
    return keep[-1]


def held_by_a_thread(x: torch.Tensor, keep: list[Any]) -> Any:
    y = x * 2
    go = threading.Event()
    thread = threading.Thread(target=lambda tensor: go.wait(), args=(y,))
    thread.start()
    keep.extend((go, thread))
    return y


def expanded(x: torch.Tensor, keep: list[Any]) -> Any:
    keep.append(x[:1, :1] * 2)
    return keep[-1].expand(x.shape)


def one(raw: Any) -> Any:
    while not isinstance(raw, np.ndarray):
        raw = next(iter(raw.values())) if isinstance(raw, dict) else raw[0]
    return raw


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


THEIRS = [kept, part_of_kept, alias_kept, storage_kept, numpy_kept, capsule_kept, weakly_kept, from_numpy, from_buffer]
THEIRS += [parameter, shared, list_kept, dict_kept, held_by_a_thread, expanded]


@pytest.mark.parametrize("model", THEIRS)
def test_memory_that_somebody_else_may_write_to_is_copied(model: Model) -> None:
    keep: list[Any] = []
    x = torch.ones(4, SIZE)
    raw = [model(x, keep)]
    first = raw[0]
    while not isinstance(first, torch.Tensor):
        first = first["y"] if isinstance(first, dict) else first[0]
    where = first.data_ptr()
    del first
    array = one(_arrays(raw, 0, [x.numpy()]))
    assert (array == 2).all()
    assert array.ctypes.data != where
    if model is held_by_a_thread:
        keep[0].set()
        keep[1].join()


@pytest.mark.parametrize(
    "model",
    [
        lambda x, keep: x * 2,
        lambda x, keep: (x * 2,),
        lambda x, keep: {"y": x * 2},
        lambda x, keep: torch.cat([x, x * 2])[len(x) :],
        lambda x, keep: torch.nn.functional.linear(x, 2 * torch.eye(x.shape[1])),
    ],
)
def test_memory_that_is_ours_alone_is_not_copied(model: Model) -> None:
    x = torch.ones(4, SIZE)
    raw = [model(x, [])]
    first = raw[0]
    if not isinstance(first, torch.Tensor):
        first = first["y"] if isinstance(first, dict) else first[0]
    where = first.data_ptr()
    del first
    array = one(_arrays(raw, 0, [x.numpy()]))
    assert (array == 2).all()
    assert array.ctypes.data == where


def test_a_torch_that_shows_no_counts_makes_every_large_output_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_memory, "_provable", False)
    assert not torch_memory.is_ours([torch.ones(8)], 0)


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (lambda: torch.tensor([1 + 2j, 3 - 4j]).conj(), [1 - 2j, 3 + 4j]),
        (lambda: torch.tensor([1 + 2j, 3 - 4j]).conj().imag, [-2, 4]),
        (lambda: torch.tensor([1 + 2j, 3 - 4j]).conj().repeat(1000), [1 - 2j, 3 + 4j] * 1000),
        (lambda: torch.tensor([1 + 2j, 3 - 4j]).repeat(4000).conj().imag, [-2, 4] * 4000),
    ],
)
def test_lazy_bits_are_resolved(make: Callable[[], torch.Tensor], want: list[complex]) -> None:
    assert _arrays([make()], 0, []).tolist() == want


TOML = """
backend = "{backend}"
engine = "inline"
warmup = {warmup}
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 4096]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 4096]
"""
BUFFER = """
import torch
class Buffered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("out", torch.zeros(32, 4096))
    def forward(self, x):
        out = self.out[:x.shape[0]]
        torch.mul(x, 2, out=out)
        return out
def build():
    return Buffered()
"""


class Buffered(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = torch.zeros(32, 4096)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.out[: x.shape[0]]
        torch.mul(x, 2, out=out)
        return out


class Keeping(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.last.numel() == x.numel():
            self.last.copy_(x * 2)
        else:
            self.last = x * 2
        return self.last


@pytest.mark.parametrize("warmup", ["true", "false"])
@pytest.mark.parametrize("backend", ["torch", "torchscript", "torchscript_attribute"])
def test_a_reply_read_late_is_what_forward_returned(tmp_path: Path, backend: str, warmup: str) -> None:
    """Row W1: a buffer of the module's own, used again by each call, given out as the output."""
    toml = TOML.format(backend=backend.partition("_")[0], warmup=warmup)
    if backend == "torch":
        spec = python_spec(tmp_path, toml, BUFFER)
    else:
        folder = model_folder(tmp_path, toml)
        module = Keeping() if backend.endswith("attribute") else Buffered()
        with torch.inference_mode(mode=False):
            torch.jit.save(torch.jit.script(module), folder / "model.pt")
        spec = load_spec(folder)
    harness = Harness(spec)
    replies = []
    for n in range(20):
        requests = [harness.submit({"x": np.full((1, 4096), n + k, np.float32)}) for k in range(1 + n % 3)]
        replies.append((n, requests, harness.run()))
    for n, requests, results in replies:
        for k, request in enumerate(requests):
            assert (outputs_of(results, request)["y"] == 2 * (n + k)).all()


OTHERS = """
import numpy as np
import torch

class Object:
    def __init__(self, array):
        self.array = array
    def __array__(self, dtype=None, copy=None):
        return self.array

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = np.zeros((64, 4096), np.float32)
    def forward(self, x):
        mine = self.kept[: len(x)]
        np.multiply(x.numpy(), 2, out=mine)
        return self.way(x, mine)
    def way(self, x, mine):
        {way}

def build():
    return Model()
"""


@pytest.mark.parametrize("shape", ["[-1, 4096]", "[-1, -1]"])
@pytest.mark.parametrize(
    "way",
    [
        "return mine",
        "return {'y': mine}",
        "return [mine.view()]",
        "return mine.view(np.recarray)",
        "return Object(mine)",
        "return mine.data",
        "x.data = torch.from_numpy(mine); return x",
        "x.set_(torch.from_numpy(mine)); return x",
    ],
)
def test_what_a_module_gives_in_the_place_of_a_tensor_is_copied_too(tmp_path: Path, way: str, shape: str) -> None:
    """Arrays, objects that show one, and inputs that were made to lie in memory of the module's own."""
    toml = TOML.format(backend="torch", warmup="false").replace("[-1, 4096]", shape)
    harness = Harness(python_spec(tmp_path, toml, OTHERS.replace("{way}", way)))
    replies = []
    for n in range(6):
        requests = [harness.submit({"x": np.full((1, 4096), n + k, np.float32)}) for k in range(1 + n % 3)]
        replies.append((n, requests, harness.run()))
    for n, requests, results in replies:
        for k, request in enumerate(requests):
            assert (outputs_of(results, request)["y"] == 2 * (n + k)).all()


@pytest.mark.parametrize(
    "way", ["return mine[0]", "return Object(mine[0])", "x.data = torch.from_numpy(mine[0]); return x"]
)
def test_it_is_copied_where_calls_run_alone(tmp_path: Path, way: str) -> None:
    toml = TOML.format(backend="torch", warmup="false").replace("[-1, 4096]", "[4096]") + "\n"
    harness = Harness(
        python_spec(tmp_path, "max_batch = 0\n" + toml, OTHERS.replace("{way}", way).replace("len(x)", "1"))
    )
    replies = [(n, harness.submit({"x": np.full(4096, n, np.float32)}), harness.run()) for n in range(6)]
    for n, request, results in replies:
        assert (outputs_of(results, request)["y"] == 2 * n).all()
