"""Whether tshark and ``tensorwire decode`` say the same of one file, frame by frame.

What lives here: both sides' values in one common form. What must not: any file.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from tensorwire.clients.cli.decoding.fields import fields_of
from tensorwire.clients.cli.decoding.rows import Rows
from tensorwire.protocol import ErrorCode, Flag, FrameType, Status

from .tshark import Shown, shown

Common = dict[str, Any]


def by_decode(raw: bytes, port: int | None = None) -> list[Common]:
    """The frames and prefaces, as decode reads them, by connection and packet."""
    found = []
    for row in Rows(io.BytesIO(raw), port):
        fields = fields_of(row)
        if row.piece is not None and row.piece.cut:
            continue  # tshark shows nothing of what never became whole
        if "tag" in fields:
            tag, checked = fields["tag"], fields["tag_check"]
            found.append({"packet": fields["packet"], "record": fields["length"], "tag": tag, "check": checked})
            continue
        if "frame" not in fields:
            continue
        common: Common = {"packet": fields["packet"], "frame": fields["frame"] == "PREFACE"}
        if fields["frame"] != "PREFACE":
            names = ("type", "stream", "seq", "priority", "length", "ext_len", "meta_len", "body_len", "sender")
            common |= {name: fields[name] for name in names}
            flags = (Flag[name] if not name.startswith("0x") else int(name, 16) for name in fields["flags"])
            common["flags"] = sum(int(flag) for flag in flags)
            common["status"], common["code"] = fields.get("status"), fields.get("code")
            common["deadline_us"] = fields.get("deadline_us")
            common["model"], common["model_version"] = fields.get("model", ""), fields.get("model_version", "")
            common["tensors"] = [
                (t["name"], t["dtype"], t["kind"], ",".join(map(str, t["shape"]))) for t in fields.get("tensors", [])
            ]
            common["agent"], common["principal"] = fields.get("agent", ""), fields.get("principal", "")
            common["proof"] = fields.get("proof", "")
            common["detail"], common["malformed"] = fields.get("detail", ""), bool(fields.get("problems"))
        found.append(_plain(common))
    return sorted(found, key=lambda common: int(common["packet"]))


def by_tshark(file: Path, *options: str) -> list[Common]:
    """The same, as tshark shows them."""
    kinds = {"type", "preface", "record.tag"}
    return [_common(item) for item in shown(file, *options) if kinds & set(item.values)]


def _common(item: Shown) -> Common:
    if "record.tag" in item.values:
        tag, checked = item.one("record.tag").replace(":", ""), item.one("record.check")
        return {"packet": item.packet, "record": int(item.one("record.length")), "tag": tag, "check": checked}
    common: Common = {"packet": item.packet, "frame": "preface" in item.values}
    if common["frame"]:
        return common
    for ours, theirs in (("type", "type"), ("stream", "stream_id"), ("seq", "seq"), ("priority", "priority")):
        common[ours] = int(item.one(theirs))
    for name in ("length", "ext_len", "meta_len", "body_len"):
        common[name] = int(item.one(name))
    common["sender"] = item.one("sender")
    common["flags"] = int(item.one("flags"), 16)
    status, code, deadline = item.one("status"), item.one("error_code"), item.one("deadline_us")
    common["status"] = _name(Status, status)
    common["code"] = _name(ErrorCode, code)
    common["deadline_us"] = int(deadline) if deadline else None
    common["model"], common["model_version"] = item.one("model"), item.one("model_version")
    columns = (item.values.get(f"tensor.{name}", []) for name in ("name", "dtype", "kind", "shape"))
    common["tensors"] = list(zip(*columns, strict=True))
    common["agent"], common["principal"] = item.one("agent"), item.one("principal")
    common["proof"] = item.one("proof").replace(":", "")
    common["detail"], common["malformed"] = item.one("detail"), bool(item.experts)
    return _plain(common)


def _plain(common: Common) -> Common:
    """Peers' texts as far as PDML keeps them; of a malformed handshake or metadata neither side need show more."""
    if common.get("type") == FrameType.READY:  # the types of its values are judged by decode alone
        common |= {"malformed": None, "principal": ""}
    if common.get("malformed"):
        common |= {"agent": "", "principal": "", "proof": "", "tensors": [], "model": "", "model_version": ""}
    for name in ("model", "model_version", "detail", "agent", "principal"):
        if name in common:
            common[name] = _text(common[name])
    if "tensors" in common:
        common["tensors"] = [tuple(map(_text, tensor)) for tensor in common["tensors"]]
    return common


def _text(text: str) -> str:
    """Escapes of either side as question marks."""
    return re.sub(r"(\\\\?(x[0-9a-f]{2}|[abefnrtv])|[^ -~]|\?)+", "?", text)


def _name(kind: Any, number: str) -> str | None:
    if not number:
        return None
    return kind(int(number)).name if int(number) in set(kind) else number


__all__ = ["by_decode", "by_tshark"]
