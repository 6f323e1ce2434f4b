#!/bin/sh
# Dynamic int8 quantisation takes its scale from the whole batch.
# Seen: onnxruntime alone [249.56 -117.46 41.65 -182.72], beside a loud row [0 0 0 0]; torch: the bias is left.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 onnx==1.23.2 onnxruntime==1.31.1
cd "$folder"
"$folder/env/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

print("onnxruntime", onnxruntime.__version__, "torch", torch.__version__)
print("believed: a row of a batch gets what it would get alone, up to rounding")
torch.manual_seed(0)
x = torch.randn(1, 8)
weights = numpy_helper.from_array(torch.randint(-100, 100, (8, 4)).numpy().astype(np.int8), "w")
nodes = [
    helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
    helper.make_node("MatMulInteger", ["q", "w", "zero"], ["integer"]),
    helper.make_node("Cast", ["integer"], ["float"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["float", "scale"], ["y"]),
]
inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])]
outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])]
graph = helper.make_graph(nodes, "dynamic", inputs, outputs, [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString())
module = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(8, 4)), {torch.nn.Linear})


def by_onnxruntime(batch: torch.Tensor) -> np.ndarray:
    return session.run(None, {"x": batch.numpy()})[0][0]


def by_torch(batch: torch.Tensor) -> np.ndarray:
    return module(batch)[0].detach().numpy()


erased = []
for name, run in (("onnxruntime", by_onnxruntime), ("torch", by_torch)):
    alone, beside = run(x), run(torch.cat([x, 1e4 * x]))
    zero = run(torch.cat([0 * x, 1e4 * x]))  # what is left when a row is nothing: the bias
    print(f"{name}: alone {alone.round(2)}, beside a loud row {beside.round(2)}")
    erased.append(np.abs(beside - zero).max() < 0.05 * np.abs(alone - zero).max())
print("true: a loud neighbour leaves nothing of a row: do not batch strangers through such a model")
sys.exit(0 if all(erased) else "this has changed")
PY
