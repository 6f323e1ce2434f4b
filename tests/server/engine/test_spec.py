"""model.toml: what is taken, and how each mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tensorwire.codec import Kind
from tensorwire.server.engine.spec import ModelSpec, SpecError, load_spec
from tests.server.engine.helpers import ECHO, ECHO_TOML, model_folder

TENSORS = """
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 4]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 2]
"""


def spec_of(root: Path, toml: str) -> ModelSpec:
    return load_spec(model_folder(root, toml, ECHO))


def refusal(root: Path, toml: str) -> str:
    with pytest.raises(SpecError) as caught:
        spec_of(root, toml)
    return str(caught.value)


def test_defaults(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, 'backend = "python"\n' + TENSORS)
    assert (spec.name, spec.version, spec.file.name, spec.factory) == ("m", "1", "model.py", "build")
    assert (spec.max_batch, spec.max_wait, spec.max_queue, spec.device, spec.engine) == (32, 0.0, 1024, "cpu", "auto")
    assert (spec.run_limit, spec.result_bytes) == (None, None)
    assert spec.batched
    assert spec.inputs[0].shape == (-1, 4)
    assert spec.warmup_shapes == ((4,),)


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    folder = model_folder(
        tmp_path,
        """
        backend = "torch"
        file = "net.py"
        factory = "make"
        weights = "w.safetensors"
        max_batch = 8
        max_wait_ms = 2.5
        max_queue = 7
        run_limit_s = 300
        result_bytes = "1GiB"
        device = "cuda:1"
        engine = "process"
        threads = 2
        warmup = false
        labels = "labels.txt"
        [[inputs]]
        name = "image"
        dtype = "float32"
        shape = [-1, 3, -1, -1]
        warmup_shape = [3, 32, 32]
        [inputs.image]
        size = [224, 224]
        mean = [127.0]
        std = [128.0]
        [[outputs]]
        name = "logits"
        dtype = "bfloat16"
        shape = [-1, 10]
        """,
    )
    for name in ("net.py", "w.safetensors"):
        (folder / name).touch()
    (folder / "labels.txt").write_text("tench\ngoldfish\n")
    spec = load_spec(folder)
    assert spec.max_wait == 0.0025
    assert (spec.run_limit, spec.result_bytes) == (300.0, 1 << 30)
    assert spec.labels == ("tench", "goldfish")
    assert spec.warmup_shapes == ((3, 32, 32),)
    image = spec.images[0]
    assert (image.input, image.size, image.mean, image.std, image.layout) == (
        "image",
        (224, 224),
        (127.0,),
        (128.0,),
        "NCHW",
    )


def many_outputs(count: int) -> str:
    """So many outputs with names of about 250 bytes each: more metadata than a message has room for."""
    entry = '\n[[outputs]]\nname = "{}"\ndtype = "float32"\nshape = [-1, 2]\n'
    return "".join(entry.format(f"{index}".rjust(250, "n")) for index in range(count))


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('backend = "python"\nmax_bach = 3\n' + TENSORS, ["max_bach", "did you mean 'max_batch'"]),
        ('backend = "python"\nzzz = 3\n' + TENSORS, ["zzz", "known keys", "max_batch"]),
        ('backend = "python"\n' + TENSORS.replace("shape = [-1, 4]", "shap = [-1, 4]"), ["inputs[0].shap", "'shape'"]),
        ('backend = "pickle"\n' + TENSORS, ["backend", "'torchscript'", "got 'pickle'"]),
        (TENSORS, ["backend", "missing"]),
        ('backend = "python"', ["inputs", "outputs", "missing"]),
        ('backend = "python"\nmax_batch = -1\n' + TENSORS, ["max_batch", "greater than or equal to 0"]),
        ('backend = "python"\nmax_batch = "8"\n' + TENSORS, ["max_batch", "valid integer"]),
        ('backend = "python"\ndevice = "gpu"\n' + TENSORS, ["device", "got 'gpu'"]),
        ('backend = "python"\n' + TENSORS.replace("float32", "flaot32", 1), ["inputs[0] ('x')", "flaot32", "float32"]),
        (
            'backend = "python"\n' + TENSORS.replace('dtype = "float32"\n', "", 1),
            ["inputs[0] ('x')", "dtype", "required"],
        ),
        ('backend = "python"\nmax_batch = 4\n' + TENSORS.replace("[-1, 2]", "[2]"), ["max_batch", "first axis of -1"]),
        ('backend = "python"\nfile = "../../m.py"\n' + TENSORS, ["file", "leaves the model's folder"]),
        ('backend = "python"\nfile = "/etc/passwd"\n' + TENSORS, ["file", "leaves the model's folder"]),
        ('backend = "python"\nfile = "none.py"\n' + TENSORS, ["file", "no file 'none.py'"]),
        ('backend = "python"\n' + TENSORS + TENSORS.partition("[[outputs]]")[0], ["inputs[1] ('x')", "used twice"]),
        ('backend = "python"\n' + TENSORS.replace('"x"', f'"{"名" * 86}"'), ["inputs", "has 258 bytes"]),
        ('backend = "python"\n' + TENSORS.replace('"y"', f'"{"y" * 257}"'), ["outputs", "has 257 bytes"]),
        ('backend = "python"\n' + TENSORS + many_outputs(250), ["outputs", "bytes for 251 tensors, at most 65536"]),
        ("backend = ", ["is not TOML"]),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, toml: str, words: list[str]) -> None:
    message = refusal(tmp_path, toml)
    for word in ["model.toml", *words]:
        assert word in message


def test_a_name_is_as_long_as_the_wire_carries(tmp_path: Path) -> None:
    name = "名" * 85 + "x"
    (output,) = spec_of(tmp_path, 'backend = "python"\n' + TENSORS.replace('"y"', f'"{name}"')).outputs
    assert output.name == name
    assert len(name.encode()) == 256


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, 'backend = "python"\nfile = "link.py"\n' + TENSORS)
    (tmp_path / "outside.py").write_text(ECHO)
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(SpecError, match="leaves the model's folder"):
        load_spec(folder)


def test_no_common_batch_axis_means_no_batching(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, 'backend = "python"\n' + TENSORS.replace("[-1, 2]", "[2]"))
    assert spec.max_batch == 0
    assert not spec.batched
    assert spec.warmup_shapes == ((8, 4),)


def test_strings_need_no_dtype(tmp_path: Path) -> None:
    toml = 'backend = "python"\n' + TENSORS.replace('dtype = "float32"', 'kind = "string"', 1)
    spec = spec_of(tmp_path, toml)
    assert spec.inputs[0].kind is Kind.STRING
    assert not spec.batched


def test_optional_inputs_stand_apart(tmp_path: Path) -> None:
    toml = 'backend = "python"\n[[inputs]]\nname = "k"\ndtype = "float32"\nshape = []\noptional = true\n' + TENSORS
    spec = load_spec(model_folder(tmp_path, toml, ECHO))
    assert [tensor.name for tensor in spec.inputs] == ["x"]
    assert [tensor.name for tensor in spec.optional] == ["k"]
    assert (spec.max_batch, spec.warmup_shapes) == (0, ((8, 4),))
    assert "at least one must not be" in refusal(tmp_path, toml.replace("[-1, 4]", "[-1, 4]\noptional = true"))
    assert "optional is for backends python and onnx" in refusal(tmp_path, toml.replace('"python"', '"torch"'))
    assert "drop warmup_shape" in refusal(tmp_path, toml.replace("shape = []", "shape = []\nwarmup_shape = []"))


def test_a_warm_up_shape_must_fit(tmp_path: Path) -> None:
    message = refusal(tmp_path, 'backend = "python"\n' + TENSORS.replace("[-1, 4]", "[-1, 4]\nwarmup_shape = [5]"))
    assert "warmup_shape [5] does not fit [4]" in message


def test_a_folder_without_the_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    with pytest.raises(SpecError, match=r"model\.toml: cannot be read"):
        load_spec(tmp_path / "m" / "1")


def test_odd_folder_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="model name"):
        load_spec(model_folder(tmp_path, ECHO_TOML, ECHO, name="..m"))
