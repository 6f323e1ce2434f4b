"""Small real models whose rows share a scale: int8 graphs and modules that are quantised while they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

WIDTH, HIDDEN, OUT = 16, 32, 4

TORCH = """
import warnings
import torch

def build():
    torch.manual_seed(1)
    mlp = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(mlp, {torch.nn.Linear}, dtype=torch.qint8)
"""

PER_ROW = """
import torch

class PerRow(torch.nn.Module):
    \"\"\"Dynamic int8 as it should be for strangers: each row has a scale of its own.\"\"\"

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.weight = torch.randint(-127, 128, (16, 4), dtype=torch.int32)

    def forward(self, x):
        scale = (x.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-12)
        levels = (x / scale).round().nan_to_num(0.0, 127.0, -127.0).clamp(-127, 127).to(torch.int32)
        return (levels[:, :, None] * self.weight).sum(dim=1).float() * scale

def build():
    return PerRow()
"""

DESCRIPTION = """
backend = "{backend}"
engine = "{engine}"
max_batch = 8
{more}
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 16]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 4]
"""


def description(backend: str, engine: str = "inline", more: str = "") -> str:
    """A model.toml: x float32[-1, 16] -> y float32[-1, 4]; `more` are further lines."""
    return DESCRIPTION.format(backend=backend, engine=engine, more=more)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
    """What a tool that quantises statically looks at."""

    def __init__(self) -> None:
        random = np.random.default_rng(2)
        self._batches = iter([{"x": random.random((8, WIDTH), np.float32)} for _ in range(8)])

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        return next(self._batches, None)


def save_graph(folder: Path, how: str = "dynamic") -> None:
    """Write a perceptron with two layers to `folder`, quantised ("dynamic", "static", "not") by ONNX Runtime's tool."""
    random = np.random.default_rng(1)
    weights = {"w1": random.normal(size=(WIDTH, HIDDEN)), "w2": random.normal(size=(HIDDEN, OUT))}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", OUT])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    whole, result = folder / "float.onnx", folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), whole)
    if how == "static":
        quantize_static(whole, result, _Calibration(), quant_format=QuantFormat.QOperator)
    elif how == "dynamic":
        quantize_dynamic(whole, result, weight_type=QuantType.QInt8)
    else:
        whole.rename(result)


def write_quantised(folder: Path, name: str, backend: str, engine: str = "inline", more: str = "") -> Path:
    """A folder of the quantised model of this backend ("onnx" or "torch") under `folder`; its path."""
    place = folder / name / "1"
    place.mkdir(parents=True)
    (place / "model.toml").write_text(description(backend, engine, more))
    if backend == "onnx":
        save_graph(place)
    else:
        (place / "model.py").write_text(TORCH)
    return place
