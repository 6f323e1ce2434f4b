"""Models that ONNX Runtime runs.

What lives here: opening a graph, checking that its names are those of model.toml, values that numpy has no form for.
What must not: batching.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from ....codec import CodecError, Kind, dtype_by_name
from . import Backend, LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ....codec import TensorSpec
    from ..spec import ModelSpec

__all__ = ["OnnxBackend", "load"]

DTYPES = {"float": "float32", "double": "float64"}
"""What ONNX Runtime calls otherwise than we do."""
NARROW = {
    "bfloat16": (16, np.uint16),
    "float8_e4m3fn": (17, np.uint8),
    "float8_e4m3fnuz": (18, np.uint8),
    "float8_e5m2": (19, np.uint8),
    "float8_e5m2fnuz": (20, np.uint8),
}
"""Types that ONNX Runtime takes and gives in its own values alone: ONNX's number, and what it reads their arrays as."""
MAPS = re.compile(r"seq\(map\((?:int64|string),tensor\((\w+)\)\)\)")
"""The type of what ZipMap makes: for each row a map from classes to scores."""
MAX_LABEL_BYTES = 64 << 10
"""Bytes of classes beyond which no description could hold them."""

Array = np.ndarray[Any, Any]


def load(spec: ModelSpec) -> Backend:
    """Open a folder's ONNX graph on its device."""
    for tensor in (*spec.inputs, *spec.optional, *spec.outputs):
        if tensor.kind is Kind.RAGGED:
            raise LoadError(f'tensor {tensor.name!r}: ONNX Runtime has no ragged tensors; use backend = "python"')
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings are about the graph, not about us
    if spec.threads:
        options.intra_op_num_threads = spec.threads
    session = onnxruntime.InferenceSession(str(spec.file), options, providers=_providers(spec.device))
    required, presettable = session.get_inputs(), session.get_overridable_initializers()
    _check_names("inputs", spec.inputs, [*required, *presettable], required)
    _check_names("optional inputs", spec.optional, presettable)
    _check_names("outputs", spec.outputs, session.get_outputs())
    return OnnxBackend(session, spec)


class OnnxBackend(Backend):
    """An inference session; only the outputs that model.toml names are computed."""

    def __init__(self, session: Any, spec: ModelSpec) -> None:
        self._session: Any = session
        self._outputs = [tensor.name for tensor in spec.outputs]
        self._file = spec.file
        types = {node.name: node.type for node in _nodes(session)}
        named = {name: _dtype_name(kind) for name, kind in types.items()}
        self._narrow = {
            tensor.name: NARROW[name]
            for tensor in (*spec.inputs, *spec.optional)
            if (name := named[tensor.name]) in NARROW
        }
        self._in_values = bool(self._narrow) or any(named[name] in NARROW for name in self._outputs)
        self._maps = {at: found[1] for at, name in enumerate(self._outputs) if (found := MAPS.fullmatch(types[name]))}
        self._classes: dict[int, list[Any]] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """See Backend.labels: the classes of a ZipMap, in the order of its columns."""
        found = {tuple(map(str, classes)) for classes in self._classes.values()}
        labels = found.pop() if len(found) == 1 else ()
        return labels if sum(map(len, labels)) <= MAX_LABEL_BYTES else ()

    def declared(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """See Backend.declared."""
        declared = {}
        for node in _nodes(self._session):
            maps = MAPS.fullmatch(node.type)
            dtype = _dtype_name(maps[1] if maps else node.type)
            if dtype:
                shape = [-1, -1] if maps else node.shape
                declared[node.name] = dtype, tuple(size if isinstance(size, int) else -1 for size in shape)
        return declared

    def hint(self) -> str:
        """See Backend.hint: nodes stand in the file with their names."""
        with self._file.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as graph:
            dynamic = graph.find(b"DynamicQuantize") >= 0
        return "its graph is quantised while it runs (DynamicQuantizeLinear)" if dynamic else ""

    def run(self, inputs: dict[str, Any]) -> Any:
        """One batch; gives the outputs in the order of the spec."""
        outputs: list[Any] = self._run_values(inputs) if self._in_values else self._session.run(self._outputs, inputs)
        for index, dtype in self._maps.items():
            rows = outputs[index]
            self._classes[index] = [*rows[0]]
            outputs[index] = np.array([[*row.values()] for row in rows], DTYPES.get(dtype, dtype))
        return outputs

    def _run_values(self, inputs: dict[str, Any]) -> list[Any]:
        value = onnxruntime.OrtValue
        given = {}
        for name, array in inputs.items():
            if name in self._narrow:
                number, carrier = self._narrow[name]
                given[name] = value.ortvalue_from_numpy_with_onnx_type(array.view(carrier), number)
            else:
                given[name] = value.ortvalue_from_numpy(array)
        return [_array(output) for output in self._session.run_with_ort_values(self._outputs, given)]

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _array(value: Any) -> Any:
    """Return ONNX Runtime's value as an array; a copy, for those that it does not give itself."""
    dtype = dtype_by_name(name) if (name := _dtype_name(value.data_type())) in NARROW else None
    if dtype is None or dtype.numpy is None:
        return value.numpy()
    shape = tuple(value.shape())
    memory = (ctypes.c_uint8 * (prod(shape) * dtype.itemsize)).from_address(value.data_ptr())
    return np.array(memory, np.uint8).view(dtype.numpy).reshape(shape)


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


def _nodes(session: Any) -> list[Any]:
    return [*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs()]


def _check_names(what: str, ours: Sequence[TensorSpec], theirs: Sequence[Any], required: Sequence[Any] = ()) -> None:
    """Raise LoadError unless these are names of the graph, and all that it requires are among them."""
    names, known = [tensor.name for tensor in ours], [node.name for node in theirs]
    if not set(names) <= set(known) or any(node.name not in names for node in required):
        raise LoadError(f"{what}: model.toml has {names}, the ONNX graph has {known}; use the graph's names")
