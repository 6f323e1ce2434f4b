"""A shape is recorded after warm-up and replayed from then on; what cannot be recorded runs eagerly. No device here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from tensorwire.gpu.graphs import MAX_GRAPHS, WARM_UP, GraphedModel


class Recorder:
    """Stands for CUDA graphs: a replay runs the model on the recorded inputs, into the recorded output."""

    def __init__(self, fails: bool = False) -> None:
        self.recorded = 0
        self.replayed = 0
        self.fails = fails

    def __call__(self, model: Callable[[Mapping[str, Any]], Any], inputs: Mapping[str, Any]) -> Any:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.recorded += 1
        output = model(inputs).clone()

        def replay() -> None:
            self.replayed += 1
            output.copy_(model(inputs))

        return replay, output


def double(inputs: Mapping[str, Any]) -> Any:
    return inputs["x"] * 2


def batch(rows: int, value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"x": torch.full((rows, 2), value)}


def test_a_shape_is_recorded_after_its_warm_up_and_replayed_from_then_on() -> None:
    recorder = Recorder()
    model = GraphedModel(double, recorder)
    for _ in range(WARM_UP):
        model(batch(4))
    assert recorder.recorded == 0
    for _ in range(5):
        model(batch(4))
    assert (recorder.recorded, recorder.replayed, model.recorded) == (1, 5, 1)


def test_a_replay_computes_with_the_inputs_of_this_call() -> None:
    model = GraphedModel(double, Recorder())
    results = [model(batch(4, float(n)))[0, 0].item() for n in range(WARM_UP + 4)]
    assert results == [2.0 * n for n in range(WARM_UP + 4)]


def test_inputs_that_are_the_recorded_ones_are_not_copied() -> None:
    model = GraphedModel(double, Recorder())
    static = batch(4)
    for n in range(WARM_UP + 3):
        static["x"].fill_(n)
        assert model(static)[0, 0] == 2 * n


def test_each_shape_has_a_recording_of_its_own() -> None:
    recorder = Recorder()
    model = GraphedModel(double, recorder)
    for _ in range(WARM_UP + 2):
        assert model(batch(1)).shape == (1, 2)
        assert model(batch(8)).shape == (8, 2)
    assert recorder.recorded == 2


def test_what_cannot_be_recorded_runs_eagerly_and_is_not_tried_again() -> None:
    recorder = Recorder(fails=True)
    model = GraphedModel(double, recorder)
    for n in range(WARM_UP + 5):
        assert model(batch(4, float(n)))[0, 0] == 2 * n
    assert list(model.eager.values()) == ["operation not permitted when stream is capturing"]
    assert model.recorded == 0


def test_recordings_are_bounded() -> None:
    model = GraphedModel(double, Recorder())
    for rows in range(1, MAX_GRAPHS + 10):
        for _ in range(WARM_UP + 1):
            assert model(batch(rows)).shape == (rows, 2)
    assert model.recorded == MAX_GRAPHS


def test_an_error_of_the_model_itself_is_the_callers() -> None:
    def broken(inputs: Mapping[str, Any]) -> Any:
        raise KeyError("x")

    with pytest.raises(KeyError):
        GraphedModel(broken, Recorder())(batch(1))
