"""Changes of a key file: a key more, a key less, an earlier end. What a person wrote around them stays as it is.

What lives here: new text from old text, and putting it in the old one's place at once. What must not: what a key may
say (key_file.py), options and words for people (key_commands.py).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from .key_file import Key, KeyFileError, parse_keys, read_text, secret_text

HEAD: Final = """\
# Keys of a tensorwire server. Keep this file to yourself: whoever reads it can call in everybody's name.
# The server reads it again when it changes.
"""

_HEADER: Final = re.compile(r"^[ \t]*\[\[[ \t]*keys[ \t]*\]\]", re.MULTILINE)
_END: Final = re.compile(r"^[ \t]*not_after[ \t]*=.*\n?", re.MULTILINE)


def add(path: Path, key: Key, *, ends: dict[str, float] | None = None) -> None:
    """Put one key more in the file, which is made if there is none; `ends`: ids -> their new `not_after`, in seconds
    since 1970. Raises KeyFileError, and then nothing has changed.
    """

    def change(text: str, keys: tuple[Key, ...]) -> tuple[str, list[Key]]:
        for key_id, moment in (ends or {}).items():
            text = _with_end(text, _place(keys, key_id), moment)
        expected = [replace(old, not_after=(ends or {}).get(old.id, old.not_after)) for old in keys]
        return f"{text.rstrip()}\n\n{block(key)}", [*expected, key]

    _edit(path, change)


def remove(path: Path, key_id: str) -> None:
    """Take a key out of the file. Raises KeyFileError, and then nothing has changed."""

    def change(text: str, keys: tuple[Key, ...]) -> tuple[str, list[Key]]:
        begin, end = _span(text, _place(keys, key_id))
        return f"{text[:begin].rstrip()}\n\n{text[end:]}".rstrip() + "\n", [old for old in keys if old.id != key_id]

    _edit(path, change)


def block(key: Key) -> str:
    """Write the [[keys]] table of a key."""
    lines = [f"id = {json.dumps(key.id)}", f"secret = {json.dumps(secret_text(key.secret))}"]
    lines += [
        f"principal = {json.dumps(key.principal)}",
        f"models = {json.dumps(list(key.models), ensure_ascii=False)}",
    ]
    for name, moment in (("not_before", key.not_before), ("not_after", key.not_after)):
        if abs(moment) < inf:
            lines.append(f"{name} = {moment_text(moment)}")
    if key.rate is not None:
        lines.append(f"rate = {key.rate!r}")
    return "\n".join(["[[keys]]", *lines, ""])


def moment_text(moment: float) -> str:
    """Write seconds since 1970 as TOML has it, in UTC, to the second."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---- text ----


def _place(keys: tuple[Key, ...], key_id: str) -> int:
    for place, key in enumerate(keys):
        if key.id == key_id:
            return place
    known = ", ".join(key.id for key in keys) or "none"
    raise KeyFileError(f"there is no key {key_id!r}; the file has: {known}")


def _span(text: str, place: int) -> tuple[int, int]:
    """Find where the [[keys]] table number `place` stands, without comments below it: they may be the next one's."""
    starts = [match.start() for match in _HEADER.finditer(text)]
    if place >= len(starts):
        raise KeyFileError("the keys are not written as [[keys]] tables, one below the other: edit the file by hand")
    lines = text[starts[place] : starts[place + 1] if place + 1 < len(starts) else len(text)].splitlines(keepends=True)
    while lines[-1].strip().startswith("#") or not lines[-1].strip():
        lines.pop()
    return starts[place], starts[place] + sum(map(len, lines))


def _with_end(text: str, place: int, moment: float) -> str:
    begin, end = _span(text, place)
    table = _END.sub("", text[begin:end])
    header, newline, rest = table.partition("\n")
    return f"{text[:begin]}{header}{newline or chr(10)}not_after = {moment_text(moment)}\n{rest}{text[end:]}"


# ---- the file ----


def _edit(path: Path, change: Callable[[str, tuple[Key, ...]], tuple[str, list[Key]]]) -> None:
    path = path.resolve()  # the file behind a link is replaced, not the link
    with _alone(path.parent):
        text = read_text(path) if path.exists() else HEAD
        changed, expected = change(text, parse_keys(text, str(path)))
        if parse_keys(changed, str(path)) != tuple(expected):
            raise KeyFileError(f"{str(path)!r} is written in a way that cannot be changed safely: edit it by hand")
        put(path, changed)


def put(path: Path, text: str) -> None:
    """Write a file of mode 0600 in one step: whoever reads it sees the old one or the new one, whole."""
    with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False, encoding="utf-8") as file:
        # mode 0600 from its first moment: tempfile makes it so
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let nobody else change key files of this folder meanwhile, as far as they ask. Raises KeyFileError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeyFileError(f"folder {str(folder)!r} cannot be opened: {error.strerror}; make it first") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
