"""The command group: help that is fast and complete, errors of one line, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tensorwire.clients import errors
from tensorwire.clients.cli import group
from tensorwire.clients.cli.failures import EXIT_CODE_HELP, ExitCode, Failure, failure_of
from tensorwire.clients.cli.group import BUILT_IN, SERVER, cli
from tensorwire.protocol import Status


def run(*args: str, **env: str) -> Any:
    return CliRunner(env=env).invoke(cli, args, prog_name="tensorwire")


def plug(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    entries = {name: EntryPoint(name, value, group.ENTRY_POINT_GROUP) for name, value in values.items()}
    monkeypatch.setattr(group, "_plugged", lambda: entries)


def test_help_names_every_command_exit_code_and_an_example() -> None:
    shown = run("--help").output
    for name in (*BUILT_IN, *SERVER):
        assert f"\n  {name} " in shown
    for code, _ in EXIT_CODE_HELP:
        assert f"\n  {int(code)} " in shown
    assert "tensorwire send classifier --input x=@photo.jpg" in shown
    assert "_TENSORWIRE_COMPLETE=bash_source" in shown


@pytest.mark.parametrize("name", [*BUILT_IN])
def test_each_help_has_examples_and_fits_its_width(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"], prog_name="tensorwire", terminal_width=80)
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"tensorwire {name}" in result.output.partition("Examples:")[2]
    assert ("--key-file robot.key" in result.output) == (name != "decode")


@pytest.mark.parametrize("name", [*BUILT_IN])
def test_the_help_of_the_group_says_what_the_command_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name


def test_help_imports_neither_numpy_nor_a_command() -> None:
    script = (
        "import sys\n"
        "from tensorwire.clients.cli.group import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('numpy', 'rich', 'PIL', 'torch', 'pydantic', 'asyncio', 'flatbuffers')\n"
        "slow = [m for m in heavy if m in sys.modules]\n"
        "assert not slow, slow\n"
        "assert not [m for m in sys.modules if m.startswith('tensorwire.clients.cli.commands.')]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "src")}


# --- commands of others --------------------------------------------------------------------------------------------


def test_a_command_of_another_package_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, extra="click:Command")
    assert "extra" in cli.list_commands(click.Context(cli))


@pytest.mark.parametrize("name", [*SERVER])
def test_without_the_server_its_commands_name_the_extra(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for plugged in ({}, {name: "a_module_that_is_not_there:command"}):
        plug(monkeypatch, **plugged)
        result = run(name, "models/")
        assert result.exit_code == ExitCode.USAGE
        assert "pip install 'tensorwire[server]'" in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_plugged_command_that_does_not_load_is_named_and_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, broken="a_module_that_is_not_there:command")
    assert "cannot be loaded" in run("--help").output
    result = run("broken")
    assert result.exit_code == ExitCode.USAGE
    assert "a_module_that_is_not_there" in result.stderr


def test_a_command_of_ours_runs_without_asking_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> dict[str, EntryPoint]:
        raise AssertionError

    monkeypatch.setattr(group, "_plugged", asked)
    for name in BUILT_IN:
        assert run(name, "--help").exit_code == 0


def test_habits_of_other_programs_are_understood() -> None:
    assert run("-V").output == run("--version").output
    assert run("help").output == run("--help").output
    assert run("help", "send").output == run("send", "--help").output
    assert run("ls", "--help").exit_code == 0
    assert "did you mean 'send'" in run("help", "sned").stderr


def test_the_server_may_stand_before_the_command() -> None:
    first, second = "127.0.0.1:1", "127.0.0.1:2"
    for args, meant in [
        (["--url", first, "ping"], first),
        (["--url", first, "ls", "--url", second], second),
    ]:
        assert f"tw://{meant}" in run(*args, TENSORWIRE_URL="tw://127.0.0.1:3").stderr
    assert "the key file 'absent'" in run("--key-file", "absent", "ping").stderr


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sned"], "no command 'sned': did you mean 'send'?"),
        (["--nosuch"], "No such option"),
        (["send", "m"], "Missing option '--input'"),
        (["describe"], "Missing argument 'MODEL'"),
        (["send", "m", "--input", "x=1", "--deadline", "soon"], "'soon' is no time, expected for example 250ms"),
        (["send", "m", "--input", "x=1", "--output", "xml"], "'xml' is no output format"),
        (["send", "m", "--input", "nothing"], "expected NAME=@FILE"),
        (["send", "m", "--input", "x=1", "--url", "http://h"], "unknown scheme 'http'"),
        (["models", "--url", "tw://192.0.2.1"], "without a key"),
        (["bench", "m", "--rate", "0"], "--rate"),
        (["bench", "m", "--duration", "1s", "--requests", "1"], "exclude each other"),
        (["ping", "--count", "0"], "--count"),
        (["send", "m", "--input", "x=1", "--json", "-o", "npy"], "exclude each other"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(args: list[str], message: str) -> None:
    result = run(*args)
    assert result.exit_code == ExitCode.USAGE
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_nobody_listening_is_exit_code_3_and_says_what_to_do() -> None:
    for args in (["ping"], ["models"], ["health"], ["describe", "m"], ["send", "m", "--input", "x=1"], ["bench", "m"]):
        result = run(*args, TENSORWIRE_URL="tw://127.0.0.1:1")
        assert result.exit_code == ExitCode.NO_CONNECTION, result.output
        assert "tensorwire serve" in result.stderr
        assert "127.0.0.1:1" in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_server_is_to_be_started_only_where_nobody_listens() -> None:
    for why in ("the handshake failed: no common version", "name or service not known", "no answer in time"):
        assert "tensorwire serve" not in failure_of(errors.ConnectFailed(why)).message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.remote_error(Status.INTERNAL, "it broke", request_id="ab-1"), ExitCode.REMOTE),
        (errors.remote_error(Status.NOT_FOUND, "no model", request_id="ab-1"), ExitCode.REMOTE),
        (errors.remote_error(Status.DEADLINE_EXCEEDED, "", request_id="ab-1"), ExitCode.DEADLINE),
        (errors.LocalDeadlineExceeded("late"), ExitCode.DEADLINE),
        (errors.ConnectFailed("nobody"), ExitCode.NO_CONNECTION),
        (errors.AuthenticationError("who are you"), ExitCode.AUTHENTICATION),
        (errors.remote_error(Status.UNAUTHENTICATED, "revoked", request_id="ab-1"), ExitCode.AUTHENTICATION),
        (errors.ConnectionLost("gone"), ExitCode.LOST),
        (errors.BadReply("garbage"), ExitCode.LOST),
        (errors.InvalidURL("what"), ExitCode.USAGE),
        (errors.InvalidKey("what"), ExitCode.USAGE),
        (errors.InvalidInput("no"), ExitCode.USAGE),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_keeps_the_request_id(
    error: errors.TensorwireError, code: ExitCode
) -> None:
    failure = failure_of(error)
    assert failure.exit_code == code
    assert str(error) in failure.message


def test_a_missing_model_leads_to_the_list_of_models() -> None:
    assert "tensorwire models" in failure_of(errors.NotFound("no such model")).message


def test_an_error_is_one_line_without_control_characters_or_colours(capsys: pytest.CaptureFixture[str]) -> None:
    Failure("first\nsecond \x1b[31mred").show()
    shown = capsys.readouterr().err
    assert shown == "Error: first\\nsecond \\x1b[31mred\n"


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("models")
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(group.LazyGroup, "get_command", lambda *_: interrupted)
    assert run("models").exit_code == ExitCode.INTERRUPTED
