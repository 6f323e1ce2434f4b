"""What a row says, as named values: the one source of the lines for people and of ``--json``.

What lives here: header, extension, handshake entries, READY, tensor metadata, and what is wrong with them. What must
not: how it is shown, and the contents of any tensor. A value from a peer stays as it was; the output escapes it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from struct import Struct
from typing import Any

from ....codec import CodecError, Metadata, Ready, decode_metadata, resolve
from ....protocol import handshake
from ....protocol.capture_splitter import Piece, Record
from ....protocol.errors import ErrorCode, ProtocolError
from ....protocol.extension import (
    CLIENT_DATA,
    ITEM_NAMES,
    SERVER_DATA,
    SERVER_LAST,
    Extension,
    parse_extension,
)
from ....protocol.frame_rules import BASE_RULES
from ....protocol.header import DATA, END, END_STREAM, MORE, OPEN, Flag, FrameType, Header, type_name
from ....protocol.limits import NO_NEW_STREAMS, PREFACE
from ....protocol.signing import PROOF_SIZE
from ....protocol.status import Status
from .connections import CLIENT, SERVER, Row

Fields = dict[str, Any]

_T = FrameType
_HANDSHAKE = {_T.HELLO, _T.WELCOME, _T.AUTH}
_SENDERS: dict[int, str] = {
    _T.HELLO: CLIENT, _T.AUTH: CLIENT, _T.OPEN: CLIENT, _T.CANCEL: CLIENT,
    _T.WELCOME: SERVER, _T.READY: SERVER, _T.END: SERVER, _T.GOAWAY: SERVER,
}  # fmt: skip
TIMING_NAMES = ("receive", "queue", "batch_wait", "copy_in", "compute", "copy_out", "server_total")
_cached_metadata = lru_cache(256)(decode_metadata)


def fields_of(row: Row) -> Fields:
    """Return the values of a row by name, in the order shown; sizes in bytes, times in microseconds."""
    fields: Fields = {"time_us": row.time_us}
    if row.packet:
        fields["packet"] = row.packet
    fields["connection"] = row.connection
    fields["sender"] = row.sender
    piece = row.piece
    if piece is None:
        fields["note"] = row.note
    elif piece.record is not None:
        _add_record(fields, piece, piece.record)
    elif piece.header is None:
        _add_bytes(fields, piece)
    else:
        problems = [piece.problem] if piece.problem else []
        _add_header(fields, piece.header)
        if piece.check:
            fields["proof_check"] = piece.check
        if not piece.cut or piece.ext or piece.meta or piece.body:
            _add_content(fields, piece, piece.header, problems)
        problems += _misplaced(piece.header, row.sender)
        if piece.missing:
            fields["missing"] = piece.missing
        if problems:
            fields["problems"] = problems
    return fields


def _add_record(fields: Fields, piece: Piece, record: Record) -> None:
    """Describe a record, behind its frames: number in its direction, bytes of frames, tag, what is known of it."""
    if record.number is not None:
        fields["record"] = record.number
    fields.update(length=record.nbytes, tag=piece.body.hex(), tag_check=piece.check)
    if piece.problem:
        fields["problems"] = [piece.problem]


def _misplaced(header: Header, sender: str) -> list[str]:
    """Return what the sender may not send, or not so (SPEC 6.1, 6.5)."""
    kind, flags, aux = header[1], header[3], header[6]
    expected = _SENDERS.get(kind)
    if expected and sender and sender != expected:
        return [f"PROTOCOL: {type_name(kind)} from the {sender}"]
    if kind == END and aux > Status.UNAUTHENTICATED:
        return [f"FRAME: status {aux} is none of 0 to 16"]
    if kind == END and flags and aux == Status.OK:
        return ["FRAME: NOT_STARTED beside OK"]
    return []


def _add_bytes(fields: Fields, piece: Piece) -> None:
    if piece.body == PREFACE and not piece.problem:
        fields["frame"] = "PREFACE"
        return
    fields["note"] = piece.problem
    if piece.body:
        fields["bytes"] = piece.body.hex()


def _add_header(fields: Fields, header: Header) -> None:
    length, kind, priority, flags, stream_id, seq, aux, meta_len, ext_len, reserved = header
    fields.update(frame=type_name(kind), type=kind, stream=stream_id, seq=seq, priority=priority)
    fields["flags"] = [flag.name for flag in Flag if flags & flag]
    unknown = flags & ~sum(Flag)
    if unknown:
        fields["flags"].append(f"0x{unknown:x}")
    if kind == END:
        fields["status"] = Status(aux).name if aux in set(Status) else str(aux)
    elif kind in {_T.CLOSE, _T.GOAWAY}:
        fields["code"] = ErrorCode(aux).name if aux in set(ErrorCode) else str(aux)
    elif kind == OPEN:
        fields["deadline_us"] = aux
    elif aux:
        fields["aux"] = aux
    if kind == _T.GOAWAY and stream_id == NO_NEW_STREAMS:
        fields["last_stream"] = "all"
    fields.update(length=length, ext_len=ext_len, meta_len=meta_len, body_len=length - ext_len - meta_len)
    if reserved:
        fields["reserved"] = reserved


def _add_content(fields: Fields, piece: Piece, header: Header, problems: list[str]) -> None:
    kind = header[1]
    extension = _add_extension(fields, piece, header, problems)
    if kind in _HANDSHAKE:
        _add_entries(fields, kind, piece.meta, problems)
    elif kind == _T.READY:
        _add_ready(fields, piece.meta, problems)
    elif kind in {END, _T.CLOSE, _T.GOAWAY}:
        if piece.meta:
            fields["detail"] = piece.meta.decode("utf-8", "backslashreplace")
    elif kind in {OPEN, DATA}:
        if piece.meta:
            _add_tensors(fields, piece.meta, extension, problems)
    elif kind in {_T.PING, _T.PONG}:
        fields["payload"] = piece.body[:8].hex()


# ---- extension ----


def _place(header: Header, sender: str) -> int | None:
    """Which of the rows of `BASE_RULES.items` holds for this frame; None if the sender is not known."""
    kind = header[1]
    if kind != DATA:
        return kind if kind in BASE_RULES.items else None
    if not sender:
        return None
    return CLIENT_DATA if sender == CLIENT else SERVER_LAST if header[3] & END_STREAM else SERVER_DATA


def _add_extension(fields: Fields, piece: Piece, header: Header, problems: list[str]) -> Extension | None:
    if not piece.ext:
        return None
    try:
        items = parse_extension(piece.ext)
    except ProtocolError as error:
        problems.append(f"{error.code.name}: {error.message}")
        return None
    place = _place(header, fields["sender"])
    if place is not None and items.types - BASE_RULES.items[place]:
        stray = ", ".join(ITEM_NAMES[kind] for kind in sorted(items.types - BASE_RULES.items[place]))
        problems.append(f"EXTENSION: {stray} may not stand here")
    if header[1] in {OPEN, DATA} and bool(header[3] & MORE) != (items.body_length is not None):
        problems.append("EXTENSION: BODY_LENGTH and MORE belong together")
    fields.update(_items(items))
    return items


def _items(items: Extension) -> Fields:
    """Return the items that are there."""
    found: Fields = {}
    if items.dims:
        found["dims"] = list(Struct(f"<{len(items.dims) // 8}Q").unpack(items.dims))
    if items.body_length is not None:
        found["body_length"] = items.body_length
    if items.idempotency_key:
        found["idempotency_key"] = items.idempotency_key.hex()
    if items.session is not None:
        found["session"] = {"id": items.session[0].hex(), "state_seq": items.session[1]}
    if items.trace:
        found["trace"] = items.trace.hex()
    if items.timing is not None:
        found["timing_us"] = dict(zip(TIMING_NAMES, items.timing, strict=True))
    if items.retry_after is not None:
        found["retry_after_us"] = items.retry_after
    if items.queue_estimate is not None:
        found["queue_estimate_us"] = items.queue_estimate
    return found


# ---- metadata ----


def _add_entries(fields: Fields, kind: int, meta: bytes, problems: list[str]) -> None:
    try:
        if kind == _T.HELLO:
            hello = handshake.parse_hello(meta)
            fields.update(versions=[hello.version_min, hello.version_max], draft=hello.draft)
            fields.update(features=list(hello.features), required=list(hello.features_required))
            fields.update(macs=[handshake.MAC_NAMES.get(mac, str(mac)) for mac in hello.macs])
            if hello.key_id:
                fields["key_id"] = hello.key_id.hex()
            fields.update(chunk=hello.limits.chunk, max_message=hello.limits.max_message, agent=hello.agent)
        elif kind == _T.WELCOME:
            welcome = handshake.parse_welcome(meta)
            fields.update(version=welcome.version, draft=welcome.draft, features=list(welcome.features))
            fields.update(mac=handshake.MAC_NAMES.get(welcome.mac, str(welcome.mac)), chunk=welcome.limits.chunk)
            fields.update(max_streams=welcome.limits.max_streams, max_message=welcome.limits.max_message)
            fields.update(connection_id=welcome.connection_id.hex(), boot_id=welcome.boot_id.hex(), agent=welcome.agent)
            if welcome.proof:
                fields["proof"] = welcome.proof.hex()
        elif meta:
            entries = handshake.parse_entries(meta)
            fields["entries"] = sorted(entries)
            if handshake.PROOF in entries:
                fields["proof"] = entries[handshake.PROOF].hex()
                if len(entries[handshake.PROOF]) != PROOF_SIZE:
                    problems.append(f"HANDSHAKE: PROOF of {len(entries[handshake.PROOF])} bytes")
    except ProtocolError as error:
        problems.append(f"{error.code.name}: {error.message}")


def _add_ready(fields: Fields, meta: bytes, problems: list[str]) -> None:
    try:
        ready = Ready.unpack(meta)
    except CodecError as error:
        problems.append(f"HANDSHAKE: {error}")
        return
    fields.update(principal=ready.principal, models=list(ready.models))
    if ready.server_name or ready.server_version:
        fields["server"] = f"{ready.server_name} {ready.server_version}".strip()
    if ready.rate is not None:
        fields["rate"] = ready.rate if math.isfinite(ready.rate) else str(ready.rate)
    if ready.limits:
        fields["limits"] = dict(ready.limits)


def _add_tensors(fields: Fields, meta: bytes, extension: Extension | None, problems: list[str]) -> None:
    try:
        metadata: Metadata = _cached_metadata(meta)
    except CodecError as error:
        problems.append(f"INVALID_ARGUMENT: {error}")
        return
    fields["model"] = metadata.model
    if metadata.version:
        fields["model_version"] = metadata.version
    try:
        resolved = resolve(metadata, extension.dims if extension else b"")
    except CodecError as error:
        problems.append(f"INVALID_ARGUMENT: {error}")
        fields["tensors"] = [
            {
                "name": spec.name,
                "type": str(spec),
                "dtype": spec.dtype.name,
                "kind": spec.kind.name,
                "shape": list(spec.shape),
            }
            for spec in metadata.tensors
        ]
        return
    fields["tensors"] = [
        {
            "name": tensor.name,
            "type": str(tensor),
            "dtype": tensor.dtype.name,
            "kind": tensor.kind.name,
            "shape": list(tensor.shape),
            "bytes": tensor.nbytes + tensor.data_nbytes,
        }
        for tensor in resolved.tensors
    ]
    whole = extension.body_length if extension and extension.body_length is not None else fields["body_len"]
    if whole != resolved.body_length:
        problems.append(f"INVALID_ARGUMENT: a body of {whole} bytes; these tensors have {resolved.body_length}")


__all__ = ["TIMING_NAMES", "Fields", "fields_of"]
