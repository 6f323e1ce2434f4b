"""Models that ONNX Runtime runs.

What lives here: opening a graph and checking that its names are those of model.toml. What must not: batching.
"""

from __future__ import annotations

import mmap
import re
from typing import TYPE_CHECKING, Any

import onnxruntime

from ....codec import CodecError, Kind, dtype_by_name
from . import Backend, LoadError

if TYPE_CHECKING:
    from pathlib import Path

    from ..spec import ModelSpec

__all__ = ["OnnxBackend", "load"]

DTYPES = {"float": "float32", "double": "float64"}
"""What ONNX Runtime calls otherwise than we do."""


def load(spec: ModelSpec) -> Backend:
    """Open a folder's ONNX graph on its device."""
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.kind is Kind.RAGGED:
            raise LoadError(f'tensor {tensor.name!r}: ONNX Runtime has no ragged tensors; use backend = "python"')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about the graph, not about us
    if spec.threads:
        options.intra_op_num_threads = spec.threads
    session = onnxruntime.InferenceSession(str(spec.file), options, providers=_providers(spec.device))
    _check_names("inputs", [t.name for t in spec.inputs], [i.name for i in session.get_inputs()])
    _check_names("outputs", [t.name for t in spec.outputs], [o.name for o in session.get_outputs()])
    return OnnxBackend(session, [tensor.name for tensor in spec.outputs], spec.file)


class OnnxBackend(Backend):
    """An inference session; only the outputs that model.toml names are computed."""

    def __init__(self, session: Any, outputs: list[str], file: Path) -> None:
        self._session: Any = session
        self._outputs = outputs
        self._file = file

    def declared(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """See Backend.declared."""
        session = self._session
        return {
            node.name: (dtype, tuple(size if isinstance(size, int) else -1 for size in node.shape))
            for node in (*session.get_inputs(), *session.get_outputs())
            if (dtype := _dtype_name(node.type))
        }

    def hint(self) -> str:
        """See Backend.hint: nodes stand in the file with their names."""
        with self._file.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as graph:
            dynamic = graph.find(b"DynamicQuantize") >= 0
        return "its graph is quantised while it runs (DynamicQuantizeLinear)" if dynamic else ""

    def run(self, inputs: dict[str, Any]) -> Any:
        """One batch; gives the outputs in the order of the spec."""
        return self._session.run(self._outputs, inputs)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _dtype_name(kind: str) -> str:
    """Our name of what ONNX Runtime calls `tensor(float)` and so on; "" if it is no tensor or no dtype of ours."""
    inner = kind.removeprefix("tensor(").removesuffix(")")
    name = DTYPES.get(inner, re.sub(r"^float8(?=e)", "float8_", inner))
    try:
        return name if name == "string" else dtype_by_name(name).name
    except (CodecError, KeyError):
        return ""


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise LoadError(
            f'device {device!r}: this ONNX Runtime has no CUDA; install onnxruntime-gpu or set device = "cpu"'
        )
    index = int(device.partition(":")[2] or 0)
    return [("CUDAExecutionProvider", {"device_id": index}), "CPUExecutionProvider"]


def _check_names(what: str, ours: list[str], theirs: list[str]) -> None:
    missing = [name for name in ours if name not in theirs]
    if what == "inputs":
        missing += [name for name in theirs if name not in ours]
    if missing:
        raise LoadError(f"{what}: model.toml has {ours}, the ONNX graph has {theirs}; use the graph's names")
