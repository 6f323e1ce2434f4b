"""READY, $models, $describe and $health: typed both ways, tolerant of new keys, strict on known ones."""

from __future__ import annotations

from typing import Any

import pytest

from tensorwire.codec import (
    CodecError,
    DescribeRequest,
    Description,
    Health,
    HealthReport,
    HealthRequest,
    ImageHints,
    Kind,
    ModelEntry,
    ModelList,
    Ready,
    State,
    TensorSpec,
    dtype_by_name,
    pack_service,
    unpack_service,
)

IMAGE = TensorSpec("image", dtype_by_name("float32"), (-1, 3, 224, 224))
TEXT = TensorSpec("text", dtype_by_name("uint8"), (-1,), Kind.STRING)

MESSAGES: list[Any] = [
    Ready("alice", ("m*", "n"), "tensorwire", "0.1.0", None, {"max_message": 1 << 30}),
    Ready("bob", (), "", "", 12.5, {}),
    ModelList((ModelEntry("m", "1", State.IDLE), ModelEntry("n", "2", State.LOADING))),
    ModelList(()),
    DescribeRequest("m"),
    DescribeRequest("m", "3"),
    Description("m", "1", "torch", "process", "cuda:0", 32, (IMAGE, TEXT), (IMAGE,)),
    Description("m", "1", "onnx", "process", "cpu", 0, (IMAGE,), (IMAGE,), optional=(TEXT,)),
    Description(
        "m",
        "1",
        "torch",
        "inline",
        "cpu",
        1,
        (IMAGE,),
        (),
        {"image": ImageHints((224, 200), (0.5,), (0.1,), "NHWC")},
        ("a", "é"),
    ),
    HealthRequest(),
    HealthRequest("m", watch=True),
    HealthReport((Health("m", "1", State.STALLED, 3, 1.5, 8, 2, "no progress"), Health("n", "1", State.UNLOADED))),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_its_bytes(message: Any) -> None:
    assert type(message).unpack(message.pack()) == message
    assert type(message).unpack(memoryview(message.pack())) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_unknown_keys_are_ignored(message: Any) -> None:
    value = unpack_service(message.pack()) | {"of a newer server": [1, 2]}
    assert type(message).unpack(pack_service(value)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_known_key_of_a_wrong_type_is_named(message: Any) -> None:
    value = unpack_service(message.pack())
    for key in value:
        if key != "rate":
            with pytest.raises(CodecError, match=key):
                type(message).unpack(pack_service(value | {key: 1.5}))
    with pytest.raises(CodecError, match="expected a map"):
        type(message).unpack(pack_service([1]))


def description(**changes: Any) -> bytes:
    value = unpack_service(MESSAGES[7].pack())
    return pack_service(value | changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_batch": True}, "max_batch: bool, expected int"),
        ({"labels": ["a", 1]}, r"labels\[1\]: int, expected str"),
        ({"inputs": [{"name": "x", "dtype": "float33", "shape": []}]}, "did you mean 'float32'"),
        ({"inputs": [{"name": "x", "dtype": "O", "shape": []}]}, "unknown element type"),
        ({"inputs": [{"name": "x", "dtype": "int8", "shape": [-2]}]}, "dimension -2"),
        ({"inputs": [{"name": "x", "dtype": "int8", "shape": [True]}]}, r"shape\[0\]: bool"),
        ({"inputs": [{"name": "", "dtype": "int8", "shape": []}]}, "tensor name"),
        ({"inputs": [{"name": "x", "dtype": "int8", "shape": [], "kind": "odd"}]}, "dense, string or ragged"),
        ({"images": {"x": {"size": [224], "mean": [], "std": []}}}, "height and width"),
        ({"images": {"x": {"size": [1 << 30, 1], "mean": [], "std": []}}}, "1 to 16384"),
        ({"images": {"x": {"size": [0, 1], "mean": [], "std": []}}}, "1 to 16384"),
        ({"images": {"x": {"size": [1, 1], "mean": ["a"], "std": []}}}, "expected float"),
    ],
)
def test_a_description_that_lies_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(CodecError, match=says):
        Description.unpack(description(**changes))


def test_an_unknown_state_is_refused_with_the_known_ones() -> None:
    raw = pack_service({"models": [{"model": "m", "version": "1", "state": "\x1b[1mfine"}]})
    with pytest.raises(CodecError, match="idle, serving, stalled, loading, unloaded, failed") as caught:
        HealthReport.unpack(raw)
    assert "\x1b" not in str(caught.value)


def test_a_thousand_labels_fit() -> None:
    labels = tuple(f"a label of some length {index}" for index in range(1000))
    message = Description("m", "1", "torch", "inline", "cpu", 1, (IMAGE,), (), {}, labels)
    assert Description.unpack(message.pack()).labels == labels
