"""What torch has saved in a file, told by what its archive holds.

What lives here: the three kinds of archive, in words that say how each is served. What must not: loading, torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["backend_of", "saved_by"]

_MEMBERS = {"torchscript": {"constants.pkl"}, "torch_export": {"archive_format", "serialized_exported_program.json"}}
_SAVED = {
    "torchscript": "what torch.jit.save writes",
    "torch_export": "what torch.export.save writes",
    "torch": "what torch.save writes, as the weights of a module",
}


def backend_of(path: Path) -> str:
    """Return the backend that serves what is saved there ("torch": as weights); "" if it is no archive of torch."""
    try:
        with ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
    except (BadZipFile, OSError):
        return ""
    found = [backend for backend, members in _MEMBERS.items() if names & members]
    return found[0] if found else "torch" if "data.pkl" in names else ""


def saved_by(path: Path) -> str:
    """Say by which function that was saved and how it is served; "" if it is no archive of torch."""
    backend = backend_of(path)
    return f'{_SAVED[backend]}: set backend = "{backend}"' if backend else ""
