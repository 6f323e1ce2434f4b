"""``tensorwire decode``: a captured conversation, one frame per line, so that a binary wire can be read."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import click

from ....protocol.capture import CapturedFrame, CaptureError, format_frame, read_frames
from ...errors import printable
from ..failures import Failure
from ..group import Command


@click.command(
    "decode",
    cls=Command,
    examples=(
        "tensorwire send echo --input x=random --capture call.twcap",
        "tensorwire decode call.twcap",
        "tensorwire serve models/ --capture server.twcap",
        "tensorwire decode server.twcap --stream 7",
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--stream", type=click.IntRange(0), help="Only frames of this stream; 0 is the connection itself.")
@click.option("--limit", type=click.IntRange(1), help="Stop after this many frames.")
def command(file: Path, stream: int | None, limit: int | None) -> None:
    """Print the frames of FILE, one per line.

    Each line has the time since the first frame in seconds, > for sent and < for received, the connection where it is
    known, the frame's type and every field that is set.
    """
    try:
        with file.open("rb") as capture:
            start = None
            frames = (frame for frame in read_frames(capture) if stream is None or _stream_of(frame) == stream)
            for frame in islice(frames, limit):
                start = frame.time_us if start is None else start
                click.echo(format_frame(frame, start))
    except CaptureError as error:
        raise Failure(f"{printable(str(file), 200)}: {error}") from error


def _stream_of(frame: CapturedFrame) -> int:
    return frame.header[4] if frame.header is not None else 0
