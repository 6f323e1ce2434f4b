"""What a model folder says about itself: `models/<name>/<version>/model.toml`, parsed and checked.

What lives here: the ModelSpec, its reader and its error texts. What must not: loading weights, torch, I/O beyond the
folder. The file, key by key (everything not marked "required" may be left out; unknown keys are refused):

backend       required. "python", "torch", "torchscript", "torch_export" or "onnx".
file          Path inside the folder: the Python file (default "model.py"; python and torch), the TorchScript archive
              ("model.pt"), the exported program ("model.pt2") or the ONNX graph ("model.onnx").
factory       Name of a callable in `file` (default "build"; python and torch). It is called once with the ModelSpec if
              it takes a positional parameter, else without arguments. python: returns a callable that takes a dict
              of numpy arrays by input name and returns a dict by output name, a tuple in the order of `outputs`, or
              one array. torch: returns an nn.Module called with one tensor per input, by name where it has these names,
              else in order (backends/arguments.py).
              `from .other import x` in `file` finds other files of the folder.
weights       Path inside the folder (torch) of a safetensors file, a state dict that loads with weights_only, or the
              index (.index.json) of either in shards; what it is its content tells, whatever its name.
max_batch     Rows per batch at most; also the most rows one call may carry. 0: the model has no batch axis, each call
              runs alone. Default 32, or 0 where the inputs or outputs have no common batch axis. Warm-up measures
              sizes 1, 2, 4 .. max_batch and the batcher stays at the size where rows per second stop growing.
batch_with    Whose calls may share a batch: "anyone"; "principal", the calls of one principal; "nobody", each call runs
              alone, whatever its rows. "auto" (default): measured at warm-up, see neighbours.py: "anyone", or "nobody"
              where the answer to a row depends on its neighbours.
max_wait_ms   Milliseconds that an idle device waits for a batch to fill, default 0: it never waits.
max_queue     Requests waiting at most, default 1024; beyond it calls are refused, RESOURCE_EXHAUSTED, not started.
run_limit_s   Seconds that a run may take, and no call of the model may end, before its process is killed and its calls
              fail; default: the server's run_limit. In a process only.
result_bytes  Memory for outputs that callers have not read yet, in bytes or as "1GiB", of which a call's may take all;
              default: the server's result_bytes. In a process only.
device        "cpu" (default), "cuda" or "cuda:N".
engine        "inline" (on the server's loop: models cheaper than about 100 us), "process" (own process) or "auto"
              (default: measured at warm-up).
threads       CPU threads for torch or ONNX Runtime inside one batch; 0 (default) is the library's own choice.
warmup        false skips warm-up and the measurement of batch sizes; default true.
lend_inputs   true: the model promises not to write into its inputs and not to keep them, and gets no copies of them;
              default false. What a model may do without it is in docs/models.md, "Whose memory it is".
labels        Path inside the folder of a text file, one class name a line, at most 1 MiB; given out by describe
              where they fit into its message.

[[inputs]] and [[outputs]], 1 to 256 each, in the order the model takes and gives them:
name          required. At most 256 bytes of UTF-8.
dtype         required. "float32", "int64", "bfloat16", "bool" ... the codec's names; "string" kind needs none.
shape         required. List of sizes; -1 is an axis that is free per call. When max_batch is not 0, a first axis of -1
              on every dense input and output is the batch axis.
kind          "dense" (default), "string" or "ragged". Calls with string or ragged tensors run alone.
optional      (inputs; python and onnx) true: a call may leave it out. The model then finds no such input (python), or
              uses the graph's own value (onnx: an input with an initializer). Warm-up leaves it out. Default false.
warmup_shape  (inputs) Sizes to warm up with, without the batch axis; default: free axes are 8.
[inputs.image]  (inputs) How a client makes this input from a picture; a hint given out by describe, nothing more.
  size        required. [height, width] in pixels, cut from the centre of the picture.
  resize      Pixels of the picture's shorter side before the cut, default 0: what just covers `size`.
  mean, std   Per channel, in pixel units 0..255: (pixel - mean) / std. Defaults 0 and 255.
  layout      "NCHW" (default) or "NHWC".
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError

from ...codec import CodecError, Kind, TensorSpec, dtype_by_name, encode_metadata

__all__ = ["ImageHint", "ModelSpec", "SpecError", "inside", "load_spec"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
DEFAULT_MAX_BATCH = 32
MIN_RESULT_BYTES = 1 << 20
MAX_LABEL_BYTES = 1 << 20
DEFAULT_FREE_AXIS = 8
DEFAULT_FILES = {
    "python": "model.py",
    "torch": "model.py",
    "torchscript": "model.pt",
    "torch_export": "model.pt2",
    "onnx": "model.onnx",
}
KINDS = {"dense": Kind.DENSE, "string": Kind.STRING, "ragged": Kind.RAGGED}

Backend = Literal["python", "torch", "torchscript", "torch_export", "onnx"]
Placement = Literal["inline", "process", "auto"]
BatchWith = Literal["anyone", "principal", "nobody", "auto"]
Size = Annotated[int, Field(ge=-1, le=1 << 40)]


class SpecError(Exception):
    """A model folder that cannot be served: the message names file, key and what is expected."""


@dataclass(frozen=True, slots=True)
class ImageHint:
    """How a client turns a picture into the input `input`; sizes in pixels, mean and std in pixel units."""

    input: str
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str
    resize: int = 0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version of one model, as its folder describes it. Times in seconds, paths absolute."""

    name: str
    version: str
    path: Path
    backend: Backend
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    file: Path
    factory: str = "build"
    weights: Path | None = None
    max_batch: int = 0
    batch_with: BatchWith = "auto"
    max_wait: float = 0.0
    max_queue: int = 1024
    run_limit: float | None = None
    result_bytes: int | None = None
    device: str = "cpu"
    engine: Placement = "auto"
    threads: int = 0
    warmup: bool = True
    lend_inputs: bool = False
    warmup_shapes: tuple[tuple[int, ...], ...] = ()
    labels: tuple[str, ...] = ()
    images: tuple[ImageHint, ...] = ()
    optional: tuple[TensorSpec, ...] = ()
    """Inputs that a call may leave out; `inputs` are those that it may not, and `warmup_shapes` are theirs."""

    @property
    def batched(self) -> bool:
        """Whether the first axis of every input and output is a batch axis."""
        return self.max_batch > 0


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Image(_Section):
    size: Annotated[list[Annotated[int, Field(ge=1, le=65536)]], Field(min_length=2, max_length=2)]
    mean: list[float] = [0.0]
    std: list[float] = [255.0]
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    resize: Annotated[int, Field(ge=0, le=65536)] = 0


class _Tensor(_Section):
    name: str
    dtype: str | None = None
    shape: Annotated[list[Size], Field(max_length=8)]
    kind: Literal["dense", "string", "ragged"] = "dense"


class _Input(_Tensor):
    optional: bool = False
    warmup_shape: list[Annotated[int, Field(ge=0)]] | None = None
    image: _Image | None = None


class _Model(_Section):
    backend: Backend
    file: str | None = None
    factory: str = "build"
    weights: str | None = None
    max_batch: Annotated[int, Field(ge=0, le=65536)] | None = None
    batch_with: BatchWith = "auto"
    max_wait_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    max_queue: Annotated[int, Field(ge=1, le=1 << 20)] = 1024
    run_limit_s: Annotated[float, Field(gt=0)] | None = None
    result_bytes: Annotated[ByteSize, Field(ge=MIN_RESULT_BYTES)] | None = None
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d{1,3})?)$")] = "cpu"
    engine: Placement = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    warmup: bool = True
    lend_inputs: bool = False
    labels: str | None = None
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=256)]
    outputs: Annotated[list[_Tensor], Field(min_length=1, max_length=256)]


def load_spec(folder: Path) -> ModelSpec:
    """Read `folder/model.toml`; name and version are the folder's last two parts. Raises SpecError."""
    folder = folder.resolve()
    version, name = folder.name, folder.parent.name
    for what, value in (("model name", name), ("version", version)):
        if not NAME.match(value):
            raise SpecError(
                f"{what} {value!r} (a folder's name): expected letters, digits, '.', '_' or '-', at most 128"
            )
    where = folder / "model.toml"
    model = _parse(where)
    every, outputs = _tensors(where, "inputs", model.inputs), _tensors(where, "outputs", model.outputs)
    for key, tensors in (("inputs", every), ("outputs", outputs)):
        try:
            encode_metadata(name, version, tensors)
        except CodecError as error:
            raise SpecError(f"{where}: {key}: no message can carry them: {error}") from error
    max_batch = _max_batch(where, model.max_batch, every + outputs)
    inputs, optional = _divided(where, model, every)
    return ModelSpec(
        name=name,
        version=version,
        path=folder,
        backend=model.backend,
        inputs=inputs,
        outputs=outputs,
        file=inside(where, folder, "file", model.file or DEFAULT_FILES[model.backend]),
        factory=model.factory,
        weights=None if model.weights is None else inside(where, folder, "weights", model.weights),
        max_batch=max_batch,
        batch_with=model.batch_with,
        max_wait=model.max_wait_ms / 1000,
        max_queue=model.max_queue,
        run_limit=model.run_limit_s,
        result_bytes=None if model.result_bytes is None else int(model.result_bytes),
        device=model.device,
        engine=model.engine,
        threads=model.threads,
        warmup=model.warmup,
        lend_inputs=model.lend_inputs,
        warmup_shapes=_warmup_shapes(where, model, inputs, batched=max_batch > 0),
        labels=() if model.labels is None else _labels(where, folder, model.labels),
        images=tuple(
            ImageHint(
                i.name,
                (i.image.size[0], i.image.size[1]),
                tuple(i.image.mean),
                tuple(i.image.std),
                i.image.layout,
                i.image.resize,
            )
            for i in model.inputs
            if i.image is not None
        ),
        optional=optional,
    )


def _parse(where: Path) -> _Model:
    try:
        with where.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise SpecError(f"{where}: cannot be read ({error.strerror}); a model folder needs this file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{where}: is not TOML: {error}") from error
    try:
        return _Model.model_validate(raw)
    except ValidationError as error:
        raise SpecError("\n".join(f"{where}: {_explain(item)}" for item in error.errors())) from error


def _explain(item: Any) -> str:
    location = item["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if item["type"] == "extra_forbidden":
        known = list(_section_of(location[:-1]).model_fields)
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{key}: is missing and required"
    return f"{key}: {item['msg'][0].lower()}{item['msg'][1:]}, got {str(item['input'])[:80]!r}"


def _section_of(location: tuple[str | int, ...]) -> type[_Section]:
    if "image" in location:
        return _Image
    if "inputs" in location:
        return _Input
    return _Tensor if "outputs" in location else _Model


def _tensors(where: Path, key: str, items: list[_Input] | list[_Tensor]) -> tuple[TensorSpec, ...]:
    specs: list[TensorSpec] = []
    for index, item in enumerate(items):
        name = f"{where}: {key}[{index}] ({item.name!r})"
        if any(item.name == other.name for other in specs):
            raise SpecError(f"{name}: name is used twice; each tensor needs its own")
        kind = KINDS[item.kind]
        if item.dtype is None and kind is not Kind.STRING:
            raise SpecError(f'{name}: dtype is missing and required, for example "float32"')
        try:
            dtype = dtype_by_name(item.dtype or "uint8")
        except (CodecError, KeyError) as error:
            raise SpecError(f"{name}: dtype {item.dtype!r}: {error}") from error
        if dtype.numpy is None:
            raise SpecError(
                f"{name}: dtype {item.dtype!r} needs a package that is not installed: pip install ml-dtypes"
            )
        specs.append(TensorSpec(item.name, dtype, tuple(item.shape), kind))
    return tuple(specs)


def _batchable(tensors: tuple[TensorSpec, ...]) -> bool:
    return all(tensor.kind is Kind.DENSE and tensor.shape[:1] == (-1,) for tensor in tensors)


def _max_batch(where: Path, asked: int | None, tensors: tuple[TensorSpec, ...]) -> int:
    if _batchable(tensors):
        return DEFAULT_MAX_BATCH if asked is None else asked
    if asked:
        raise SpecError(
            f"{where}: max_batch: is {asked}, but batching needs every input and output dense with a first axis of -1; "
            f"give each that axis or set max_batch = 0"
        )
    return 0


def inside(where: Path, folder: Path, key: str, value: str) -> Path:
    """Return the file of that name in the folder; a link stays one, since what belongs to a file lies beside its name.
    Raises SpecError.
    """
    path = folder / value
    if not path.resolve().is_relative_to(folder):
        raise SpecError(f"{where}: {key}: {value!r} leaves the model's folder; put the file into it")
    if not path.is_file():
        raise SpecError(f"{where}: {key}: there is no file {value!r} in the model's folder")
    return path


def _labels(where: Path, folder: Path, value: str) -> tuple[str, ...]:
    path = inside(where, folder, "labels", value)
    if path.stat().st_size > MAX_LABEL_BYTES:
        raise SpecError(f"{where}: labels: {value!r} is larger than {MAX_LABEL_BYTES} bytes")
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise SpecError(f"{where}: labels: {value!r} is not UTF-8 text") from error


def _divided(
    where: Path, model: _Model, tensors: tuple[TensorSpec, ...]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs that a call has to send, and those that it may send."""
    for item in model.inputs:
        if item.optional and model.backend not in {"python", "onnx"}:
            raise SpecError(f"{where}: inputs ({item.name!r}): optional is for backends python and onnx")
        if item.optional and item.warmup_shape is not None:
            raise SpecError(f"{where}: inputs ({item.name!r}): warm-up leaves optional inputs out; drop warmup_shape")
    pairs = list(zip(tensors, model.inputs, strict=True))
    required = tuple(tensor for tensor, item in pairs if not item.optional)
    if not required:
        raise SpecError(f"{where}: inputs: all are optional; at least one must not be")
    return required, tuple(tensor for tensor, item in pairs if item.optional)


def _warmup_shapes(
    where: Path, model: _Model, inputs: tuple[TensorSpec, ...], batched: bool
) -> tuple[tuple[int, ...], ...]:
    shapes: list[tuple[int, ...]] = []
    for item, tensor in zip([item for item in model.inputs if not item.optional], inputs, strict=True):
        free = tensor.shape[1:] if batched else tensor.shape
        if item.warmup_shape is None:
            shapes.append(tuple(DEFAULT_FREE_AXIS if size == -1 else size for size in free))
            continue
        asked = tuple(item.warmup_shape)
        if len(asked) != len(free) or any(have not in (-1, want) for want, have in zip(asked, free, strict=True)):
            raise SpecError(f"{where}: inputs ({item.name!r}): warmup_shape {list(asked)} does not fit {list(free)}")
        shapes.append(asked)
    return tuple(shapes)
