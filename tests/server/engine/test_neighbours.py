"""Which models mix the rows of a batch, and what follows: exact equality beside other neighbours, at one batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tensorwire.server.engine.backends import load_backend
from tensorwire.server.engine.executor import Executor
from tensorwire.server.engine.neighbours import Found, look, rule_for
from tensorwire.server.engine.spec import ModelSpec, load_spec
from tests.server.engine.helpers import Harness, model_folder, outputs_of
from tests.support.quantised import PER_ROW, TORCH, description, save_graph, write_quantised

IDS_TOML = """
backend = "{backend}"
max_batch = 8
[[inputs]]
name = "x"
dtype = "{dtype}"
shape = [-1, 6]
[[outputs]]
name = "y"
dtype = "{out}"
shape = [-1, {width}]
"""


def found_of(spec: ModelSpec, rows: int = 4) -> Found:
    executor = Executor(spec, load_backend(spec))
    found = look(spec, executor.answer, rows)
    executor.close()
    return found


def torch_spec(tmp_path: Path, forward: str, *, prepare: str = "pass", more: str = "") -> ModelSpec:
    source = f"""
    import torch
    class M(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.a, self.b = torch.nn.Linear(16, 32), torch.nn.Linear(32, 4)
            {prepare}
        def forward(self, x):
            {forward}
    def build():
        return M()
    """
    return load_spec(model_folder(tmp_path, description("torch", more=more), source))


def python_spec(
    tmp_path: Path, body: str, dtype: str = "float32", out: str = "", width: int = 6, setup: str = "pass"
) -> ModelSpec:
    source = f"""
    import numpy as np
    def build():
        {setup}
        def model(inputs):
            x = inputs["x"]
            {body}
        return model
    """
    toml = IDS_TOML.format(backend="python", dtype=dtype, out=out or dtype, width=width)
    return load_spec(model_folder(tmp_path, toml, source))


@pytest.mark.parametrize(
    "forward",
    [
        "return self.b(torch.relu(self.a(x)))",
        "return self.b(torch.sigmoid(self.a(x)[:, :31] @ self.a.weight[:31, :]) @ self.a.weight.T)",
        "return torch.softmax(self.b(torch.nn.functional.silu(self.a(x))), dim=1)",
        "return torch.sin(self.b(self.a(x)))[:, :4]",
        "return self.b(self.a(x)).log()",  # NaN of its own
        "return self.b(self.a(x.bfloat16().float()))",
    ],
)
def test_rounding_that_follows_the_batch_size_is_no_leak(tmp_path: Path, forward: str) -> None:
    found = found_of(torch_spec(tmp_path, forward))
    assert (found.tested, found.leak, found.beyond) == (True, "", False)


@pytest.mark.parametrize("rows", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "forward",
    [
        "return self.b(self.a(x - x.mean(0)))",
        "return self.b(self.a(x)).softmax(dim=0)",
        "return self.b(self.a(x / x.norm()))",
        "return self.b(self.a(x.flip(0)))",
        "return self.b(self.a(x.cumsum(0)))",
        "return self.b(self.a(x.flip(0).cumsum(0).flip(0)))",
        "return self.b(self.a(torch.where(x.isnan().any(), 0, x)))",
        "return self.b(self.a(x.clamp(max=x.max())))[:1].expand(len(x), -1)",
    ],
)
def test_a_model_that_mixes_rows_is_found_at_any_batch_size(tmp_path: Path, forward: str, rows: int) -> None:
    found = found_of(torch_spec(tmp_path, forward), rows)
    assert found.leak
    assert rule_for(torch_spec(tmp_path, forward), found, "").with_whom == "nobody"


def test_batch_norm_left_in_training_mode_is_found(tmp_path: Path) -> None:
    """The server calls eval(); a forward that calls train() undoes it."""
    spec = torch_spec(
        tmp_path,
        "return self.b(self.norm.train()(self.a(x)))",
        prepare="self.norm = torch.nn.BatchNorm1d(32, track_running_stats=False)",
    )
    assert found_of(spec).leak


def test_a_sequence_model_that_takes_the_batch_for_time_is_found(tmp_path: Path) -> None:
    spec = torch_spec(tmp_path, "return self.lstm(x)[0]", prepare="self.lstm = torch.nn.LSTM(16, 4)")
    assert found_of(spec).leak


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_what_is_quantised_while_it_runs_is_found_and_runs_alone(tmp_path: Path, backend: str) -> None:
    spec = load_spec(write_quantised(tmp_path, "m", backend))
    found = found_of(spec)
    assert found.leak == "values 1,000 times as large"
    assert found.changed > 0.05
    (remark,) = rule_for(spec, found, "").remarks
    assert "batch_with" in remark


def test_a_scale_for_each_row_is_no_leak_whatever_its_name(tmp_path: Path) -> None:
    spec = load_spec(model_folder(tmp_path, description("torch"), PER_ROW))
    found = found_of(spec)
    assert (found.tested, found.leak) == (True, "")


@pytest.mark.parametrize("how", ["static", "not"])
def test_static_quantisation_and_floats_of_onnx_runtime_are_no_leak(tmp_path: Path, how: str) -> None:
    folder = model_folder(tmp_path, description("onnx"))
    save_graph(folder, how)
    found = found_of(load_spec(folder))
    assert (found.tested, found.leak, found.alone) == (True, "", 0.0)


def test_token_ids_that_are_too_large_are_no_leak(tmp_path: Path) -> None:
    """A vocabulary of two: the first ids tried are beyond it, and the model raises."""
    body = "return table[x]"
    spec = python_spec(tmp_path, body, "int64", "float32", setup="table = np.array([1.5, 2.5], np.float32)")
    found = found_of(spec)
    assert (found.below, found.tested, found.leak) == (2, True, "")


def test_integers_that_mix_are_found(tmp_path: Path) -> None:
    assert found_of(python_spec(tmp_path, "return x - x.max(axis=0)", "int64")).leak == "other values"


@pytest.mark.parametrize(
    ("dtype", "body"),
    [
        ("int64", "return x + x.max()"),
        ("int32", "return np.zeros_like(x) + (x != 0).sum(1).max().astype(x.dtype)"),
        ("uint8", "return x // max(1, x.max() // 16)"),
        ("int8", "return (x / max(16, x.max()) * 127).astype(np.int8)"),
        ("bool", "return x ^ x.any()"),
    ],
)
@pytest.mark.parametrize("rows", [2, 8])
def test_integers_and_bools_that_only_a_larger_neighbour_changes_are_found(
    tmp_path: Path, dtype: str, body: str, rows: int
) -> None:
    assert found_of(python_spec(tmp_path, body, dtype), rows).leak


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_integers_and_bools_that_keep_to_their_row_are_no_leak(tmp_path: Path, dtype: str) -> None:
    found = found_of(python_spec(tmp_path, "return x ^ x.max(axis=1, keepdims=True)", dtype))
    assert (found.tested, found.leak, found.beyond) == (True, "", False)


def test_outputs_as_wide_as_the_longest_row_are_a_leak(tmp_path: Path) -> None:
    spec = python_spec(tmp_path, "return np.repeat(x, int(x.sum()), axis=1)", "int32", width=-1)
    assert found_of(spec).leak


def test_a_model_that_takes_zeros_alone_is_not_known(tmp_path: Path) -> None:
    body = "assert not x.any(), 'only zeros, please'; return x"
    found = found_of(python_spec(tmp_path, body))
    assert not found.tested
    batching = rule_for(python_spec(tmp_path, body), found, "")
    assert batching.with_whom == "anyone"
    assert "only zeros, please" in batching.remarks[0]


def test_a_model_that_raises_at_loud_neighbours_is_no_leak(tmp_path: Path) -> None:
    body = "assert np.isfinite(x).all() and x.max() < 2, 'out of range'; return x"
    found = found_of(python_spec(tmp_path, body))
    assert (found.tested, found.leak) == (True, "")


@pytest.mark.parametrize(
    ("body", "setup"),
    [("return x + np.random.random()", "pass"), ("seen.append(1); return x + len(seen)", "seen = []")],
)
def test_random_numbers_and_state_are_told_from_neighbours(tmp_path: Path, body: str, setup: str) -> None:
    cast = body.replace("return ", "return np.float32(") + ")"
    found = found_of(python_spec(tmp_path, cast, setup=setup))
    assert not found.tested
    assert not found.leak
    batching = rule_for(python_spec(tmp_path, cast, setup=setup), found, "")
    assert batching.with_whom == "anyone"
    assert "random numbers" in batching.remarks[0]


def test_an_answer_that_follows_the_batch_size_runs_alone(tmp_path: Path) -> None:
    spec = python_spec(tmp_path, "return x / np.float32(len(x))")
    found = found_of(spec)
    assert (found.leak, found.gross) == ("", True)
    assert rule_for(spec, found, "").with_whom == "nobody"


def test_more_than_rounding_is_told_with_the_difference(tmp_path: Path) -> None:
    spec = python_spec(tmp_path, "return x * np.float32(1 + 1e-3 * len(x))")
    found = found_of(spec)
    assert (found.leak, found.beyond, found.gross) == ("", True, False)
    batching = rule_for(spec, found, "")
    assert batching.with_whom == "anyone"
    assert f"{found.alone:.3g}" in batching.remarks[0]


def test_a_model_that_writes_into_its_inputs_is_compared_on_what_was_sent(tmp_path: Path) -> None:
    found = found_of(python_spec(tmp_path, "x -= 10; return x"))
    assert (found.tested, found.leak) == (True, "")


# ---- what the server does with it


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize(("asked", "batches"), [("auto", [1, 1, 1]), ("principal", [2, 1]), ("anyone", [3])])
def test_the_key_says_who_shares_a_batch(tmp_path: Path, backend: str, asked: str, batches: list[int]) -> None:
    spec = load_spec(write_quantised(tmp_path, "m", backend, more=f'batch_with = "{asked}"'))
    harness = Harness(spec)
    rows = np.random.default_rng(5).random((3, 16), np.float32)
    requests = [harness.submit({"x": rows[n : n + 1]}, principal=n // 2) for n in range(3)]
    results = harness.run()
    assert sorted((result.batch_rows for result in results if not hasattr(result, "status")), reverse=True) == batches
    assert all(outputs_of(results, request)["y"].shape == (1, 4) for request in requests)
    assert harness.engine.batch_with == ("nobody" if asked == "auto" else asked)


def test_a_call_of_several_rows_is_one_call(tmp_path: Path) -> None:
    harness = Harness(load_spec(write_quantised(tmp_path, "m", "onnx")))
    rows = np.random.default_rng(5).random((5, 16), np.float32)
    first, second = harness.submit({"x": rows}), harness.submit({"x": rows * 1000})
    results = harness.run()
    lone = harness.infer({"x": rows})["y"]
    assert outputs_of(results, first)["y"].tobytes() == lone.tobytes()
    assert outputs_of(results, second)["y"].shape == (5, 4)


@pytest.mark.parametrize(
    ("backend", "known"), [("onnx", "DynamicQuantizeLinear"), ("torch", "quantized.dynamic"), ("script", "dynamic")]
)
def test_without_warm_up_the_parts_of_the_model_are_asked(tmp_path: Path, backend: str, known: str) -> None:
    if backend == "script":
        folder = model_folder(tmp_path, description("torchscript", more="warmup = false"))
        scope: dict[str, Any] = {}
        exec(TORCH, scope)
        script = torch.jit.trace(scope["build"](), torch.rand(2, 16))  # type: ignore[no-untyped-call]
        torch.jit.save(script, folder / "model.pt")
    else:
        folder = write_quantised(tmp_path, "m", backend, more="warmup = false")
    engine = Harness(load_spec(folder)).engine
    assert (engine.batch_with, engine.effective_max_batch) == ("nobody", 1)
    assert known in engine.remarks[0]


def test_without_warm_up_an_ordinary_model_is_batched_as_ever(tmp_path: Path) -> None:
    engine = Harness(torch_spec(tmp_path, "return self.b(self.a(x))", more="warmup = false")).engine
    assert (engine.batch_with, engine.effective_max_batch, engine.remarks) == ("anyone", 8, ())


def test_a_model_that_would_hold_up_the_start_is_not_compared(tmp_path: Path) -> None:
    """Zeros are quick and warm-up saw nothing of it; the first other values are not."""
    spec = python_spec(tmp_path, "return x - x.mean()")
    executor = Executor(spec, load_backend(spec))
    now = [0.0]

    def run(inputs: dict[str, Any]) -> Any:
        now[0] += 11.0
        return executor.answer(inputs)

    found = look(spec, run, 4, clock=lambda: now[0])
    assert (now, found.tested, found.leak) == ([11.0], False, "")
    assert "takes more than 10 s" in rule_for(spec, found, "").remarks[0]


@pytest.mark.parametrize("warmup", ["true", "false"])
def test_calls_without_a_batch_axis_share_a_batch_with_nobody(tmp_path: Path, warmup: str) -> None:
    toml = description("python").replace("max_batch = 8", f"max_batch = 0\nwarmup = {warmup}").replace("-1, ", "")
    source = 'def build():\n    return lambda inputs: {"y": inputs["x"][:4]}'
    engine = Harness(load_spec(model_folder(tmp_path, toml, source))).engine
    assert (engine.batch_with, engine.effective_max_batch, engine.remarks) == ("nobody", 1, ())


def test_comparing_takes_a_bounded_time(tmp_path: Path) -> None:
    """A model that is slow takes the first comparison and no more: base, again, two with a loud row, two alone."""
    body = "calls.append(len(x)); return x"
    spec = python_spec(tmp_path, body, setup="global calls; calls = []")
    backend = load_backend(spec)
    executor = Executor(spec, backend)
    look(spec, executor.answer, 2, seconds=-1.0)
    assert backend._model.__globals__["calls"] == [2, 2, 2, 2, 1, 1]  # type: ignore[attr-defined]
