"""model.toml: what is taken, and how each mistake is named."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tensorwire.codec import Kind
from tensorwire.server.engine.spec import ModelSpec, SpecError, as_named, load_spec
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
        ('backend = "pickle"\n' + TENSORS, ["backend", "'torchscript'", 'got "pickle"']),
        (TENSORS, ["backend", "missing"]),
        ('backend = "python"', ["inputs", "outputs", "missing"]),
        ('backend = "python"\nmax_batch = -1\n' + TENSORS, ["max_batch", "expected 0 or more, got -1"]),
        ('backend = "python"\nmax_batch = "8"\n' + TENSORS, ["max_batch", 'expected a whole number, got "8"']),
        ('backend = "python"\ndevice = "gpu"\n' + TENSORS, ["device", 'expected "cpu", "cuda" or "cuda:N", got "gpu"']),
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
        ('backend = "python"\nwarmup = 1\n' + TENSORS, ["warmup: expected true or false, got 1"]),
        ('backend = "python"\nfactory = 1.5\n' + TENSORS, ["factory: expected a text in quotes, got 1.5"]),
        ('backend = "python"\nmax_wait_ms = []\n' + TENSORS, ["max_wait_ms: expected a number, got []"]),
        ('backend = "python"\nmax_wait_ms = 60001\n' + TENSORS, ["max_wait_ms: expected 60000 or less, got 60001"]),
        ('backend = "python"\nrun_limit_s = 0\n' + TENSORS, ["run_limit_s: expected more than 0"]),
        ('backend = "python"\nresult_bytes = "much"\n' + TENSORS, ["result_bytes: expected bytes, or a text such as"]),
        ('backend = "python"\ninputs = 3\noutputs = [4]', ["inputs: expected a list, got 3", "outputs[0]: expected a"]),
        ('backend = "python"\ninputs = []\noutputs = []', ["inputs: has 0 entries, expected at least 1", "outputs"]),
        (
            'backend = "python"\n' + TENSORS.replace("[-1, 4]", f"{[1] * 200}"),
            ["inputs[0].shape: has 200 entries, expected at most 8"],
        ),
        (
            'backend = "python"\n' + TENSORS.partition("[[outputs]]")[0] + many_outputs(300),
            ["outputs: has 300 entries, expected at most 256"],
        ),
        ('backend = "python"\n' + TENSORS + many_outputs(250), ["outputs", "bytes for 251 tensors, at most 65536"]),
        ("backend = ", ["is not TOML"]),
    ],
)
def test_a_mistake_is_named_with_its_key(tmp_path: Path, toml: str, words: list[str]) -> None:
    message = refusal(tmp_path, toml)
    for word in ["model.toml", *words]:
        assert word in message
    assert all(str(tmp_path / "m" / "1" / "model.toml") in line for line in message.split("\n"))
    assert "nput should" not in message  # pydantic's words, which speak of Python and of what it does
    assert len(message) < 1500


def test_all_mistakes_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    toml = """
    backend = "onnx"
    file = "none.onnx"
    factory = "make"
    labels = "none.txt"
    max_batch = 4
    [[inputs]]
    name = "x"
    dtype = "float32"
    shape = [-1, 4]
    warmup_shape = [5]
    [[inputs]]
    name = "x"
    shape = [-1, 4]
    [[outputs]]
    name = "y"
    dtype = "flaot32"
    shape = [-1, 4]
    """
    found = [line.partition("model.toml: ")[2] for line in refusal(tmp_path, toml).split("\n")]
    assert [line.partition(": ")[0] for line in found] == [
        "factory",
        "inputs[1] ('x')",
        "outputs[0] ('y')",
        "file",
        "labels",
    ]
    toml = toml.replace('name = "x"\n    shape', 'name = "z"\n    dtype = "int8"\n    shape').replace("flaot", "float")
    assert "warmup_shape [5] does not fit [4]" in refusal(tmp_path, toml)


@pytest.mark.parametrize(
    ("backend", "line"),
    [
        ("torchscript", 'factory = "build"'),
        ("torch_export", 'factory = "make"'),
        ("onnx", 'factory = "make"'),
        ("onnx", 'weights = "model.py"'),
        ("python", 'weights = "model.py"'),
        ("torchscript", 'weights = "model.py"'),
        ("python", 'weights_key = "model"'),
        ("onnx", "strict = false"),
        ("torch", 'weights_key = "model"'),
        ("torch", "strict = true"),
    ],
)
def test_a_key_that_does_nothing_is_refused(tmp_path: Path, backend: str, line: str) -> None:
    toml = f'backend = "{backend}"\nfile = "model.py"\n{line}\n' + TENSORS
    assert f"model.toml: {line.partition(' ')[0]}: does nothing with" in refusal(tmp_path, toml)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "", ECHO)
    toml = 'backend = "python"\r\nlabels = "labels.txt"\n' + TENSORS
    (folder / "model.toml").write_text(toml, encoding="utf-8-sig")
    (folder / "labels.txt").write_text("tench\ngoldfish\n", encoding="utf-8-sig")
    assert load_spec(folder).labels == ("tench", "goldfish")
    (folder / "model.toml").write_text(toml, encoding="utf-16")
    with pytest.raises(SpecError, match=r"model\.toml: is not UTF-8 text"):
        load_spec(folder)


# ---- pictures

PICTURE = """
backend = "python"
[[inputs]]
name = "x"
dtype = "float32"
shape = [-1, 3, 64, 32]
[inputs.image]
size = [64, 32]
[[outputs]]
name = "y"
dtype = "float32"
shape = [-1, 2]
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("size = [64, 32]", "size = [32, 64]", "size [32, 64] is not the height and width of the input, [64, 32]"),
        ("size = [64, 32]", 'size = [64, 32]\nlayout = "NHWC"', "makes 32 of [3, 64, 32] the number of channels"),
        ("[-1, 3, 64, 32]", "[-1, 64, 32, 3]", 'layout = "NCHW" makes 64 of [64, 32, 3] the number of channels'),
        ("[-1, 3, 64, 32]", "[-1, 6144]", "this is dense [-1, 6144]"),
        ("[-1, 3, 64, 32]", '[-1, 64, 32]\nkind = "ragged"', "this is ragged [-1, 64, 32]"),
        ("size = [64, 32]", "size = [64, 32]\nmean = [1.0, 2.0]", "mean has 2 values, expected 1 or one for each of 3"),
        ("size = [64, 32]", "size = [64, 32]\nstd = [1.0, 0.0, 1.0]", "std has a 0"),
        ("size = [64, 32]", "size = [64, 32]\nmean = [nan]", "mean[0]: expected a finite number"),
        ("size = [64, 32]", "size = [64, 32]\nmean = []", "mean: has 0 entries, expected at least 1"),
        ("size = [64, 32]", "size = [64, 20000]", "size[1]: expected 16384 or less, got 20000"),
        ("size = [64, 32]", "size = [64]", "size: has 1 entries, expected at least 2"),
    ],
)
def test_hints_that_no_picture_can_follow_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in PICTURE
    assert words in refusal(tmp_path, PICTURE.replace(old, new))


@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ("[-1, 3, 64, 32]", ""),
        ("[-1, -1, -1, -1]", "\nmean = [1.0, 2.0, 3.0]"),
        ("[-1, 64, 32, 1]", '\nlayout = "NHWC"'),
        ("[-1, 64, 32]", ""),
        ("[1, 3, 64, 32]", ""),
        ("[64, -1]", ""),
    ],
)
def test_hints_that_pictures_can_follow_are_taken(tmp_path: Path, shape: str, more: str) -> None:
    toml = PICTURE.replace("[-1, 3, 64, 32]", shape).replace("size = [64, 32]", "size = [64, 32]" + more)
    assert spec_of(tmp_path, toml).images[0].size == (64, 32)


# ---- values for warm-up


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float32", "0.1"), ("float16", "3"), ("bool", "true"), ("uint8", "255"), ("int64", "-7"), ("bfloat16", "1.5")],
)
def test_a_value_for_warm_up_is_taken(tmp_path: Path, dtype: str, value: str) -> None:
    toml = 'backend = "python"\n' + TENSORS.replace("float32", dtype, 1).replace("4]", f"4]\nwarmup_value = {value}")
    assert spec_of(tmp_path, toml).warmup_values == (tomllib.loads(f"x = {value}")["x"],)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", '"1"'),
        ("float16", "70000"),
        ("bool", "1"),
        ("uint8", "256"),
        ("uint8", "1.5"),
        ("int8", "true"),
        ("float32", "[1]"),
        ("float32", "nan"),
        ("float32", "true"),
    ],
)
def test_a_value_that_no_element_has_is_refused(tmp_path: Path, dtype: str, value: str) -> None:
    toml = 'backend = "python"\n' + TENSORS.replace("float32", dtype, 1).replace("4]", f"4]\nwarmup_value = {value}")
    assert f"is no {dtype}" in refusal(tmp_path, toml)


def test_text_for_warm_up_is_for_strings(tmp_path: Path) -> None:
    toml = 'backend = "python"\n' + TENSORS.replace('dtype = "float32"', 'kind = "string"\nwarmup_value = "a"', 1)
    assert spec_of(tmp_path, toml).warmup_values == ("a",)
    assert "is no text" in refusal(tmp_path, toml.replace('"a"', "1"))


# ---- links and names


def test_a_name_is_as_long_as_the_wire_carries(tmp_path: Path) -> None:
    name = "名" * 85 + "x"
    (output,) = spec_of(tmp_path, 'backend = "python"\n' + TENSORS.replace('"y"', f'"{name}"')).outputs
    assert output.name == name
    assert len(name.encode()) == 256


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, 'backend = "python"\nfile = "link.py"\n' + TENSORS)
    (tmp_path / "outside.py").write_text(ECHO)
    (folder / "link.py").symlink_to(tmp_path / "outside.py")
    with pytest.raises(SpecError, match=r"'link\.py' is a link that leaves the model's folder, to '.*outside\.py'"):
        load_spec(folder)
    with pytest.raises(SpecError, match="leaves the model's folder"):
        load_spec(folder, link_roots=[tmp_path / "outs"])


def test_a_link_into_an_allowed_folder_is_followed(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, 'backend = "python"\nfile = "link.py"\nlabels = "labels"\n' + TENSORS)
    store = tmp_path / "store" / "blobs"
    store.mkdir(parents=True)
    (store / "9f3a").write_text(ECHO)
    (store / "77aa").write_text("tench\n")
    (folder / "link.py").symlink_to(store / "9f3a")
    (folder / "labels").symlink_to("../../store/blobs/77aa")
    (tmp_path / "shop").symlink_to("store")
    spec = load_spec(folder, link_roots=[tmp_path / "shop"])
    assert (spec.file.name, spec.labels, spec.link_roots) == ("link.py", ("tench",), (tmp_path / "store",))


@pytest.mark.parametrize("value", ["../../m.py", "/etc/passwd"])
def test_a_path_out_of_the_folder_is_refused_wherever_links_may_lead(tmp_path: Path, value: str) -> None:
    folder = model_folder(tmp_path, f'backend = "python"\nfile = "{value}"\n' + TENSORS)
    with pytest.raises(SpecError, match="leaves the model's folder; put the file into it"):
        load_spec(folder, link_roots=[Path("/")])


def test_name_and_version_are_those_of_links(tmp_path: Path) -> None:
    stored = model_folder(tmp_path / "store", ECHO_TOML, ECHO, name="artifact", version="9f3a")
    for name, version in (("prod", "1"), ("prod", "2"), ("trial", "1")):
        (tmp_path / "M" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "M" / name / version).symlink_to(stored)
    (tmp_path / "M" / "whole").symlink_to(stored.parent)
    specs = [load_spec(tmp_path / "M" / at) for at in ("prod/1", "prod/2", "trial/1", "whole/9f3a")]
    names = [(spec.name, spec.version) for spec in specs]
    assert names == [("prod", "1"), ("prod", "2"), ("trial", "1"), ("whole", "9f3a")]
    assert {spec.path for spec in specs} == {stored}
    (tmp_path / "M" / "bad name").symlink_to(stored.parent)
    with pytest.raises(SpecError, match=r"M/bad name/9f3a/model\.toml: model name 'bad name'"):
        load_spec(tmp_path / "M" / "bad name" / "9f3a")


def test_a_folder_may_be_given_in_any_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = model_folder(tmp_path, ECHO_TOML, ECHO, name="artifact")
    (tmp_path / "prod").mkdir()
    (tmp_path / "prod" / "7").symlink_to(stored)
    monkeypatch.chdir(stored)
    given = ("../../prod/7", "..//../artifact/./../prod/7/.", ".", "..", "")
    names = [as_named(Path(text)).relative_to(tmp_path).parts for text in given]
    assert names == [("prod", "7"), ("prod", "7"), ("artifact", "1"), ("artifact",), ("artifact", "1")]


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
