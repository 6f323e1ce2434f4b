"""Graphs of every kind that ONNX Runtime runs on a CPU, in real files: served as ONNX Runtime computes them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tensorwire.codec import SignatureError, dtype_by_name
from tensorwire.server.check_declared import misfits
from tensorwire.server.engine.backends import LoadError, load_backend
from tensorwire.server.engine.spec import load_spec
from tests.server.engine.helpers import Harness, model_folder
from tests.server.engine.process_front import Front

info = helper.make_tensor_value_info
FLOAT = TensorProto.FLOAT
X = np.array([[1, 2, 3], [3, 2, 1]], np.float32)


def tensor(side: str, name: str, dtype: str, shape: str, **more: str) -> str:
    extra = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f'[[{side}]]\nname = "{name}"\ndtype = "{dtype}"\nshape = {shape}\n{extra}'


def graph(
    folder: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], *constants: Any, **save: Any
) -> Path:
    """Write model.onnx, checked by onnx itself."""
    whole = helper.make_graph(nodes, "g", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(whole, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"), **save)
    return folder


NARROW = {
    "bfloat16": TensorProto.BFLOAT16,
    "float8_e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8_e4m3fnuz": TensorProto.FLOAT8E4M3FNUZ,
    "float8_e5m2": TensorProto.FLOAT8E5M2,
    "float8_e5m2fnuz": TensorProto.FLOAT8E5M2FNUZ,
}


@pytest.mark.parametrize("side", ["both", "inputs", "outputs"])
@pytest.mark.parametrize("name", NARROW)
def test_floats_that_numpy_lacks_go_in_and_out(tmp_path: Path, name: str, side: str) -> None:
    taken, given = ("float32" if side == other else name for other in ("outputs", "inputs"))
    types = {"float32": FLOAT, name: NARROW[name]}
    toml = 'backend = "onnx"\nmax_batch = 4\n' + tensor("inputs", "x", taken, "[-1, 3]")
    toml += tensor("outputs", "y", given, "[-1, 3]") + tensor("outputs", "f", "float32", "[-1, 3]")
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=FLOAT), helper.make_node("Cast", ["f"], ["y"], to=types[given])]
    folder = graph(
        model_folder(tmp_path, toml),
        nodes,
        [info("x", types[taken], ["b", 3])],
        [info("y", types[given], ["b", 3]), info("f", FLOAT, ["b", 3])],
    )
    spec = load_spec(folder)
    assert misfits(spec, load_backend(spec).declared()) == ([], [])
    harness = Harness(spec)
    for rows in (1, 2, 3):
        x = np.resize(X, (rows, 3)).astype(dtype_by_name(taken).numpy)
        request = harness.submit({"x": x})
        (result,) = harness.run()
        assert result.requests == [request]
        y, f = result.outputs  # type: ignore[union-attr]
        assert bytes(y) == x.astype(np.float32).astype(dtype_by_name(given).numpy).tobytes()
        assert bytes(f) == x.astype(np.float32).tobytes()
    harness.engine.stop()


def test_a_narrow_output_may_be_empty_or_large(tmp_path: Path) -> None:
    toml = 'backend = "onnx"\nmax_batch = 2\n' + tensor("inputs", "x", "bfloat16", "[-1, -1]")
    folder = graph(
        model_folder(tmp_path, toml + tensor("outputs", "y", "bfloat16", "[-1, -1]")),
        [helper.make_node("Identity", ["x"], ["y"])],
        [info("x", TensorProto.BFLOAT16, ["b", "n"])],
        [info("y", TensorProto.BFLOAT16, ["b", "n"])],
    )
    harness = Harness(load_spec(folder))
    for size in (0, 1, 100_000):
        harness.submit({"x": np.ones((2, size), dtype_by_name("bfloat16").numpy)})
        (result,) = harness.run()
        assert bytes(result.outputs[0]) == b"\x80\x3f" * 2 * size  # type: ignore[union-attr]
    harness.engine.stop()


CLASSES: dict[str, tuple[list[Any], list[str]]] = {
    "ints": ([2, 0, 7], ["0", "2", "7"]),
    "strings": (["b", "ä", "a"], ["a", "b", "ä"]),
}


def classifier(folder: Path, kind: str) -> Path:
    """What skl2onnx makes of a LogisticRegression: the label of each row, and a map from classes to probabilities."""
    classes, strings = CLASSES[kind][0], kind == "strings"
    scores: dict[str, Any] = {f"classlabels_{kind}": classes}
    linear = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=np.eye(3, dtype=np.float32).flatten().tolist(),
        intercepts=[0.0, 0.0, 0.0],
        multi_class=1,
        post_transform="NONE",
        **scores,
    )
    keys: dict[str, Any] = {"classlabels_strings" if strings else "classlabels_int64s": classes}
    zipped = helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", **keys)
    key = TensorProto.STRING if strings else TensorProto.INT64
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(key, helper.make_tensor_type_proto(FLOAT, shape=[]))
    )
    outputs = [info("label", key, ["b"]), helper.make_value_info("probabilities", maps)]
    return graph(folder, [linear, zipped], [info("x", FLOAT, ["b", 3])], outputs)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_maps_of_a_classifier_are_columns_in_the_order_of_its_labels(tmp_path: Path, kind: str) -> None:
    toml = 'backend = "onnx"\nmax_batch = 4\n' + tensor("inputs", "x", "float32", "[-1, 3]")
    folder = classifier(model_folder(tmp_path, toml + tensor("outputs", "probabilities", "float32", "[-1, 3]")), kind)
    spec = load_spec(folder)
    assert misfits(spec, load_backend(spec).declared()) == ([], [])
    harness = Harness(spec)
    classes, labels = CLASSES[kind]
    assert list(harness.engine.labels) == labels
    columns = [[str(name) for name in classes].index(label) for label in labels]
    np.testing.assert_array_equal(harness.infer({"x": X})["probabilities"], X[:, columns])
    harness.engine.stop()


def test_a_classifiers_label_and_maps_are_served_together(tmp_path: Path) -> None:
    toml = 'backend = "onnx"\n' + tensor("inputs", "x", "float32", "[-1, 3]")
    toml += tensor("outputs", "label", "uint8", "[-1]", kind='"string"')
    harness = Harness(
        load_spec(
            classifier(
                model_folder(tmp_path, toml + tensor("outputs", "probabilities", "float32", "[-1, 3]")), "strings"
            )
        )
    )
    got = harness.infer({"x": X})
    assert got["label"].tolist() == ["a", "b"]
    assert list(harness.engine.labels) == ["a", "b", "ä"]
    np.testing.assert_array_equal(got["probabilities"], X[:, [2, 0, 1]])
    harness.engine.stop()


def test_a_process_tells_the_labels(tmp_path: Path) -> None:
    toml = 'backend = "onnx"\nmax_batch = 4\n' + tensor("inputs", "x", "float32", "[-1, 3]")
    folder = model_folder(tmp_path, toml + tensor("outputs", "probabilities", "float32", "[-1, 3]"))
    front = Front(classifier(folder, "strings")).ready()
    assert list(front.engine.labels) == ["a", "b", "ä"]
    front.engine.stop()


def scaled(folder: Path, kind: int = FLOAT, carrier: str = "float32") -> Path:
    """y = x * k, where k is 2 unless a call says otherwise."""
    two = helper.make_tensor("k", kind, [1], np.array([2], dtype_by_name(carrier).numpy).tobytes(), raw=True)
    nodes = [helper.make_node("Cast", ["k"], ["f"], to=FLOAT), helper.make_node("Mul", ["x", "f"], ["y"])]
    return graph(folder, nodes, [info("x", FLOAT, ["b", 3]), info("k", kind, [1])], [info("y", FLOAT, ["b", 3])], two)


@pytest.mark.parametrize("carrier", ["float32", "bfloat16"])
def test_an_input_with_an_initializer_is_optional(tmp_path: Path, carrier: str) -> None:
    toml = 'backend = "onnx"\n' + tensor("inputs", "k", carrier, "[1]", optional="true")
    toml += tensor("inputs", "x", "float32", "[-1, 3]") + tensor("outputs", "y", "float32", "[-1, 3]")
    kind = {"float32": FLOAT, "bfloat16": TensorProto.BFLOAT16}[carrier]
    spec = load_spec(scaled(model_folder(tmp_path, toml), kind, carrier))
    assert misfits(spec, load_backend(spec).declared()) == ([], [])
    harness = Harness(spec)
    np.testing.assert_array_equal(harness.infer({"x": X})["y"], X * 2)
    five = np.array([5], dtype_by_name(carrier).numpy)
    np.testing.assert_array_equal(harness.infer({"k": five, "x": X})["y"], X * 5)
    np.testing.assert_array_equal(harness.infer({"x": X})["y"], X * 2)
    with pytest.raises(SignatureError, match=r"'k': sent float32\[2\], expected"):
        harness.prepare({"x": X, "k": np.ones(2, np.float32)})
    with pytest.raises(SignatureError, match="'x': sent no such tensor"):
        harness.prepare({"k": five})
    harness.engine.stop()


def test_an_input_with_an_initializer_may_be_required_or_left_out_of_model_toml(tmp_path: Path) -> None:
    x = (
        'backend = "onnx"\n'
        + tensor("inputs", "x", "float32", "[-1, 3]")
        + tensor("outputs", "y", "float32", "[-1, 3]")
    )
    harness = Harness(load_spec(scaled(model_folder(tmp_path / "1", x))))
    np.testing.assert_array_equal(harness.infer({"x": X})["y"], X * 2)
    harness.engine.stop()
    harness = Harness(load_spec(scaled(model_folder(tmp_path / "2", x + tensor("inputs", "k", "float32", "[1]")))))
    with pytest.raises(SignatureError, match="'k': sent no such tensor"):
        harness.prepare({"x": X})
    harness.engine.stop()


def test_what_has_no_initializer_is_not_optional(tmp_path: Path) -> None:
    toml = 'backend = "onnx"\n' + tensor("inputs", "x", "float32", "[-1, 3]", optional="true")
    toml += tensor("inputs", "k", "float32", "[1]") + tensor("outputs", "y", "float32", "[-1, 3]")
    with pytest.raises(LoadError, match=r"inputs: model.toml has \['k'\], the ONNX graph has \['x', 'k'\]"):
        load_backend(load_spec(scaled(model_folder(tmp_path, toml))))


def test_data_beside_a_link_is_found(tmp_path: Path) -> None:
    """A store of files by their hash, and a folder of links into it, as model caches have them."""
    toml = 'backend = "onnx"\nmax_batch = 4\n' + tensor("inputs", "x", "float32", "[-1, 3]")
    folder = graph(
        model_folder(tmp_path, toml + tensor("outputs", "y", "float32", "[-1, 400]")),
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [info("x", FLOAT, ["b", 3])],
        [info("y", FLOAT, ["b", 400])],
        numpy_helper.from_array(np.ones((3, 400), np.float32), "w"),
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
    )
    (folder / "blobs").mkdir()
    for name, digest in (("model.onnx", "3c5b"), ("model.onnx_data", "a90f")):
        shutil.move(folder / name, folder / "blobs" / digest)
        (folder / name).symlink_to(f"blobs/{digest}")
    harness = Harness(load_spec(folder))
    np.testing.assert_array_equal(harness.infer({"x": X})["y"], np.full((2, 400), 6))
    harness.engine.stop()
