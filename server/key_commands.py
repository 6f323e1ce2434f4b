"""`tensorwire keys`: make, list, replace and revoke the keys of a key file, for the people who run a server.

What lives here: options, words and tables. What must not: what a key may say (key_file.py), how the file is changed
(key_edits.py). A secret is printed once, when it is made, and is never an argument: arguments are seen in `ps`.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import click

from ..protocol.safe_text import masked
from . import key_edits
from .key_file import (
    ACTIVE,
    SECRET_BYTES,
    Key,
    KeyFileError,
    check_models,
    check_principal,
    check_rate,
    read_keys,
    secret_text,
)

DAY = 86_400.0
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "": DAY}

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    short_help="Make, list, replace and revoke the keys of callers.",
)
def keys() -> None:
    """Make, list, replace and revoke the keys with which callers prove who they are.

    The keys of a server are in one file, which its owner alone may read; a running server notices every change of it
    within a second. FILE is $TENSORWIRE_KEYS, or else keys.toml in this folder.

    \b
    Examples:
      tensorwire keys new --principal bidder
      tensorwire serve models/ --keys keys.toml
      tensorwire keys list
    """  # noqa: D301 - click knows a paragraph not to be wrapped by a backspace


def _command(function: Decorated) -> Decorated:
    """Tell errors of the key file in one line, with the argument FILE."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (KeyFileError, ValueError) as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            where = f"{error.filename!r}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from None

    file = click.argument(
        "file", type=click.Path(path_type=Path, dir_okay=False), default="keys.toml", envvar="TENSORWIRE_KEYS"
    )
    made: Decorated = file(run)  # type: ignore[assignment]
    return made


_out = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the client's key to this new file (mode 0600) instead of printing it.",
)
_days = click.option("--days", type=float, help="The key ends after so many days. Default: it has no end.")


@keys.command()
@_command
@click.option("--principal", required=True, help="Who calls with the key: the name in logs, limits and fair queues.")
@click.option(
    "--models",
    multiple=True,
    metavar="PATTERN",
    help="A model that the key may see; * is any run of characters. May be given several times. Default: all.",
)
@_days
@click.option("--rate", type=float, help="Calls per second that the principal may make. Default: no limit.")
@_out
def new(
    file: Path, principal: str, models: tuple[str, ...], days: float | None, rate: float | None, out: Path | None
) -> None:
    """Make a key and add it to FILE, which is made if there is none.

    The client's key, ID:SECRET, is printed once and cannot be asked for again.

    \b
    Examples:
      tensorwire keys new --principal bidder
      tensorwire keys new --principal robot --models 'vision-*' --models grasp --days 90 keys.toml
      tensorwire keys new --principal robot --out robot.key
    """  # noqa: D301
    check_principal(principal)
    if rate is not None:
        check_rate(rate)
    own = [key for key in (read_keys(file) if file.exists() else ()) if key.principal == principal]
    if own:  # all keys of a principal say the same: what is not given is as before
        models, rate = models or own[0].models, own[0].rate if rate is None else rate
    key = _make(principal, models or ("*",), _until(days), rate)
    _add(file, key, out)
    _next_steps(file, out, key)


@keys.command("list")
@_command
def list_command(file: Path) -> None:
    """Show the keys of FILE and whether they are valid now; never their secrets.

    \b
    Examples:
      tensorwire keys list
      tensorwire keys list /etc/tensorwire/keys.toml
    """  # noqa: D301
    from rich import box
    from rich.console import Console
    from rich.table import Table

    found = read_keys(file)
    if not found:
        click.echo(masked(f"{file} has no key; make one with: tensorwire keys new --principal NAME {file}"))
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("id", "principal", "models", "calls/s", "valid (UTC)", "state"):
        whole = column not in {"principal", "models"}  # an id is there to be copied
        table.add_column(column, justify="right" if column == "calls/s" else "left", overflow="fold", no_wrap=whole)
    now = time.time()
    for key in found:
        rate = "-" if key.rate is None else f"{key.rate:g}"
        valid = f"from  {_shown(key.not_before)[:16]}\nuntil {_shown(key.not_after)[:16]}"
        table.add_row(key.id, key.principal, " ".join(key.models), rate, valid, _state(key, now))
    Console(highlight=False, emoji=False, markup=False).print(table)


@keys.command()
@click.argument("principal")
@_command
@click.option(
    "--grace", default="7d", show_default=True, help="How long the old key stays valid: 90s, 30m, 12h or 7d (days)."
)
@click.option("--days", type=float, help="The new key ends after so many days. Default: as long as the old one had.")
@_out
def rotate(principal: str, file: Path, grace: str, days: float | None, out: Path | None) -> None:
    """Give PRINCIPAL a second key, and the old one an end.

    Both are valid until then: hand the new key to the clients meanwhile, and no call fails.

    \b
    Examples:
      tensorwire keys rotate bidder
      tensorwire keys rotate bidder --grace 12h --out bidder.key keys.toml
    """  # noqa: D301
    now = _now()
    own = [key for key in read_keys(file) if key.principal == principal and now < key.not_after]
    if not own:
        raise KeyFileError(
            f"principal {principal!r} has no key that is valid; make one with: "
            f"tensorwire keys new --principal {principal} {file}"
        )
    if len(own) >= ACTIVE:
        ids = " and ".join(f"{key.id!r} until {_shown(key.not_after)}" for key in own)
        raise KeyFileError(
            f"principal {principal!r} has {len(own)} keys already, {ids}; wait, or end one with: tensorwire keys "
            f"revoke ID {file}"
        )
    old = own[0]
    end = min(old.not_after, float(int(now + _seconds(grace))))
    lasted = old.not_after - old.not_before
    until = _until(lasted / DAY if days is None and lasted < inf else days)
    key = _make(principal, old.models, until, old.rate)
    _add(file, key, out, ends={old.id: end})
    click.echo(f"Key {old.id} ends at {_shown(end)}.", err=True)
    _next_steps(file, out, key)


@keys.command()
@click.argument("key_id", metavar="ID")
@_command
def revoke(key_id: str, file: Path) -> None:
    """Take the key ID out of FILE. Servers that read it close the key's connections within a second.

    \b
    Examples:
      tensorwire keys revoke bidder-3f9c0a
    """  # noqa: D301
    key_edits.remove(file, key_id)
    where = masked(str(file))
    click.echo(f"Key {key_id} is gone from {where}; servers that use the file close its connections within a second.")


# ---- parts ----


def _now() -> float:
    return float(int(time.time()))  # the file has whole seconds


def _until(days: float | None) -> float:
    if days is None:
        return inf
    if not 1 / DAY <= days <= 36_500:
        raise ValueError(f"--days {days:g}: expected a number above 0 and at most 36500")
    return _now() + float(int(days * DAY))


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if match is None or float(match[1]) * UNITS[match[2]] > 36_500 * DAY:
        raise ValueError(f"--grace {text!r}: expected a time such as 90s, 30m, 12h or 7d")
    return float(match[1]) * UNITS[match[2]]


def _make(principal: str, models: tuple[str, ...], until: float, rate: float | None) -> Key:
    check_models(models)
    key_id = f"{re.sub('[^A-Za-z0-9._-]', '-', principal)[:57]}-{secrets.token_hex(3)}"
    return Key(key_id, secrets.token_bytes(SECRET_BYTES), principal, models, _now(), until, rate)


def _add(file: Path, key: Key, out: Path | None, ends: dict[str, float] | None = None) -> None:
    """Add the key to the file, and tell it to whoever asked: on standard output, or in a file of its own."""
    text = f"{key.id}:{secret_text(key.secret)}\n"
    if out is None:
        key_edits.add(file, key, ends=ends)
        click.echo(text, nl=False)
        return
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{str(out)!r} exists already; give --out the path of a new file") from None
    try:
        with os.fdopen(descriptor, "w") as client:
            client.write(text)
        key_edits.add(file, key, ends=ends)
    except BaseException:
        out.unlink()
        raise


def _next_steps(file: Path, out: Path | None, key: Key) -> None:
    """Say what to do now, for people: beside the key, so that a script reads the key alone."""
    where, use = "the line above", "TENSORWIRE_KEY=ID:SECRET in its environment, or tensorwire.connect(url, key=...)"
    if out is not None:
        where, use = (
            str(out),
            f"TENSORWIRE_KEY_FILE={out} in its environment, or tensorwire.connect(url, key=Path(...))",
        )
    scope = "every model" if key.models == ("*",) else ", ".join(key.models)
    click.echo(
        f"Key {key.id} for {key.principal} ({scope}) is in {file}. Give the client {where}, which is shown only now:\n"
        f"  {use}\n"
        f"Start the server with: tensorwire serve models/ --keys {file} (one that runs notices by itself)",
        err=True,
    )


def _shown(moment: float) -> str:
    return "-" if moment in {inf, -inf} else key_edits.moment_text(moment).replace("T", " ").replace("Z", " UTC")


def _state(key: Key, now: float) -> str:
    return "ended" if now >= key.not_after else "not yet" if now < key.not_before else "valid"
