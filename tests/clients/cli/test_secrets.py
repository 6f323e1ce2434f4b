"""A key given in the place of anything else is not printed: no command and no error of the clients repeats it."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import tensorwire
from tensorwire.clients import aio
from tensorwire.clients.cli.group import cli

SECRET = "Zm9v-_" * 7 + "a"
KEY = f"robot:{SECRET}"
SHAPES = [KEY, f"tw://{KEY}@localhost:1", f"tw://localhost:1/{KEY}", f"/proc/nowhere/{KEY}", f"x={KEY}", f"x=@{KEY}"]


@pytest.fixture(autouse=True)
def _serve_leaves_by_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` ends its process without the interpreter's tear-down; this process is to live on."""
    monkeypatch.setattr(os, "_exit", sys.exit)


def commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found: list[tuple[tuple[str, ...], click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


def slips() -> list[list[str]]:
    """Every command with a key for each of its arguments, and for each of its options that take one."""
    made = []
    for path, command in commands(cli):
        needed = [KEY for parameter in command.params if isinstance(parameter, click.Argument)]
        made.append([*path, *needed])
        made += [
            [*path, *needed, parameter.opts[0], shape]
            for parameter in command.params
            if isinstance(parameter, click.Option) and not parameter.is_flag
            for shape in SHAPES
        ]
        made.append([*path, *needed, KEY, KEY])
        made.append([*path, f"--{KEY}"])
    return [*made, [KEY]]


def test_no_command_prints_a_key_given_for_something_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENSORWIRE_URL", "tw://127.0.0.1:1")
    told, bad = 0, []
    for arguments in slips():
        result = CliRunner().invoke(cli, arguments)
        if SECRET in result.output:
            bad.append((arguments, result.output))
        told += "***" in result.output
    assert not bad
    assert told > 10


@pytest.mark.parametrize("variable", ["TENSORWIRE_KEY_FILE", "TENSORWIRE_KEY", "TENSORWIRE_URL", "TENSORWIRE_KEYS"])
@pytest.mark.parametrize("value", [KEY, f"{KEY}x", f"tw://{KEY}@h", f"/proc/nowhere/{KEY}"])
def test_no_variable_of_the_environment_is_printed(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    for arguments in (["ping"], ["serve", "nowhere"], ["keys", "list"]):
        assert SECRET not in CliRunner().invoke(cli, arguments).output


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["url", "key", "path", "mac", "tls_ca", "tls_cert", "tls_key"])
def test_no_error_of_connect_holds_a_key(name: str, shape: str) -> None:
    url = shape if name == "url" else "tws://127.0.0.1:1"
    value = Path(shape) if name == "path" else shape
    options: dict[str, Any] = {} if name == "url" else {"key" if name == "path" else name: value}
    if name == "tls_cert":
        options["tls_key"] = shape
    for connect in (tensorwire.connect, lambda *args, **kwargs: asyncio.run(wait(*args, **kwargs))):
        with pytest.raises(tensorwire.clients.errors.TensorwireError) as caught:
            connect(url, timeout=1.0, **options)
        assert SECRET not in "".join(traceback.format_exception_only(caught.value))
        assert SECRET not in repr(caught.value)


async def wait(url: str, **options: Any) -> None:
    await aio.connect(url, **options)
