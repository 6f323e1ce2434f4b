"""Options and arguments that several commands share. Not here: what they do once they are parsed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ..errors import TensorwireError
from ..url import DEFAULT_URL, URL_VARIABLE

if TYPE_CHECKING:
    from ..aio import Client as AioClient
    from ..blocking import Client

COMPLETION_TIMEOUT = 1.0
"""Seconds that pressing Tab may wait for a server to name its models."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Time = click.ParamType[float]
else:
    _Time = click.ParamType  # older versions of click have no type argument

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class Seconds(_Time):
    """A time such as ``250ms``, ``1.5s``, ``2m`` or plain seconds: converted to seconds above 0."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Text to seconds."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|m)?", str(value).strip())
        seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
        if not 0 < seconds < math.inf:
            self.fail(
                f"{value!r} is no time, expected for example 250ms, 1.5s or 2m (plain numbers are seconds)", param, ctx
            )
        return seconds


SECONDS = Seconds()


@dataclass(frozen=True, slots=True)
class Server:
    """The server a command talks to, as its options say."""

    url: str
    key_file: Path | None = None
    """The caller's key; None for what the environment says."""

    def connect(self, **options: Any) -> Client:
        """Make a blocking client; ``options`` and errors as for ``tensorwire.connect``."""
        from ..blocking import connect

        return connect(self.url, key=self.key_file, **options)

    async def connect_aio(self) -> AioClient:
        """Make an asyncio client."""
        from ..aio import connect

        return await connect(self.url, key=self.key_file)


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--url`` and ``--key-file``; the command gets them as its argument ``server``."""

    @click.option(
        "--url",
        metavar="URL",
        default=DEFAULT_URL,
        envvar=URL_VARIABLE,
        show_envvar=True,
        show_default=True,
        help="The server: tw://HOST:PORT, tws://HOST:PORT for TLS, or tw+unix:///path/to.sock. tw:// may be "
        "left out. tw://KEYID@HOST:PORT says which key is meant.",
    )
    @click.option(
        "--key-file",
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="A file with your key, ID:SECRET, that you alone may read. Default: TENSORWIRE_KEY, which holds the key "
        "itself, else the file TENSORWIRE_KEY_FILE, else no key.",
    )
    @wraps(function)
    def with_server(*args: Any, url: str, key_file: Path | None, **options: Any) -> Any:
        context = click.get_current_context()
        before = context.find_root().params  # tensorwire --url URL send ...
        if before.get("url") and context.get_parameter_source("url") is not ParameterSource.COMMANDLINE:
            url = before["url"]
        if before.get("key_file") and key_file is None:
            key_file = Path(before["key_file"])
        return function(*args, server=Server(url, key_file), **options)

    return with_server


def model_argument(*, required: bool = True) -> Callable[[Decorated], Decorated]:
    """Add MODEL, completed in the shell with what the server has."""
    if required:
        return click.argument("model", shell_complete=_complete_model)
    return click.argument("model", default="", shell_complete=_complete_model)


def version_option(function: Decorated) -> Decorated:
    """Add ``--model-version``."""
    return click.option(
        "--model-version", metavar="VERSION", default="", help="The version to use. Default: the server's."
    )(function)


def json_option(function: Decorated) -> Decorated:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead of a table.")(function)


def _complete_model(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    server = Server(ctx.params.get("url") or DEFAULT_URL, ctx.params.get("key_file"))
    try:
        with server.connect(timeout=COMPLETION_TIMEOUT) as client:
            return sorted({entry.model for entry in client.models().models if entry.model.startswith(incomplete)})
    except TensorwireError:
        return []
