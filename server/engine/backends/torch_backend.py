"""Models that torch runs: a module from a Python factory, a TorchScript archive, an exported program.

What lives here: loading, and the bridge between numpy arrays and tensors, without a copy on a CPU. What must not:
pickle, weights in files of their own (weights.py), batching, staging (gpu/).
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ....codec import Kind, dtype_by_name
from ..outputs import COPY_BELOW
from . import Backend, LoadError
from .archives import backend_of, saved_by
from .arguments import call_of, program_values
from .source import make
from .torch_memory import is_ours
from .weights import load_weights

if TYPE_CHECKING:
    from ..spec import ModelSpec

__all__ = ["TorchBackend", "load"]

Array = np.ndarray[Any, Any]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
HEAP_KEPT = 256 << 20
"""Bytes of freed memory at the end of the heap that stay with the process."""
DYNAMIC = ("quantized.dynamic", "linear_dynamic", "choose_qparams")
"""In the names of modules and operators that take the scale of a batch from its values."""
CARRIERS = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}
"""What arrays of ml_dtypes kinds pass through, by item size: torch does not know ml_dtypes."""


def load(spec: ModelSpec) -> Backend:
    """Load a folder's torch model onto its device, in inference mode."""
    for tensor in (*spec.inputs, *spec.outputs):
        if tensor.kind is not Kind.DENSE:
            raise LoadError(f'tensor {tensor.name!r}: torch backends take dense tensors; use backend = "python"')
    if spec.threads:
        torch.set_num_threads(spec.threads)
    device = torch.device(spec.device)
    if device.type == "cpu":
        _keep_freed_memory()
    if device.type == "cuda" and not torch.cuda.is_available():
        raise LoadError(f'device {spec.device!r}: torch finds no CUDA device; set device = "cpu"')
    try:
        module = LOADERS[spec.backend](spec, device)
    except RuntimeError as error:
        if backend_of(spec.file) in {"", spec.backend}:
            raise
        raise LoadError(f"file {spec.file.name!r} is {saved_by(spec.file)}") from error
    return TorchBackend(spec, module)


def _keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors, up to HEAP_KEPT, for the next batch.

    By default a freed tensor of more than 128 KiB or so goes back to the kernel, and the next batch pays for every page
    of it again: a quarter of the time of a small convolutional network, more at larger batches. Applies to the whole
    process; other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, HEAP_KEPT)


class TorchBackend(Backend):
    """A callable of tensors. On a CPU it takes and gives numpy arrays, on CUDA device tensors (see `stager`)."""

    gives_own = True

    def __init__(self, spec: ModelSpec, module: Any) -> None:
        self._module: Any = module
        self._names = [tensor.name for tensor in spec.inputs]
        self._eager: Any = call_of(module, self._names)
        self._carried = {t.name: getattr(torch, t.dtype.name) for t in spec.inputs if t.dtype.numpy != t.dtype.storage}
        self._device = torch.device(spec.device)
        self._call: Any = self._eager
        if self._device.type == "cuda":
            from ....gpu.graphs import GraphedModel
            from ....gpu.staging import CudaStager

            self._call = GraphedModel(self._eager)
            self.stager = CudaStager(spec.device)

    def run(self, inputs: dict[str, Any]) -> Any:
        """One batch, in inference mode."""
        with torch.inference_mode():
            if self.stager is not None:
                return self._call(inputs)
            tensors = {name: self._tensor(name, array) for name, array in inputs.items()}
            return _arrays([self._eager(tensors)], 0, [*inputs.values()])

    def declared(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """See Backend.declared: an exported program knows its inputs; TorchScript and modules know nothing."""
        return {
            name: (str(value.dtype).removeprefix("torch."), tuple(n if isinstance(n, int) else -1 for n in value.shape))
            for name, value in program_values(self._module, self._names).items()
        }

    def hint(self) -> str:
        """See Backend.hint: modules and operators of dynamic quantisation, by their names."""
        module = self._module
        names = [type(part).__module__ for part in module.modules()]
        if isinstance(module, torch.jit.ScriptModule):
            names = [str(module.inlined_graph)]
        elif isinstance(module, torch.fx.GraphModule):
            names.append(module.code)
        found = next((mark for mark in DYNAMIC for name in names if mark in name), "")
        return f"it is quantised while it runs ({found})" if found else ""

    def wait(self) -> None:
        """Wait for the device."""
        if self.stager is not None:
            torch.cuda.current_stream(self._device).synchronize()

    def to_host(self, value: Any) -> Any:
        """Return a device tensor as an array, copied and complete."""
        return _array(value.resolve_conj().resolve_neg().cpu()) if isinstance(value, torch.Tensor) else value

    def close(self) -> None:
        """Drop the module and what its stager kept."""
        if self.stager is not None:
            self.stager.close()
        self._module = self._call = self._eager = None

    def _tensor(self, name: str, array: Array) -> torch.Tensor:
        carried = self._carried.get(name)
        if carried is None:
            return torch.from_numpy(array)
        return torch.from_numpy(array.view(CARRIERS[array.dtype.itemsize])).view(carried)


def _arrays(taken: list[Any], index: int, inputs: list[Array]) -> Any:
    """Tensors in whatever the module gave, taken out of `taken`, as numpy arrays: over the same memory if that is
    provably ours, or that of `inputs`, else copied. So are arrays that stand there instead.
    """
    raw = taken[index]
    if isinstance(raw, torch.Tensor):
        del raw
        _own(taken, index, inputs)
        return _array(taken[index])
    if isinstance(raw, Mapping):
        names, values = list(raw), list(raw.values())
        taken[index] = raw = None
        return {name: _arrays(values, at, inputs) for at, name in enumerate(names)}
    if isinstance(raw, tuple | list):
        values, make = list(raw), getattr(raw, "_make", list)  # of a NamedTuple, whose fields are names of outputs
        taken[index] = raw = None
        return make([_arrays(values, at, inputs) for at in range(len(values))])
    return raw.copy() if isinstance(raw, np.ndarray) else raw


def _own(taken: list[Any], index: int, inputs: list[Array]) -> None:
    """Put a copy in the place of a tensor whose memory may be somebody else's; small ones are copied later anyway."""
    if taken[index].is_conj() or taken[index].is_neg():  # lazy: what is in memory is not yet what the tensor says
        taken[index] = taken[index].resolve_conj().resolve_neg()
    if taken[index].nbytes > COPY_BELOW and not is_ours(taken, index) and not _lies_in(taken[index], inputs):
        taken[index] = taken[index].detach().clone(memory_format=torch.contiguous_format)


def _lies_in(tensor: torch.Tensor, inputs: list[Array]) -> bool:
    """By the arrays: the tensors over them are the module's, who can make them lie elsewhere (`x.data = ...`)."""
    start = tensor.data_ptr()
    return any(0 <= start - whole.ctypes.data <= whole.nbytes - tensor.nbytes for whole in inputs)


def _array(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach()
    try:
        array: Array = tensor.numpy()
    except TypeError:  # a dtype numpy does not have: through an integer of the same width, to ml_dtypes' kind
        dtype = dtype_by_name(str(tensor.dtype).removeprefix("torch."))
        if dtype.numpy is None:
            raise
        carrier = torch.uint8 if dtype.itemsize == 1 else torch.uint16
        array = tensor.contiguous().view(carrier).numpy().view(dtype.numpy)
    return array


def _load_module(spec: ModelSpec, device: torch.device) -> Any:
    module = make(spec)
    if not isinstance(module, torch.nn.Module):
        raise LoadError(f"factory {spec.factory!r} gave a {type(module).__name__}, expected a torch.nn.Module")
    if spec.weights is not None:
        load_weights(
            module,
            spec.weights,
            spec.path,
            key=spec.weights_key,
            strict=spec.strict,
            link_roots=spec.link_roots,
        )
    _set_inference(module)
    return module.to(device)


def _set_inference(module: torch.nn.Module) -> None:
    try:
        module.eval()
    except NotImplementedError:  # it is an exported program, or has one as a part: the mode of that is in its graph
        for part in module.modules():
            part.training = False
    for parameter in module.parameters():
        parameter.requires_grad = False


def _load_script(spec: ModelSpec, device: torch.device) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(spec.file, map_location=device).eval()  # type: ignore[no-untyped-call]


def _load_export(spec: ModelSpec, device: torch.device) -> Any:
    return torch.export.load(spec.file).module().to(device)


LOADERS = {"torch": _load_module, "torchscript": _load_script, "torch_export": _load_export}
