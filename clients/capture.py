"""Recording what goes over a client's connections, for ``tensorwire decode``; the file is ``protocol.capture``'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .fork_guard import parents

if TYPE_CHECKING:
    from pathlib import Path

    from ..protocol.capture import CaptureWriter


def open_capture(path: str | Path | None) -> CaptureWriter | None:
    """Open a writer into a new file at ``path``, None for None. Raises ``OSError``."""
    if path is None:
        return None
    # Imported here: hardly any client records, and every one pays for its imports.
    from pathlib import Path

    from ..protocol.capture import CaptureWriter

    file = Path(path).open("wb")  # noqa: SIM115 - closed with the writer
    parents.add(file)  # what a child has of its buffer is the parent's to write
    return CaptureWriter(file)
