"""`tensorwire check`: what is seen of real models that behave in each way, and the lines of model.toml that follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper

from tensorwire.server.check_commands import check
from tensorwire.server.check_report import Report, State
from tensorwire.server.checks import check_model
from tests.server.engine.helpers import ECHO, ECHO_TOML, model_folder
from tests.support.quantised import description, save_graph, write_quantised

STRINGS = """
backend = "python"
[[inputs]]
name = "text"
kind = "string"
shape = [-1]
[[outputs]]
name = "n"
dtype = "int64"
shape = [-1]
"""


def python_model(root: Path, body: str, toml: str = ECHO_TOML, setup: str = "pass") -> Path:
    source = f"""
    import numpy as np
    def build():
        {setup}
        def model(inputs):
            x = inputs.get("x")
            {body}
        return model
    """
    return model_folder(root, toml, source)


def states(report: Report) -> dict[str, str]:
    return {one.name: str(one.state) for one in report.checks}


def seen(report: Report, name: str) -> str:
    return next(one.seen for one in report.checks if one.name == name)


def lines(report: Report) -> list[tuple[str, str]]:
    return [(line.table, line.line) for line in report.lines if not line.line.startswith("engine")]


def test_a_model_that_keeps_to_the_rules_has_nothing_against_it(tmp_path: Path) -> None:
    report = check_model(python_model(tmp_path, "return x * 2"))
    assert states(report) == {
        "loads": "ok",
        "types and axes": "not tested",
        "runs": "ok",
        "memory per row": "ok",
        "batch sizes": "ok",
        "same call twice": "ok",
        "neighbours": "ok",
        "alone = batched": "ok",
        "input written": "ok",
        "output reused": "ok",
        "input kept": "ok",
    }
    assert not report.wrong
    assert sorted(report.seconds) == [1, 2, 4, 8, 16, 32]
    assert (report.row_bytes_in, report.row_bytes_out) == (64, 64)
    assert [line.line for line in report.lines] == ['engine = "inline"']


@pytest.mark.parametrize(
    ("body", "setup", "check_name"),
    [
        ("x -= 10; return x + 1", "pass", "input written"),
        ("out[: len(x)] = x; return out[: len(x)]", "out = np.zeros((32, 16), np.float32)", "output reused"),
        ("kept[:] = [x]; return x * 2", "kept = []", "input kept"),
        ("kept.append(x[0, :2]); return x * 2", "kept = []", "input kept"),
        ("kept.append(inputs); return x * 2", "kept = []", "input kept"),
        ("return x + np.float32(np.random.random())", "pass", "same call twice"),
    ],
)
def test_each_habit_is_noted_and_no_other(tmp_path: Path, body: str, setup: str, check_name: str) -> None:
    report = check_model(python_model(tmp_path, body, setup=setup))
    noted = {name for name, state in states(report).items() if state == "note"}
    if check_name == "same call twice":
        assert states(report)["neighbours"] == "not tested"
    assert noted == {check_name}
    assert not report.wrong


@pytest.mark.parametrize("body", ["return x", "return x[:, ::-1]"])
def test_outputs_in_the_memory_of_inputs_are_nothing_to_note(tmp_path: Path, body: str) -> None:
    assert {str(one.state) for one in check_model(python_model(tmp_path, body)).checks} == {"ok", "not tested"}


def test_a_torch_module_is_looked_at_in_the_same_way(tmp_path: Path) -> None:
    source = """
    import torch
    class M(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("out", torch.zeros(32, 16))
        def forward(self, x):
            self.last = x
            o = self.out[: x.shape[0]]
            torch.mul(x, 2, out=o)
            x.zero_()
            return o
    def build():
        return M()
    """
    report = check_model(model_folder(tmp_path, ECHO_TOML.replace('"python"', '"torch"'), source))
    noted = {name for name, state in states(report).items() if state == "note"}
    assert noted == {"input written", "output reused", "input kept"}


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_rows_that_change_each_other_get_the_key(tmp_path: Path, backend: str) -> None:
    report = check_model(write_quantised(tmp_path, "m", backend, "auto"))
    assert states(report)["neighbours"] == "note"
    assert ("", 'batch_with = "nobody"') in lines(report)
    assert not report.wrong, "the server copes with it"


def test_rows_that_change_each_other_and_are_batched_on_purpose_are_wrong(tmp_path: Path) -> None:
    report = check_model(write_quantised(tmp_path, "m", "onnx", more='batch_with = "anyone"'))
    assert states(report)["neighbours"] == "wrong"


def test_an_answer_that_follows_the_batch_size_is_told_with_its_difference(tmp_path: Path) -> None:
    report = check_model(python_model(tmp_path, "return x / np.float32(len(x))"))
    assert states(report)["alone = batched"] == "note"
    assert "far more than rounding" in seen(report, "alone = batched")
    assert ("", 'batch_with = "nobody"') in lines(report)


# ---- types and axes


def save_onnx(folder: Path, shape: list[Any], dtype: int = TensorProto.FLOAT) -> None:
    graph = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )


ONNX_TOML = ECHO_TOML.replace('"python"', '"onnx"')


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        (["n", 16], TensorProto.FLOAT, []),
        (["n", "m"], TensorProto.FLOAT, []),  # model.toml may promise less
        (["n", 16], TensorProto.DOUBLE, [("inputs.x", 'dtype = "float64"'), ("outputs.y", 'dtype = "float64"')]),
        (["n", 12], TensorProto.FLOAT, [("inputs.x", "shape = [-1, 12]"), ("outputs.y", "shape = [-1, 12]")]),
        (["n", 16, 1], TensorProto.FLOAT, [("inputs.x", "shape = [-1, 16, 1]"), ("outputs.y", "shape = [-1, 16, 1]")]),
        ([1, 16], TensorProto.FLOAT, [("", "max_batch = 1")]),
        ([4, 16], TensorProto.FLOAT, [("", "max_batch = 0"), ("inputs.x", "shape = [4, 16]")]),
    ],
)
def test_a_graph_is_held_against_model_toml(tmp_path: Path, shape: list[Any], dtype: int, expected: list[Any]) -> None:
    folder = model_folder(tmp_path, ONNX_TOML)
    save_onnx(folder, shape, dtype)
    report = check_model(folder)
    assert states(report)["types and axes"] == ("wrong" if expected else "ok")
    assert lines(report) == expected


def test_an_exported_program_knows_its_inputs(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, ECHO_TOML.replace('"python"', '"torch_export"'))
    program = torch.export.export(torch.nn.ReLU(), (torch.rand(1, 16),))
    torch.export.save(program, folder / "model.pt2")
    report = check_model(folder)
    assert states(report)["types and axes"] == "wrong"
    assert ("", "max_batch = 1") in lines(report)


def test_a_static_graph_is_equal_alone_and_batched_to_the_bit(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, description("onnx", "auto"))
    save_graph(folder, "not")
    report = check_model(folder)
    assert {str(one.state) for one in report.checks} == {"ok"}
    assert seen(report, "alone = batched") == "the same bits"


# ---- free axes, warm-up, calls that run alone

FREE = ECHO_TOML.replace("[-1, 16]", "[-1, -1]")


def test_free_axes_are_tried(tmp_path: Path) -> None:
    report = check_model(python_model(tmp_path, "return x", FREE))
    assert states(report)["free axes"] == "ok"
    body = "assert x.shape[1] > 2, 'too short'; return x"
    report = check_model(python_model(tmp_path, body, FREE))
    assert states(report)["free axes"] == "note"
    assert "not with 1," in seen(report, "free axes")
    assert "too short" in seen(report, "free axes")


def test_sizes_for_warm_up_are_found(tmp_path: Path) -> None:
    report = check_model(python_model(tmp_path, "assert x.shape[1] >= 64, 'too short'; return x", FREE))
    assert states(report)["warm-up sizes"] == "wrong", "the server would not start"
    assert ("inputs.x", "warmup_shape = [64]") in lines(report)
    assert states(report)["neighbours"] == "ok", "the others are checked with these"


def test_calls_that_run_alone_are_checked_too(tmp_path: Path) -> None:
    source = """
    import numpy as np
    def build():
        return lambda inputs: {"n": np.array([len(t) for t in inputs["text"]])}
    """
    report = check_model(model_folder(tmp_path, STRINGS, source))
    assert not report.wrong
    assert states(report)["same call twice"] == "ok"
    assert "every call runs alone" in seen(report, "batch sizes")
    assert states(report)["free axes"] == "ok"


def test_ragged_inputs_are_checked_too(tmp_path: Path) -> None:
    toml = STRINGS.replace('kind = "string"', 'kind = "ragged"\ndtype = "float32"').replace("[-1]", "[-1, -1]", 1)
    source = """
    kept = []
    def build():
        def model(inputs):
            kept.append(inputs["text"].values)
            return {"n": inputs["text"].offsets[1:] * 1}
        return model
    """
    report = check_model(model_folder(tmp_path, toml, source))
    assert not report.wrong
    assert {name for name, state in states(report).items() if state == "note"} == {"input kept"}


@pytest.mark.parametrize(
    ("toml", "source", "name", "words"),
    [
        (ECHO_TOML + "[nonsense]\n", ECHO, "model.toml", "nonsense"),
        (ECHO_TOML, "raise KeyError('k')", "loads", "KeyError"),
        (ECHO_TOML, ECHO.replace('inputs["x"]', "1 / 0"), "runs", "ZeroDivisionError"),
        (ECHO_TOML, ECHO.replace('inputs["x"]', "exit(3)"), "runs", "SystemExit"),
        (ECHO_TOML, ECHO.replace('"y"', '"z"'), "runs", "expected 'y'"),
        (ECHO_TOML, ECHO.replace('inputs["x"]', 'inputs["x"][:, :3]'), "runs", "float32[1, 3]"),
        (ECHO_TOML, ECHO.replace('inputs["x"]', 'inputs["x"][:2]'), "4 rows", "float32[2, 16]"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_raised(
    tmp_path: Path, toml: str, source: str, name: str, words: str
) -> None:
    report = check_model(model_folder(tmp_path, toml.replace("max_batch = 32", "max_batch = 4"), source))
    assert report.wrong
    assert states(report)[name] == "wrong"
    assert words in seen(report, name)


def test_a_model_that_is_served_without_warm_up_may_refuse_inputs_of_the_check(tmp_path: Path) -> None:
    body = "if x.max() < 16000: raise ValueError('rate')\n            return x"
    warm = check_model(python_model(tmp_path / "warm", body))
    cold = check_model(
        python_model(tmp_path / "cold", body, ECHO_TOML.replace("[[inputs]]", "warmup = false\n[[inputs]]"))
    )
    assert (states(warm)["runs"], warm.wrong) == (State.WRONG, True)  # the server would not start with it
    assert (states(cold)["runs"], cold.wrong) == (State.NOTE, False)
    assert "warmup = false" in seen(cold, "runs")
    assert "rate" in seen(cold, "runs")


def test_a_model_that_takes_zeros_only_is_not_called_independent(tmp_path: Path) -> None:
    report = check_model(python_model(tmp_path, "assert not x.any(), 'zeros, please'; return x"))
    assert states(report)["runs"] == "note"
    assert states(report)["neighbours"] == "not tested"


# ---- the command


def test_the_command_prints_a_table_and_the_lines_of_each_model(tmp_path: Path) -> None:
    write_quantised(tmp_path, "loud", "onnx", "auto")
    python_model(tmp_path, "print('hello'); return x * 2")
    steps = CliRunner().invoke(check, [str(tmp_path)])
    assert steps.exit_code == 0, steps.output
    assert "loud/1" in steps.stdout
    assert "m/1" in steps.stdout
    assert 'batch_with = "nobody"  # rows of a batch' in steps.stdout
    assert "hello" not in steps.stdout


def test_the_command_is_machine_readable_and_its_exit_code_tells(tmp_path: Path) -> None:
    fine = python_model(tmp_path / "fine", "print('hello'); return x * 2")
    bad = model_folder(tmp_path / "bad", ECHO_TOML, "raise KeyError('k')", name="b")
    result = CliRunner().invoke(check, [str(fine), "--json"])
    (about,) = json.loads(result.stdout)
    assert (result.exit_code, about["wrong"], about["row_bytes"]["in"]) == (0, False, 64)
    assert about["seconds"]["1"] > 0
    result = CliRunner().invoke(check, [str(bad.parent), "--json"])
    (about,) = json.loads(result.stdout)
    assert (result.exit_code, about["wrong"]) == (1, True)
    assert about["checks"] == [{"check": "loads", "state": State.WRONG, "seen": "loading failed: KeyError: 'k'"}]


def test_links_keep_their_names_and_may_be_allowed_to_lead_elsewhere(tmp_path: Path) -> None:
    stored = model_folder(tmp_path / "store", ECHO_TOML, name="artifact", version="9f3a")
    (tmp_path / "blob").write_text(ECHO)
    (stored / "model.py").symlink_to(tmp_path / "blob")
    (tmp_path / "prod").mkdir()
    (tmp_path / "prod" / "1").symlink_to(stored)
    refused, allowed = (
        json.loads(CliRunner().invoke(check, [str(tmp_path / "prod" / "1"), "--json", *more]).stdout)[0]
        for more in ([], ["--link-roots", str(tmp_path)])
    )
    assert (refused["model"], refused["version"], refused["wrong"]) == ("prod", "1", True)
    assert "--link-roots" in refused["checks"][0]["seen"]
    assert (allowed["model"], allowed["version"], allowed["wrong"]) == ("prod", "1", False)


def test_the_command_says_where_it_looked(tmp_path: Path) -> None:
    result = CliRunner().invoke(check, [str(tmp_path)])
    assert result.exit_code == 1
    assert "there is no model.toml" in result.output


def test_a_models_words_cannot_steer_the_terminal(tmp_path: Path) -> None:
    folder = python_model(tmp_path, "raise ValueError('\\x1b[31mred')")
    result = CliRunner().invoke(check, [str(folder)])
    assert result.exit_code == 1
    assert "\x1b" not in result.output
