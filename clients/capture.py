"""Recording what goes over a client's connections, for ``tensorwire decode``; the file is ``protocol.capture``'s."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path


class Recorder(ABC):
    """Where a link reports every byte; the times are of the monotonic clock."""

    @abstractmethod
    def received(self, data: memoryview, now: float) -> None:
        """Bytes came in."""

    @abstractmethod
    def sent(self, data: bytes | memoryview, now: float) -> None:
        """Bytes go out."""

    @abstractmethod
    def close(self) -> None:
        """The file is complete."""


def open_recorder(path: str | Path | None) -> Recorder | None:
    """A recorder into a new file at ``path``, None for None. Raises ``OSError``."""
    if path is None:
        return None
    raise NotImplementedError
