"""CUDA graphs for torch models: one recording per batch shape, replayed instead of launching every kernel again.

What lives here: `GraphedModel`. What must not: staging (the inputs are device tensors already) and batching.
A small model at small batches spends most of its time launching kernels; a replay is one launch. The price is fixed
addresses: a recording reads the tensors it was recorded with and always writes the same outputs. Hence the rules:
inputs are copied into the recording's own unless they are those already (`CudaStager(static=True)` makes them so), and
outputs must be copied out before the next call. Models that cannot be recorded (they look at values, or synchronise)
run eagerly, shape by shape, for ever after the first failure; so do those whose replay gives other results than a run
(they draw random numbers or count calls).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Runs of a shape before it is recorded: libraries choose algorithms and allocate workspaces in the first ones.
WARM_UP = 3
#: Recordings kept. Each holds its activations in device memory; shapes beyond this number run eagerly.
MAX_GRAPHS = 16

Model = Callable[[Mapping[str, Any]], Any]
#: Records `model` over `inputs`; gives a replay function and the outputs it writes. Raises RuntimeError if it cannot.
Record = Callable[[Model, Mapping[str, Any]], tuple[Callable[[], None], Any]]
Key = tuple[tuple[str, tuple[int, ...], str], ...]


class GraphedModel:
    """`model` with one recording per set of input shapes. Call it on one thread, on one stream.

    `record` is how a recording is made (torch's CUDA graphs by default); `eager` maps a shape that cannot be recorded
    to the reason, for the log.
    """

    def __init__(self, model: Model, record: Record | None = None) -> None:
        self._model = model
        self._record = _record_with_torch if record is None else record
        self._runs: dict[Key, int] = {}
        self._recordings: dict[Key, tuple[Mapping[str, Any], Callable[[], None], Any]] = {}
        self.eager: dict[Key, str] = {}

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """Run the model. What it returns may be overwritten by the next call: copy it out first."""
        key: Key = tuple((name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in inputs.items())
        recording = self._recordings.get(key)
        if recording is None and not self._record_now(key, inputs):
            return self._model(inputs)
        static, replay, outputs = self._recordings[key]
        for name, tensor in inputs.items():
            if static[name].data_ptr() != tensor.data_ptr():
                static[name].copy_(tensor, non_blocking=True)
        replay()
        return outputs

    @property
    def recorded(self) -> int:
        """Number of shapes that run from a recording."""
        return len(self._recordings)

    def _record_now(self, key: Key, inputs: Mapping[str, Any]) -> bool:
        if key in self.eager or len(self._recordings) >= MAX_GRAPHS or len(self._runs) > 64 * MAX_GRAPHS:
            return False
        runs = self._runs[key] = self._runs.get(key, 0) + 1
        if runs <= WARM_UP:
            return False
        try:
            replay, outputs = self._record(self._model, inputs)
        except RuntimeError as error:
            self.eager[key] = str(error).partition("\n")[0]
            return False
        self._recordings[key] = (dict(inputs), replay, outputs)
        return True


def _record_with_torch(model: Model, inputs: Mapping[str, Any]) -> tuple[Callable[[], None], Any]:
    """Record on a stream of its own, as torch requires; work queued before is waited for on both sides."""
    import torch

    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = model(inputs)
    except RuntimeError:
        torch.cuda.synchronize()
        raise
    expected = model(inputs)
    graph.replay()
    try:
        torch.testing.assert_close(outputs, expected, equal_nan=True)
    except AssertionError as error:
        raise RuntimeError("a replay does not give what a run gives") from error
    return graph.replay, outputs
