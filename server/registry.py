"""Which models are served: the folder `models/<name>/<version>/` read once, and names looked up in a dictionary.

A name from the wire is a dictionary key and nothing else; no path is ever made from it. Where a model runs is decided
by whoever makes the engines (app.py); what a call costs and means is the engine's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..codec.errors import shown
from .engine.api import BatchResult, Engine, Failure
from .engine.spec import ModelSpec, SpecError, load_spec
from .front.estimate import Estimate
from .front.metrics import ModelStats
from .front.replies import Replies

if TYPE_CHECKING:
    from .front.calls import Call

NAMES_SHOWN = 8
"""Model names that an error lists: enough to see a typing mistake, short enough for one line."""


class RegistryError(Exception):
    """The models folder cannot be served; the message says what to mend."""


class Served:
    """One version of one model with its engine, how its replies look, and what is counted about it."""

    __slots__ = ("engine", "estimate", "placement", "replies", "spec", "stats")

    def __init__(self, spec: ModelSpec, engine: Engine, placement: str, stats: ModelStats) -> None:
        self.spec = spec
        self.engine = engine
        self.placement = placement
        self.stats = stats
        self.estimate = Estimate()
        self.replies = Replies(spec.name, spec.version)

    @property
    def apart(self) -> bool:
        """Whether the model runs in a process of its own."""
        return self.placement == "process"

    def count(self, results: list[BatchResult | Failure], replied: list[Call], now: float) -> None:
        """Account for what the engine finished at `now` and the calls whose replies are on their way."""
        for result in results:
            if isinstance(result, BatchResult):
                self.stats.batch_done(result.batch_rows)
                self.estimate.batch_done(result.copied_out - result.planned, now)
        self.stats.replied(replied, now)


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts versions as people do: 10 after 9, 1.10 after 1.9, words after numbers."""
    parts = re.findall(r"\d+|[^\d.]+", version)
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)


def scan_models(folder: Path) -> list[ModelSpec]:
    """The specs of every `folder/<name>/<version>/model.toml`. Raises RegistryError naming each one that is wrong."""
    if not folder.is_dir():
        raise RegistryError(f"{str(folder)!r} is not a folder; expected models/<name>/<version>/model.toml in it")
    specs: list[ModelSpec] = []
    problems: list[str] = []
    for description in sorted(folder.glob("*/*/model.toml")):
        try:
            specs.append(load_spec(description.parent))
        except SpecError as error:
            problems.append(str(error))
    if problems:
        raise RegistryError("\n".join(problems))
    if not specs:
        raise RegistryError(f"there is no model in {str(folder)!r}; expected <name>/<version>/model.toml in it")
    return specs


def _everything(_name: str) -> bool:
    return True


class Registry:
    """Names to models. `on_change` is called whenever a name leads to another engine than before."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str], Served] = {}  # ("name", "") is the default version
        self._apart: list[Engine] = []
        self.on_change: Callable[[], None] = lambda: None

    def add(self, served: Served) -> None:
        """Serve one version; the newest of a name is its default."""
        spec = served.spec
        self._served[spec.name, spec.version] = served
        default = self._served.get((spec.name, ""))
        if default is None or version_key(spec.version) >= version_key(default.spec.version):
            self._served[spec.name, ""] = served
        if served.apart:
            self._apart.append(served.engine)
        self.on_change()

    def find(self, name: str, version: str = "", sees: Callable[[str], bool] = _everything) -> Served | None:
        """The model of this name and version ("" is the default), or None; also None if `sees` does not know the name,
        which is then not looked for.
        """
        return self._served.get((name, version)) if sees(name) else None

    def all(self, sees: Callable[[str], bool] = _everything) -> Iterator[Served]:
        """Every version of every model whose name is known to `sees`, by name and version."""
        keys = [key for key in self._served if key[1] and sees(key[0])]
        return iter([self._served[key] for key in sorted(keys, key=lambda key: (key[0], version_key(key[1])))])

    def works_apart(self) -> bool:
        """Whether calls are with engines in processes of their own, which may want this core."""
        return any(engine.busy for engine in self._apart)

    def default_version(self, name: str) -> str:
        """The version served where none is asked for."""
        return self._served[name, ""].spec.version

    def explain_missing(self, name: str, version: str, sees: Callable[[str], bool] = _everything) -> str:
        """What to tell a caller whose model is not here, or not for it: both read the same."""
        if version and sees(name) and (name, "") in self._served:
            served = ", ".join(key[1] for key in self._served if key[0] == name and key[1])
            return f"model {shown(name)} has no version {shown(version)}; served: {served}"
        names = sorted({key[0] for key in self._served if sees(key[0])})
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        return f"model {shown(name)} is not served; served: {', '.join(names[:NAMES_SHOWN]) or 'none'}{more}"
