"""The form of model.toml: its keys, the type of each, and the words for what is none of them.

What lives here: the schema, and reading the file. What must not: what the values mean together, and the other files of
the folder (spec.py). The file, key by key (everything not marked "required" may be left out; unknown keys are refused):

backend       required. "python", "torch", "torchscript", "torch_export" or "onnx".
file          Path inside the folder: the Python file (default "model.py"; python and torch), the TorchScript archive
              ("model.pt"), the exported program ("model.pt2") or the ONNX graph ("model.onnx").
factory       Name of a callable in `file` (default "build"; python and torch). It is called with the ModelSpec if it
              takes a positional parameter, else without arguments, once wherever the model is loaded: under
              engine = "auto" in a process, and once more on the loop if the model is to run there. python: returns a
              callable that takes a dict of numpy arrays by input name and returns a dict by output name, a tuple in the
              order of `outputs`, or one array. torch: returns an nn.Module called with one tensor per input, by name
              where it has these names, else in order (backends/arguments.py).
              `from .other import x` in `file` finds other files of the folder.
weights       Path inside the folder (torch) of a safetensors file, a state dict that loads with weights_only, or the
              index (.index.json) of either in shards; what it is its content tells, whatever its name.
weights_key   Where a checkpoint holds the state dict beside other things: the key that it has there (torch).
strict        false: entries of `weights` that the module does not have are left out; default true, they are refused.
              What is missing in them is refused in any case (torch).
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
warmup_value  (inputs) What every element is at warm-up: a number, true or a text; default 0, false or "".
[inputs.image]  (inputs) How a client makes this input from a picture; a hint given out by describe, nothing more.
  size        required. [height, width] in pixels, cut from the centre of the picture.
  resize      Pixels of the picture's shorter side before the cut, default 0: what just covers `size`.
  mean, std   Per channel, in pixel units 0..255: (pixel - mean) / std. Defaults 0 and 255.
  layout      "NCHW" (default) or "NHWC".
"""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, FiniteFloat, ValidationError

from ...codec.limits import MAX_IMAGE_PIXELS

__all__ = ["Backend", "BatchWith", "Image", "Input", "Model", "Placement", "SpecError", "Tensor", "read_model_toml"]

MIN_RESULT_BYTES = 1 << 20
GOT_LENGTH = 80
"""Characters of a wrong value that are shown."""

Backend = Literal["python", "torch", "torchscript", "torch_export", "onnx"]
Placement = Literal["inline", "process", "auto"]
BatchWith = Literal["anyone", "principal", "nobody", "auto"]
Size = Annotated[int, Field(ge=-1, le=1 << 40)]
Pixels = Annotated[int, Field(ge=1, le=MAX_IMAGE_PIXELS)]

WORDS: Final = {
    "bool_type": "expected true or false",
    "byte_size": 'expected bytes, or a text such as "1GiB"',
    "byte_size_unit": 'expected bytes, or a text such as "1GiB"',
    "finite_number": "expected a finite number",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt:.15g}",
    "greater_than_equal": "expected {ge:.15g} or more",
    "int_from_float": "expected a whole number",
    "int_type": "expected a whole number",
    "less_than_equal": "expected {le:.15g} or less",
    "list_type": "expected a list",
    "literal_error": "expected {expected}",
    "model_type": "expected a table",
    "string_pattern_mismatch": 'expected "cpu", "cuda" or "cuda:N"',  # device's is the only pattern
    "string_type": "expected a text in quotes",
}
"""What pydantic says otherwise: in terms of Python, and of its own."""


class SpecError(Exception):
    """A model folder that cannot be served: a line for each mistake, with file, key and what is expected."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Image(_Section):
    """[inputs.image]"""

    size: Annotated[list[Pixels], Field(min_length=2, max_length=2)]
    mean: Annotated[list[FiniteFloat], Field(min_length=1)] = [0.0]
    std: Annotated[list[FiniteFloat], Field(min_length=1)] = [255.0]
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    resize: Annotated[int, Field(ge=0, le=65536)] = 0


class Tensor(_Section):
    """[[outputs]], and what inputs have of it."""

    name: str
    dtype: str | None = None
    shape: Annotated[list[Size], Field(max_length=8)]
    kind: Literal["dense", "string", "ragged"] = "dense"


class Input(Tensor):
    """[[inputs]]"""

    optional: bool = False
    warmup_shape: list[Annotated[int, Field(ge=0)]] | None = None
    warmup_value: Any = None
    image: Image | None = None


class Model(_Section):
    """The file. Which keys were given is in `model_fields_set`."""

    backend: Backend
    file: str | None = None
    factory: str = "build"
    weights: str | None = None
    weights_key: str | None = None
    strict: bool = True
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
    inputs: Annotated[list[Input], Field(min_length=1, max_length=256)]
    outputs: Annotated[list[Tensor], Field(min_length=1, max_length=256)]


def read_model_toml(where: Path) -> Model:
    """Read the file. Raises SpecError, whose lines name the keys but not the file."""
    try:
        raw = tomllib.loads(where.read_bytes().decode("utf-8-sig"))  # some editors put a byte order mark before it
    except OSError as error:
        raise SpecError(f"cannot be read ({error.strerror}); a model folder needs this file") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"is not UTF-8 text: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"is not TOML: {error}") from error
    try:
        return Model.model_validate(raw)
    except ValidationError as error:
        raise SpecError("\n".join(_explain(item) for item in error.errors())) from error


def _explain(item: Any) -> str:
    location, kind, context = item["loc"], item["type"], item.get("ctx", {})
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if kind == "extra_forbidden":
        known = list(_section_of(location[:-1]).model_fields)
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if kind == "missing":
        return f"{key}: is missing and required"
    if kind in {"too_long", "too_short"}:
        limit = context.get("max_length", context.get("min_length"))
        bound = "at most" if kind == "too_long" else "at least"
        return f"{key}: has {len(item['input'])} entries, expected {bound} {limit}"
    words = WORDS[kind].format(**context) if kind in WORDS else item["msg"]
    return f"{key}: {words}, got {json.dumps(item['input'], default=str)[:GOT_LENGTH]}"


def _section_of(location: tuple[str | int, ...]) -> type[_Section]:
    if "image" in location:
        return Image
    if "inputs" in location:
        return Input
    return Tensor if "outputs" in location else Model
