"""``--input``: what is understood, what is matched with the model, and what the errors say."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tensorwire.clients.cli.failures import ExitCode, Failure
from tensorwire.clients.cli.inputs import InputArgument, build_inputs, parse_argument, random_inputs
from tensorwire.codec import Kind, RaggedArray, TensorSpec, dtype_by_name


def spec(name: str, dtype: str, *shape: int, kind: Kind = Kind.DENSE) -> TensorSpec:
    return TensorSpec(name, dtype_by_name(dtype), shape, kind)


X = spec("x", "float32", -1, 4)


def build(
    *texts: str, specs: tuple[TensorSpec, ...] = (X,), batched: bool = True, stdin: bytes = b""
) -> dict[str, Any]:
    return build_inputs([parse_argument(text) for text in texts], specs, batched=batched, stdin=io.BytesIO(stdin))


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("x=@photo.jpg", "x", "@photo.jpg"),
        ("x=[1,2]", "x", "[1,2]"),
        ("x=-", "x", "-"),
        ("x=-1.5", "x", "-1.5"),
        ("layer.0/out=random", "layer.0/out", "random"),
        ("0=[1]", "0", "[1]"),
        ("sepal length (cm)=5.1", "sepal length (cm)", "5.1"),
        ("longueur/été=1", "longueur/été", "1"),
        ('{"a": "b=c"}', None, '{"a": "b=c"}'),
        ("@a=b.npy", None, "@a=b.npy"),
        ('["a=b"]', None, '["a=b"]'),
        ("-", None, "-"),
        ("3", None, "3"),
        ("random:float32:1x4", None, "random:float32:1x4"),
    ],
)
def test_a_value_with_and_without_a_name(text: str, name: str | None, value: str) -> None:
    assert parse_argument(text) == InputArgument(name, value)


@pytest.mark.parametrize("text", ["x", "x=", "photo.jpg", "=3"])
def test_what_is_neither_is_refused_with_the_forms_that_are_expected(text: str) -> None:
    with pytest.raises(Failure, match="expected NAME=@FILE"):
        parse_argument(text)


# --- json ----------------------------------------------------------------------------------------------------------


def test_json_gets_the_dtype_of_the_model_and_the_batch_axis() -> None:
    x = build("x=[1, 2, 3, 4]")["x"]
    assert x.dtype == np.float32
    assert x.tolist() == [[1, 2, 3, 4]]


def test_json_with_a_batch_axis_stays_as_it_is() -> None:
    assert build("x=[[1,2,3,4],[5,6,7,8]]")["x"].shape == (2, 4)


def test_a_name_may_be_left_out_where_the_model_has_one_input() -> None:
    assert list(build("[1,2,3,4]")) == ["x"]


def test_json_strings_and_ragged_rows() -> None:
    specs = (spec("t", "uint8", -1, kind=Kind.STRING), spec("r", "int64", -1, kind=Kind.RAGGED))
    arrays = build('t=["a","bc"]', "r=[[1,2],[3]]", specs=specs, batched=False)
    assert arrays["t"].tolist() == ["a", "bc"]
    assert isinstance(arrays["r"], RaggedArray)
    assert [row.tolist() for row in arrays["r"]] == [[1, 2], [3]]
    assert arrays["r"].dtype == np.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x=[1,2,3]", r"shape \[1, 3\], the model expects x: float32\[-1,4\]"),
        ("x=[[[1,2,3,4]]]", "expects x: float32"),
        ("x=[1,2", "is no JSON"),
        ('x=["a","b","c","d"]', "holds text"),
        ('x={"a":1}', "holds an object"),
        ("x=[[1,2,3,4],[1]]", "nested lists of different lengths; .* needs rows of equal length"),
        ("x=[1e999,2,3,4]", "1e999 is beyond float64"),
        ("x=[1e300,2,3,4]", r"float32 cannot hold 1e\+300; the model expects x: float32"),
        ("y=[1,2,3,4]", r"no input 'y': it takes x: float32\[-1,4\]"),
    ],
)
def test_json_that_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(Failure, match=message) as caught:
        build(text)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_fraction_is_not_cut_to_an_integer() -> None:
    integers = (spec("x", "int32", -1),)
    assert build("x=[1.0, 2.0]", specs=integers, batched=False)["x"].dtype == np.int32
    with pytest.raises(Failure, match="cannot hold"):
        build("x=[1.5]", specs=integers, batched=False)
    with pytest.raises(Failure, match="cannot hold"):
        build("x=[5000000000]", specs=integers, batched=False)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ("70000", "float16"),
        ("500", "float8_e4m3fn"),
        ("0", "float8_e8m0fnu"),
        ("-1", "uint8"),
        ("2", "bool"),
        ("1e300", "complex64"),
    ],
)
def test_a_number_that_would_become_another_is_refused(value: str, dtype: str) -> None:
    with pytest.raises(Failure, match=f"{dtype} cannot hold"):
        build(f"x=[{value}]", specs=(spec("x", dtype, -1),), batched=False)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [(np.array([1j]), "bfloat16"), (np.array([1], "m8[s]"), "int64"), (np.zeros(1, "V2"), "bfloat16")],
)
def test_an_npy_of_another_kind_of_number_is_refused(array: Any, dtype: str) -> None:
    with pytest.raises(Failure, match="does not become"):
        build("x=-", specs=(spec("x", dtype, -1),), batched=False, stdin=npy(array))


def test_large_integers_keep_their_last_digit() -> None:
    text = f"x=[1,{2**64 - 1}]"
    assert build(text, specs=(spec("x", "uint64", -1),), batched=False)["x"].tolist() == [1, 2**64 - 1]
    with pytest.raises(Failure, match="cannot hold"):
        build(f"x=[0.5,{2**53 + 1}]", specs=(spec("x", "float64", -1),), batched=False)


@pytest.mark.parametrize(
    "text", ["r=[[[1],[1,2]]]", 'r=[["a"]]', "r=[[1.5]]", "r=[[null]]", "r=[[[1]],[[1,2]]]", "r=[[300]]"]
)
def test_ragged_rows_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(Failure, match="--input r"):
        build(text, specs=(spec("r", "int8", -1, kind=Kind.RAGGED),), batched=False)


def test_strings_in_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(Failure, match="needs rows of equal length"):
        build('t=[["a"],"b"]', specs=(spec("t", "uint8", -1, kind=Kind.STRING),), batched=False)


def test_missing_and_repeated_inputs_are_named() -> None:
    two = (X, spec("y", "float32", -1, 1))
    with pytest.raises(Failure, match=r"missing --input y=.*x: float32\[-1,4\]; y: float32\[-1,1\]"):
        build("x=[1,2,3,4]", specs=two)
    with pytest.raises(Failure, match="given twice"):
        build("x=[1,2,3,4]", "x=[1,2,3,4]")
    with pytest.raises(Failure, match="needs a model with one input"):
        build("[1,2,3,4]", specs=two)


# --- files ---------------------------------------------------------------------------------------------------------


def test_an_npy_file_and_a_narrower_float(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(8, dtype=np.float64).reshape(2, 4))
    x = build(f"x=@{tmp_path / 'x.npy'}")["x"]
    assert x.dtype == np.float32
    assert x.shape == (2, 4)


def test_standard_input_that_cannot_seek() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe(npy(np.ones((1, 4), np.float32)))
    assert build_inputs([parse_argument("x=-")], (X,), batched=True, stdin=pipe)["x"].shape == (1, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "standard input is no JSON"),
        (b"not numpy", "standard input is no JSON"),
        (b"\xff\xfe", r"standard input is neither \.npy nor \.npz nor JSON"),
        (npy(np.ones(4))[:-1], r"standard input is no \.npy file"),
        (b"PK\x03\x04", r"standard input is no \.npz file"),
    ],
)
def test_standard_input_that_cannot_be_read_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(Failure, match=message):
        build("x=-", stdin=content)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,)",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 60,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        b"{'descr': [('a', 'x')], 'fortran_order': 0, 'shape': ()}",
        b"{'descr': 5j, 'fortran_order': False, 'shape': (4,)}",
        b"[" * 9000,
        b"\0" * 40,
    ],
)
def test_a_damaged_header_of_an_npy_is_one_line(header: bytes) -> None:
    raw = b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + bytes(16)
    with pytest.raises(Failure, match=r"standard input is no \.npy file"):
        build("x=-", stdin=raw)


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def test_an_npz_and_a_json_object_are_all_inputs_by_name(tmp_path: Path) -> None:
    two = (X, spec("sepal length (cm)", "float32", -1, 1))
    values = {"x": [1, 2, 3, 4], "sepal length (cm)": [[5.5]]}
    (tmp_path / "all.npz").write_bytes(npz(**{name: np.array(value) for name, value in values.items()}))
    (tmp_path / "all.json").write_text(json.dumps(values))
    for text, stdin in [
        (f"@{tmp_path / 'all.npz'}", b""),
        (f"@{tmp_path / 'all.json'}", b""),
        ("-", (tmp_path / "all.npz").read_bytes()),
        ("-", (tmp_path / "all.json").read_bytes()),
        (json.dumps(values), b""),
    ]:
        arrays = build(text, specs=two, stdin=stdin)
        assert {name: array.tolist() for name, array in arrays.items()} == {
            "x": [[1, 2, 3, 4]],
            "sepal length (cm)": [[5.5]],
        }


def test_one_input_takes_its_array_of_an_npz_or_the_only_one() -> None:
    assert build("x=-", stdin=npz(x=np.ones(4), y=np.zeros(4)))["x"].tolist() == [[1] * 4]
    assert build("x=-", stdin=npz(arr_0=np.ones(4)))["x"].tolist() == [[1] * 4]
    with pytest.raises(Failure, match=r"has no array 'x', but a, b"):
        build("x=-", stdin=npz(a=np.ones(4), b=np.ones(4)))
    with pytest.raises(Failure, match="no input 'y'"):
        build("-", stdin=npz(y=np.ones(4)))


def test_json_on_standard_input_is_read_once() -> None:
    assert build("x=-", stdin=b"[1, 2, 3, 4]\n")["x"].tolist() == [[1, 2, 3, 4]]
    with pytest.raises(Failure, match="standard input is given to several inputs"):
        build("x=-", "y=-", specs=(X, spec("y", "float32", -1)), stdin=b"[1]")


@pytest.mark.parametrize(("shape", "sent"), [((1, 4), (1, 4)), ((-1, 4), (1, 4)), ((4,), (4,))])
def test_a_missing_first_axis_is_added_where_calls_run_alone(shape: tuple[int, ...], sent: tuple[int, ...]) -> None:
    assert build("x=[1,2,3,4]", specs=(spec("x", "float32", *shape),), batched=False)["x"].shape == sent


@pytest.mark.parametrize("shape", [(), (-1,), (1, 1)])
def test_one_text_is_a_tensor_of_the_rank_that_the_model_takes(shape: tuple[int, ...]) -> None:
    text = build('t="ab"', specs=(spec("t", "uint8", *shape, kind=Kind.STRING),), batched=False)["t"]
    assert text.shape == (1,) * len(shape)
    assert text.reshape(-1)[0] == "ab"


@pytest.mark.parametrize(
    ("shape", "batched"), [((1, -1), False), ((-1, -1), False), ((1, 1, -1), False), ((-1,), False)]
)
def test_sound_fits_models_of_one_call_at_a_time(tmp_path: Path, shape: tuple[int, ...], batched: bool) -> None:
    with wave.open(str(tmp_path / "s.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(b"\0\x40" * 8)
    s = build(f"@{tmp_path / 's.wav'}", specs=(spec("s", "float32", *shape),), batched=batched)["s"]
    assert s.shape == (*(1 for _ in shape[1:]), 8)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(Failure, match="allow_pickle"):
        build(f"x=@{tmp_path / 'x.npy'}")


def test_an_unreadable_file_and_an_unknown_kind_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"cannot read .*No such file"):
        build(f"x=@{tmp_path / 'absent.npy'}")
    with pytest.raises(Failure, match=r"cannot read .*directory"):
        build(f"x=@{tmp_path}")
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(Failure, match=r"no known kind, expected one of \.npy"):
        build(f"x=@{tmp_path / 'x.txt'}")


@pytest.mark.parametrize(
    ("width", "raw", "expected"),
    [
        (1, bytes([128, 255]), [0.0, 127 / 128]),
        (2, b"\0\0\0\x40", [0.0, 0.5]),
        (4, b"\0\0\0\x80\0\0\0\x40", [-1.0, 0.5]),
    ],
)
def test_sound_becomes_float32_between_minus_one_and_one(
    tmp_path: Path, width: int, raw: bytes, expected: list[float]
) -> None:
    with wave.open(str(tmp_path / "s.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(16_000)
        file.writeframes(raw)
    s = build(f"@{tmp_path / 's.wav'}", specs=(spec("s", "float32", -1, -1),))["s"]
    assert s.dtype == np.float32
    assert s[0].tolist() == pytest.approx(expected)


def test_sound_is_no_integers_and_may_end_within_a_sample(tmp_path: Path) -> None:
    file = tmp_path / "s.wav"
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(b"\0\x40" * 8)
    file.write_bytes(file.read_bytes()[:-3])
    assert build(f"@{file}", specs=(spec("s", "float32", -1, -1),))["s"].tolist() == [[0.5] * 3]
    with pytest.raises(Failure, match="sound is floats"):
        build(f"@{file}", specs=(spec("s", "int16", -1, -1),))


# --- random --------------------------------------------------------------------------------------------------------


def test_random_values_have_the_shape_and_dtype_asked_for_and_are_the_same_each_time() -> None:
    first, second = (build("x=random:float32:3x4")["x"] for _ in range(2))
    assert first.shape == (3, 4)
    assert first.dtype == np.float32
    assert np.array_equal(first, second)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64", "bfloat16", "float8_e5m2"])
def test_random_without_more_is_what_the_model_takes(dtype: str) -> None:
    x = random_inputs((spec("x", dtype, -1, 5),))["x"]
    assert x.shape == (1, 5)
    assert x.dtype == dtype_by_name(dtype).numpy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x=random:float31:1x4", "unknown element type"),
        ("x=random:float32:1x-4", "shape '1x-4' cannot be read"),
        ("x=random:float32:999999999x4", "give a smaller shape"),
        ("x=random:float32:1x5", r"shape \[1, 5\], the model expects"),
    ],
)
def test_random_that_cannot_be_made_is_refused(text: str, message: str) -> None:
    with pytest.raises(Failure, match=message):
        build(text)


def test_control_characters_of_a_name_are_not_printed() -> None:
    with pytest.raises(Failure) as caught:
        build("x=@\x1b[31m.npy")
    assert "\x1b" not in caught.value.message
