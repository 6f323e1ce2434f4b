"""The values of a row as one line for people: printable ASCII, short whatever a peer has sent.

What lives here: order, abbreviation and escaping. What must not: looking at bytes, or at anything but the values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from .connections import CLIENT, SERVER
from .fields import Fields

MAX_LINE = 1000
"""Characters of a line, the note that it goes on included."""
_MAX_TEXT = 200  # characters of one text of a peer, or of a problem
_MAX_ITEMS = 16  # of a list
_PLAIN = re.compile(r"[\w$./+-]{1,64}", re.ASCII)
_ARROWS = {CLIENT: ">", SERVER: "<"}
# Shown by their own rules, or for programs alone.
_SPECIAL = {
    "time_us", "packet", "connection", "sender", "frame", "type", "stream", "last_stream", "seq", "priority", "flags",
    "aux", "deadline_us", "length", "ext_len", "meta_len", "body_len", "tensors", "model", "model_version", "detail",
    "problems", "note", "bytes", "timing_us", "missing", "reserved", "payload", "dims",
}  # fmt: skip


def line_of(fields: Fields, start_us: int = 0) -> str:
    """Seconds since `start_us`, connection, direction (> client to server, < server to client), and what is set."""
    time = max(fields["time_us"] - start_us, 0) / 1e6
    lead = f"{time:12.6f} #{fields['connection']} {_ARROWS.get(fields['sender'], '-')}"
    content = _record(fields) if "tag" in fields else _content(fields) if "frame" in fields else _note(fields)
    line = " ".join([lead, *content])
    return line if len(line) <= MAX_LINE else line[: MAX_LINE - 3] + "..."


def quoted(text: str, limit: int = _MAX_TEXT) -> str:
    """Quote a peer's text, in ASCII, control characters escaped, capped."""
    return ascii(text[:limit]) + ("..." if len(text) > limit else "")


def _name(text: str) -> str:
    """Return a name as it is where it is plain, else in quotes."""
    return text if _PLAIN.fullmatch(text) else quoted(text, 64)


def _note(fields: Fields) -> Iterator[str]:
    yield fields["note"][:_MAX_TEXT]
    if "bytes" in fields:
        yield ascii(bytes.fromhex(fields["bytes"]))[1:]


def _record(fields: Fields) -> Iterator[str]:
    number = f" {fields['record']}" if "record" in fields else ""
    yield f"RECORD{number} length={fields['length']} tag={fields['tag']} {fields['tag_check']}"
    for problem in fields.get("problems", []):
        yield f"! {problem[:_MAX_TEXT]}"


def _content(fields: Fields) -> Iterator[str]:
    yield fields["frame"]
    if fields["frame"] == "PREFACE":
        return
    yield from _header(fields)
    if "dims" in fields and "tensors" not in fields:
        yield f"dims={_joined(fields['dims'])}"
    if "model" in fields:
        version = f"@{_name(fields['model_version'])}" if "model_version" in fields else ""
        yield f"{_name(fields['model'])}{version}"
    tensors = fields.get("tensors", [])
    for tensor in tensors[:_MAX_ITEMS]:
        yield f"{_name(tensor['name'])}:{tensor['type'].replace(', ', ',')}"
    if len(tensors) > _MAX_ITEMS:
        yield f"and {len(tensors) - _MAX_ITEMS} tensors more"
    for key, value in fields.items():
        if key not in _SPECIAL:
            yield f"{key}={_value(value)}"
    if "timing_us" in fields:
        yield "timing=" + ",".join(f"{name}:{value}us" for name, value in fields["timing_us"].items())
    if "detail" in fields:
        yield quoted(fields["detail"])
    if "payload" in fields:
        yield f"payload={fields['payload']}"
    elif fields["body_len"]:
        yield f"body={fields['body_len']}"
    if "missing" in fields:
        yield f"({fields['missing']} bytes of the body were not captured)"
    for problem in fields.get("problems", []):
        yield f"! {problem[:_MAX_TEXT]}"


def _header(fields: Fields) -> Iterator[str]:
    """Header fields that are not zero."""
    if fields["stream"]:
        yield f"last={fields['last_stream']}" if "last_stream" in fields else f"stream={fields['stream']}"
    for key in ("seq", "priority"):
        if fields[key]:
            yield f"{key}={fields[key]}"
    if fields["flags"]:
        yield "+".join(fields["flags"])
    if fields.get("deadline_us"):
        yield f"deadline={fields['deadline_us']}us"
    for key in ("aux", "reserved"):
        if key in fields:
            yield f"{key}={fields[key]}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _name(value) if value else "''"
    if isinstance(value, dict):
        return "{" + _joined([f"{_name(str(key))}:{_value(item)}" for key, item in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return f"[{_joined([_value(item) for item in value[: _MAX_ITEMS + 1]])}]"
    return str(value)


def _joined(items: Sequence[Any]) -> str:
    return ",".join(map(str, items[:_MAX_ITEMS])) + (",..." if len(items) > _MAX_ITEMS else "")


__all__ = ["MAX_LINE", "line_of", "quoted"]
