"""Models that do with their memory whatever docs/models.md allows, at random; each answers 2 x + 1, twice.

What lives here: their folders. What must not: calls and verdicts (test_lent_memory.py). The arithmetic is exact for
small whole numbers, at any batch size; so an answer that differs by one bit came from memory that was used again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper

from tests.support.server import write_model

MAX_BATCH = 16
WIDEST = 32768

TOML = """
backend = "{backend}"
engine = "{engine}"
max_batch = {max_batch}
threads = 1
warmup = {warmup}
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, -1]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, -1]
[[outputs]]
name = "z"
dtype = "float32"
shape = [-1, -1]
"""

WAYS = """
import random
import threading
import weakref

class Ways:
    def __init__(self, seed, ways):
        self.random = random.Random(seed)
        self.ways = ways.split()
        self.kept = []
        self.given = []
        self.buffer = self.empty(64, {widest})

    def answer(self, x):
        for view, before in self.kept:
            if not self.same(view, before):
                raise RuntimeError("an input that was kept has changed")
        for array in self.given[:-2]:
            array[:] = -1  # what it gave is its own to use again
        del self.given[:-2]
        bad = self.bad(x)
        self.new = None
        y, z = getattr(self, self.random.choice(self.ways))(x)
        if bad:
            if not self.kept or self.kept[-1][0] is not self.new:
                x[:] = -3
            raise self.random.choice([ValueError, KeyboardInterrupt, GeneratorExit, SystemExit])("a bad row")
        return y, z

    def fresh(self, x):
        return x * 2 + 1, x * 2 + 1

    def the_same_twice(self, x):
        y = x * 2 + 1
        return y, y

    def a_part(self, x):
        both = self.empty(2 * len(x), x.shape[1])
        both[:] = -2
        both[len(x):] = x * 2 + 1
        return both[len(x):], both[len(x):]

    def the_input(self, x):
        x *= 2
        x += 1
        return x, x * 1

    def a_part_of_the_input(self, x):
        x *= 2
        x += 1
        return x[:, :], x[0:]

    def the_input_spoilt(self, x):
        y = x * 2 + 1
        x[:] = -4
        return y, y

    def a_buffer(self, x):
        out = self.buffer[: len(x), : x.shape[1]]
        out[:] = x * 2
        out += 1
        return out, out * 1

    def a_part_of_what_it_keeps(self, x):
        both = self.empty(2 * len(x), x.shape[1])
        both[:] = -2
        both[: len(x)] = x * 2 + 1
        self.given.append(both)
        return both[: len(x)], both[: len(x)]

    def what_it_gave_before(self, x):
        y = x * 2 + 1
        self.given.append(y)
        return y, y * 1

    def keep(self, x):
        self.new = x[:1]
        self.kept.append((self.new, self.copy(x[:1])))
        del self.kept[:-4]
        return x * 2 + 1, x * 2 + 1

    def keep_weakly(self, x):
        y = x * 2 + 1
        self.weakly = weakref.ref(y)
        return y, y * 1

    def in_a_thread(self, x):
        answers = []
        def compute():
            answers.append(x * 2 + 1)
            answers.append(answers[0])
            done.set()
            again.wait()  # and holds both until the next call
            answers[0][:] = -5
        self.free()
        done, again = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=compute, daemon=True)
        self.release = again
        self.thread.start()
        done.wait()
        return tuple(answers)

    def free(self):
        if getattr(self, "thread", None) is not None:
            self.release.set()
            self.thread.join()
            self.thread = None
""".replace("{widest}", str(WIDEST))

NUMPY = """
import numpy as np
from .ways import Ways

class Model(Ways):
    def empty(self, *shape):
        return np.empty(shape, np.float32)
    def same(self, one, other):
        return np.array_equal(one, other, equal_nan=True)
    def copy(self, x):
        return x.copy()
    def bad(self, x):
        return bool(np.isnan(x).any())
    def swapped(self, x):
        return (x * 2 + 1).astype(">f4"), np.asfortranarray(x * 2 + 1)
    def backwards(self, x):
        return (x[::-1, ::-1] * 2 + 1)[::-1, ::-1], np.frombuffer((x * 2 + 1).tobytes(), np.float32).reshape(x.shape)
    def __call__(self, inputs):
        y, z = self.answer(inputs["x"])
        return self.random.choice([{"y": y, "z": z}, (y, z), [y, z]])

def build():
    return Model({seed}, "{ways}")
"""

TORCH = """
import torch
from .ways import Ways

class Kept(torch.nn.Module, Ways):
    def __init__(self, seed, ways):
        torch.nn.Module.__init__(self)
        Ways.__init__(self, seed, ways)
    def empty(self, *shape):
        return torch.empty(shape)
    def same(self, one, other):
        return torch.equal(one.nan_to_num(-9), other.nan_to_num(-9))
    def copy(self, x):
        return x.clone()
    def bad(self, x):
        return bool(x.isnan().any())
    def numpys(self, x):
        y = (x * 2 + 1).numpy()
        self.given.append(y)
        return torch.from_numpy(y), torch.from_numpy(y * 1)
    def array_of_its_own(self, x):
        array = (x * 2 + 1).numpy()
        self.given.append(array)
        return array, array * 1
    def the_input_moved(self, x):
        y = self.buffer.view(-1)[: x.numel()].view(x.shape)
        y.copy_(x * 2 + 1)
        x.data = y
        return x, y * 1
    def lazy(self, x):
        return torch.complex(x, -2 * x - 1).conj().imag, (x * 2 + 1).t().contiguous().t()
    def forward(self, x):
        y, z = self.answer(x)
        return self.random.choice([{"y": y, "z": z}, (y, z), [y, z]])

def build():
    return Kept({seed}, "{ways}")
"""

HARMLESS = "fresh the_same_twice a_part the_input a_part_of_the_input the_input_spoilt"
SHARING = f"{HARMLESS} a_buffer a_part_of_what_it_keeps what_it_gave_before keep_weakly"
KEEPING = f"{SHARING} keep in_a_thread"
TENSORS = "numpys array_of_its_own the_input_moved lazy"


class Script(torch.nn.Module):
    """The same in TorchScript, in turn: it has attributes, and writes where it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = torch.zeros(MAX_BATCH, WIDEST)
        self.last = torch.zeros(1)
        self.kept = torch.zeros(1)
        self.before = torch.zeros(1)
        self.turn = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if not torch.equal(self.kept, self.before):
            raise RuntimeError("an input that was kept has changed")
        self.last.fill_(-1.0)
        self.turn += 1
        way = self.turn % 7
        bad = bool(torch.isnan(x).any())
        y = x
        if way == 0:
            y = x * 2 + 1
        elif way == 1:
            y = x.mul_(2).add_(1)
        elif way == 2:
            y = self.buffer[: x.size(0), : x.size(1)]
            y.copy_(x * 2 + 1)
        elif way == 3:
            y = x * 2 + 1
            self.last = y
        elif way == 4:
            y = torch.cat([x, x]).mul_(2).add_(1)[: x.size(0)]
        elif way == 5:
            y = x * 2 + 1
            if not bad:
                self.kept = x[:1]
                self.before = self.kept.clone()
        else:
            y = x * 2 + 1
            x.fill_(-7.0)
        if bad:
            raise RuntimeError("a bad row")
        return y, y


class Exported(torch.nn.Module):
    """The same as an exported program: it writes into its input and keeps its answers in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.calls.add_(1)  # type: ignore[operator]
        x.mul_(2)
        x.add_(1)
        return x, x * 1


def _graph() -> Any:
    value = helper.make_tensor_value_info
    shape = ["n", "w"]
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [], [number]) for name, number in (("two", 2), ("one", 1))]
    nodes = [("Mul", ["x", "two"], "d"), ("Add", ["d", "one"], "y"), ("Identity", ["y"], "z")]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output]) for op, inputs, output in nodes],
        "affine",
        [value("x", TensorProto.FLOAT, shape)],
        [value(name, TensorProto.FLOAT, shape) for name in "yz"],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def write(folder: Path) -> dict[str, bool]:
    """Every backend, in both engines; by name whether the model raises on a row with NaN."""
    raising: dict[str, bool] = {}

    def add(name: str, backend: str, engine: str, code: str = "", ways: str = "", warmup: bool = False) -> Path:
        max_batch = 0 if "alone" in name else MAX_BATCH
        toml = TOML.format(backend=backend, engine=engine, max_batch=max_batch, warmup=str(warmup).lower())
        full = f"{name}-{engine}"
        raising[full] = backend not in {"torch_export", "onnx"}
        write_model(folder, full, code.replace("{seed}", repr(full)).replace("{ways}", ways), toml)
        (folder / full / "1" / "ways.py").write_text(WAYS)
        return folder / full / "1"

    script = torch.jit.script(Script())
    rows, width = torch.export.Dim("rows", min=1, max=1024), torch.export.Dim("width", min=2, max=1 << 20)
    program = torch.export.export(Exported(), (torch.ones(3, 5),), dynamic_shapes={"x": {0: rows, 1: width}})
    for engine in ("inline", "process"):
        add("numpy", "python", engine, NUMPY, f"{KEEPING} swapped backwards", warmup=True)
        add("torch", "torch", engine, TORCH, f"{KEEPING} {TENSORS}", warmup=True)
        torch.jit.save(script, str(add("script", "torchscript", engine) / "model.pt"))
        torch.export.save(program, add("export", "torch_export", engine) / "model.pt2")
        onnx.save(_graph(), str(add("onnx", "onnx", engine) / "model.onnx"))
    add("numpy-lent", "python", "inline", NUMPY, f"{SHARING} swapped backwards")
    add("torch-lent", "torch", "inline", TORCH, f"{SHARING} {TENSORS}")
    add("numpy-lent", "python", "process", NUMPY, SHARING)
    add("numpy-alone", "python", "inline", NUMPY, KEEPING)
    add("torch-alone", "torch", "inline", TORCH, SHARING)
    return raising
