"""``tensorwire decode``: a captured conversation, one frame per line, so that a binary wire can be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO, cast

import click

from ....protocol.capture import CaptureError
from ....protocol.captured_handshake import SecretFor
from ....protocol.safe_text import printable
from ...keys import KEY_VARIABLE, parse_keys, read_key_file
from ..decoding.fields import Fields, fields_of
from ..decoding.rows import Rows
from ..decoding.text import line_of
from ..failures import ExitCode, Failure
from ..group import Command


@click.command(
    "decode",
    cls=Command,
    examples=(
        "tensorwire send echo --input x=random --capture call.twcap",
        "tensorwire decode call.twcap",
        "tcpdump -i lo -w session.pcap port 7411",
        "tensorwire decode session.pcap --connection 2 --stream 7",
        "tensorwire decode session.pcapng --json | jq 'select(.frame == \"END\")'",
        "tcpdump -i lo -U -w - port 7411 | tensorwire decode -",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--stream", type=click.IntRange(0), help="Only frames of this stream; 0 is the connection itself.")
@click.option("--connection", type=click.IntRange(1), metavar="N", help="Only the connection shown as #N.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Packets: only TCP connections of this port, also those that do not begin with tensorwire's preface."
    " Default: all that do, and all of port 7411.",
)
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="Client keys (ID:SECRET, one per line, mode 0600): proofs and tags made with them are checked. Default: the"
    " key in TENSORWIRE_KEY.",
)
@click.option("--limit", type=click.IntRange(1), help="Stop after this many frames.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def command(
    file: Path,
    stream: int | None,
    connection: int | None,
    port: int | None,
    key_file: Path | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Print the frames of FILE, one per line; - is standard input. Exit code 1 where there is none.

    FILE is a capture of ours (--capture), or packets as tcpdump, dumpcap and Wireshark write them (pcap, pcapng).

    Each line has the time since the first frame in seconds, the connection, > for client to server and < for server to
    client, the frame's type and every field that is set; what is wrong with a frame stands behind a !. The contents of
    tensors are never shown.

    Frames of a signed connection stand in records; each is shown behind its frames, with its tag, which is good, bad,
    or not checked: that takes the key and the whole handshake. A connection that was captured from the middle on, or
    with gaps, is read from the next whole record on, or the next frame that begins a packet where nothing is signed.
    Proofs and tags made over TLS cannot be checked: the server's certificate is in them, and not in the capture.
    """
    secret_for = _secret_for(key_file)
    try:
        with click.open_file(str(file), "rb") as capture:
            rows = Rows(cast("BinaryIO", capture), port, secret_for)
            start: int | None = None
            count = 0
            for row in rows:
                start = row.time_us if start is None else start
                if connection not in {None, row.connection}:
                    continue
                fields = fields_of(row)
                if stream is not None and not _concerns(fields, stream):
                    continue
                click.echo(json.dumps(fields) if as_json else line_of(fields, start))
                count += "frame" in fields
                if count == limit:
                    return
            for remark in rows.remarks:
                click.echo(f"{printable(file.name, 200)}: {remark}", err=True)
            if not count:
                if not rows.remarks:
                    click.echo(f"{printable(file.name, 200)}: no frame to show", err=True)
                raise click.exceptions.Exit(int(ExitCode.REMOTE))
    except CaptureError as error:
        raise Failure(f"{printable(str(file), 200)}: {error}") from error


def _secret_for(key_file: Path | None) -> SecretFor | None:
    """Secrets by key id, of the file or of the environment."""
    text, where = os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE
    if key_file is not None:
        text, where = read_key_file(str(key_file)), f"the key file {str(key_file)!r}"
    elif not text:
        return None
    secrets = {key.id.encode(): key.secret for key in parse_keys(text, where)}
    return secrets.get


def _concerns(fields: Fields, stream: int) -> bool:
    """Whether a row is a frame of this stream; the preface and notes are the connection's."""
    number: int = fields.get("stream", 0)
    return number == stream
