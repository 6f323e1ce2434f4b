"""Every backend with a real small model in a real folder: what it computes equals what its library computes."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from tensorwire.codec import dtype_by_name
from tensorwire.server.engine.api import BatchResult
from tensorwire.server.engine.backends import LoadError, load_backend
from tensorwire.server.engine.spec import load_spec
from tests.server.engine.helpers import Harness, model_folder, outputs_of

MLP_SOURCE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    def forward(self, x):
        return self.layers(x)

def build():
    return Net()
"""
TENSORS = """
max_batch = 4
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 6]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 3]
"""
X = np.random.default_rng(0).random((3, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def mlp() -> torch.nn.Module:
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "mlp"}
    exec(MLP_SOURCE, namespace)  # the very source that the torch backend loads from its folder
    module: torch.nn.Module = namespace["build"]()
    return module.eval()


def expected(module: torch.nn.Module, x: np.ndarray[Any, Any] = X) -> np.ndarray[Any, Any]:
    with torch.inference_mode():
        result: np.ndarray[Any, Any] = module(torch.from_numpy(x)).numpy()
    return result


def serve(folder: Path) -> Harness:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of its own parts
        return Harness(load_spec(folder))


def check(folder: Path, module: torch.nn.Module) -> None:
    harness = serve(folder)
    requests = [harness.submit({"x": X[:1]}), harness.submit({"x": X[1:]}), harness.submit({"x": X}, adopt=True)]
    results = harness.run()
    for request, x in zip(requests, (X[:1], X[1:], X), strict=True):
        np.testing.assert_allclose(outputs_of(results, request)["y"], expected(module, x), rtol=1e-5, atol=1e-6)
    harness.engine.stop()
    harness.assert_all_memory_returned()


def test_torch_with_safetensors(tmp_path: Path, mlp: torch.nn.Module) -> None:
    folder = model_folder(tmp_path, 'backend = "torch"\nweights = "w.safetensors"' + TENSORS, MLP_SOURCE)
    save_file(mlp.state_dict(), folder / "w.safetensors")
    check(folder, mlp)


def test_torch_with_a_state_dict(tmp_path: Path, mlp: torch.nn.Module) -> None:
    folder = model_folder(tmp_path, 'backend = "torch"\nthreads = 1\nweights = "w.pt"' + TENSORS, MLP_SOURCE)
    torch.save(mlp.state_dict(), folder / "w.pt")
    check(folder, mlp)
    assert torch.get_num_threads() == 1


def test_torchscript(tmp_path: Path, mlp: torch.nn.Module) -> None:
    folder = model_folder(tmp_path, 'backend = "torchscript"' + TENSORS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        folder = model_folder(tmp_path, 'backend = "torchscript"' + TENSORS)
        torch.jit.save(torch.jit.trace(mlp, torch.zeros(2, 6)), folder / "model.pt")  # type: ignore[no-untyped-call]
    check(folder, mlp)


def test_torch_export(tmp_path: Path, mlp: torch.nn.Module) -> None:
    folder = model_folder(tmp_path, 'backend = "torch_export"' + TENSORS)
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(mlp, (torch.zeros(2, 6),), dynamic_shapes={"x": {0: batch}})
        torch.export.save(program, folder / "model.pt2")
    check(folder, mlp)


def test_onnx(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, 'backend = "onnx"\nthreads = 1' + TENSORS)
    weights = np.random.default_rng(1).random((6, 3)).astype(np.float32)
    save_graph(folder, weights, "y")
    harness = serve(folder)
    np.testing.assert_allclose(harness.infer({"x": X})["y"], np.maximum(X @ weights, 0), rtol=1e-5)
    harness.engine.stop()


def test_onnx_with_other_names_says_which(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, 'backend = "onnx"' + TENSORS)
    save_graph(folder, np.zeros((6, 3), np.float32), "logits")
    with pytest.raises(LoadError, match=r"outputs: model\.toml has \['y'\], the ONNX graph has \['logits'\]"):
        serve(folder)


def save_graph(folder: Path, weights: np.ndarray[Any, Any], output: str) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], [output])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(folder / "model.onnx"))


def test_python_with_a_factory_that_takes_the_spec_and_a_sibling_file(tmp_path: Path) -> None:
    source = """
    from .other import scale

    def make(spec):
        weights = spec.path / "scale.txt"
        factor = float(weights.read_text())
        return lambda inputs: (scale(inputs["x"], factor),)
    """
    toml = 'backend = "python"\nfactory = "make"' + TENSORS.replace("[-1, 3]", "[-1, 6]")
    folder = model_folder(tmp_path, toml, source)
    (folder / "other.py").write_text("def scale(x, factor):\n    return (x * factor).astype('float32')\n")
    (folder / "scale.txt").write_text("3")
    np.testing.assert_allclose(serve(folder).infer({"x": X})["y"], X * 3, rtol=1e-6)


def test_python_may_give_torch_tensors(tmp_path: Path) -> None:
    source = """
    import torch
    def build():
        return lambda inputs: torch.from_numpy(inputs["x"]) * 2
    """
    folder = model_folder(tmp_path, 'backend = "python"' + TENSORS.replace("[-1, 3]", "[-1, 6]"), source)
    np.testing.assert_array_equal(serve(folder).infer({"x": X})["y"], X * 2)


def test_two_versions_share_no_module(tmp_path: Path) -> None:
    source = """
    state = []
    def build():
        state.append(1)
        return lambda inputs: {"y": inputs["x"] * len(state)}
    """
    toml = 'backend = "python"' + TENSORS.replace("[-1, 3]", "[-1, 6]")
    for version in ("1", "2"):
        harness = serve(model_folder(tmp_path, toml, source, version=version))
        np.testing.assert_array_equal(harness.infer({"x": X})["y"], X)


def test_torch_outputs_by_name_and_integer_inputs(tmp_path: Path) -> None:
    source = """
    import torch
    class Embed(torch.nn.Module):
        def forward(self, ids, mask):
            return {"total": (ids * mask).sum(1), "any": mask.any(dim=1)}
    def build():
        return Embed()
    """
    toml = """
    backend = "torch"
    [[inputs]]
    name = "ids"
    dtype = "int64"
    shape = [-1, -1]
    [[inputs]]
    name = "mask"
    dtype = "bool"
    shape = [-1, -1]
    [[outputs]]
    name = "any"
    dtype = "bool"
    shape = [-1]
    [[outputs]]
    name = "total"
    dtype = "int64"
    shape = [-1]
    """
    harness = serve(model_folder(tmp_path, toml, source))
    ids = np.arange(6).reshape(2, 3)
    got = harness.infer({"ids": ids, "mask": ids % 2 == 0})
    assert got["total"].tolist() == [2, 4]
    assert got["any"].tolist() == [True, True]


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float16", "complex64", "uint16"])
def test_dtypes_that_numpy_or_torch_lack_pass_through_torch(tmp_path: Path, name: str) -> None:
    source = """
    import torch
    class Same(torch.nn.Module):
        def forward(self, x):
            return x.clone()
    def build():
        return Same()
    """
    toml = 'backend = "torch"' + TENSORS.replace("float32", name).replace("[-1, 3]", "[-1, 6]")
    harness = serve(model_folder(tmp_path, toml, source))
    x = np.arange(12).reshape(2, 6).astype(dtype_by_name(name).numpy)
    request = harness.submit({"x": x})
    (result,) = harness.run()
    assert isinstance(result, BatchResult)
    assert result.requests == [request]
    assert result.signature[0][1] == name
    assert bytes(result.outputs[0]) == x.tobytes()


def test_outputs_that_need_gradients_are_taken(tmp_path: Path) -> None:
    source = """
    import torch
    class Learns(torch.nn.Module):
        def forward(self, x):
            with torch.inference_mode(False), torch.enable_grad():
                w = torch.ones(6, requires_grad=True)
                return w * torch.tensor(x.tolist())
    def build():
        return Learns()
    """
    toml = 'backend = "torch"' + TENSORS.replace("[-1, 3]", "[-1, 6]")
    np.testing.assert_allclose(serve(model_folder(tmp_path, toml, source)).infer({"x": X})["y"], X, rtol=1e-6)


@pytest.mark.parametrize(
    ("toml", "source", "words"),
    [
        ('backend = "torch"', "def build():\n    return 3\n", "gave a int, expected a torch.nn.Module"),
        ('backend = "python"', "def build():\n    return 3\n", "gave a int, expected a callable"),
        ('backend = "python"', "def make():\n    return 3\n", "factory 'build' is not a function in 'model.py'"),
        ('backend = "python"', "def build(:\n", "loading failed: SyntaxError"),
        ('backend = "python"', "import no_such_module_anywhere\n", "loading failed: ModuleNotFoundError"),
        ('backend = "python"', "raise SystemExit(1)\n", "loading failed: SystemExit"),
        ('backend = "torch"\ndevice = "cuda:7"', MLP_SOURCE, "finds no CUDA device"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path: Path, toml: str, source: str, words: str) -> None:
    if "cuda" in toml and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(LoadError, match=words):
        load_backend(load_spec(model_folder(tmp_path, toml + TENSORS, source)))


def test_weights_that_do_not_fit_say_so(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, 'backend = "torch"\nweights = "w.safetensors"' + TENSORS, MLP_SOURCE)
    save_file({"layers.0.weight": torch.zeros(1, 1)}, folder / "w.safetensors")
    with pytest.raises(LoadError, match=r"weights 'w\.safetensors' do not fit the module"):
        load_backend(load_spec(folder))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, 'backend = "torch"\nweights = "w.pt"' + TENSORS, MLP_SOURCE)
    torch.save(torch.nn.Linear(2, 2), folder / "w.pt")
    with pytest.raises(LoadError, match="UnpicklingError"):
        load_backend(load_spec(folder))


def test_the_engine_imports_neither_torch_nor_onnx_by_itself() -> None:
    code = (
        "import sys, tensorwire.server.engine.inline, tensorwire.server.engine.spec;"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'onnxruntime', 'asyncio')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": "src"}).returncode == 0


@pytest.mark.gpu
def test_torch_on_a_device_gives_what_the_cpu_gives(tmp_path: Path, mlp: torch.nn.Module) -> None:
    toml = 'backend = "torch"\ndevice = "cuda"\nweights = "w.safetensors"' + TENSORS
    folder = model_folder(tmp_path, toml, MLP_SOURCE)
    save_file(mlp.state_dict(), folder / "w.safetensors")
    harness = serve(folder)
    for _ in range(10):  # more than the runs before a shape is recorded as a CUDA graph
        requests = [harness.submit({"x": X[:1]}), harness.submit({"x": X}, adopt=True)]
        results = harness.run()
        for request, x in zip(requests, (X[:1], X), strict=True):
            np.testing.assert_allclose(outputs_of(results, request)["y"], expected(mlp, x), rtol=1e-3, atol=1e-4)
    harness.engine.stop()
    harness.assert_all_memory_returned()
