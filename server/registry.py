"""Which models are served: names and versions looked up in a dictionary, and put in the place of others.

A name from the wire is a dictionary key and nothing else; no path is ever made from it. How a model comes to run is
model_loader.py's; what a call costs and means is the engine's.

A version is swapped under load by `replace`: whoever keeps what a name leads to hears of it by `on_change` and looks it
up anew. Calls that are open keep the model that they began with, and end there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..codec.errors import shown
from .engine.api import Engine
from .model import Model

NAMES_SHOWN = 8
"""Model names that an error lists: enough to see a typing mistake, short enough for one line."""


class RegistryError(Exception):
    """A model cannot be served beside, or in the place of, those that are; the message says why."""


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Sort versions as people do: 10 after 9, 1.10 after 1.9, words after numbers."""
    parts = re.findall(r"\d+|[^\d.]+", version)
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)


def _everything(_name: str) -> bool:
    return True


class Registry:
    """Names to models. `on_change` is called whenever a name leads to another model than before."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str], Model] = {}  # ("name", "") is the default version
        self._own_process: list[Engine] = []
        self.on_change: Callable[[], None] = lambda: None

    def add(self, model: Model) -> None:
        """Serve a version beside those that are; the newest of a name is its default.

        Raises RegistryError if the version is served: that takes `replace`.
        """
        spec = model.spec
        if (spec.name, spec.version) in self._served:
            raise RegistryError(f"model {spec.name!r} version {spec.version!r} is served; replace it instead")
        self._serve(model)

    def replace(self, model: Model) -> Model:
        """Serve `model` in the place of the model of its name and version, from the next call on.

        Returns the one that was there. Its open calls are still its own: unload it once they are over. Raises
        RegistryError if there is none.
        """
        spec = model.spec
        before = self._served.get((spec.name, spec.version))
        if before is None:
            raise RegistryError(f"model {spec.name!r} version {spec.version!r} is not served; add it instead")
        self._serve(model)
        return before

    def retire(self, model: Model) -> None:
        """Let no name lead to `model` any more; the newest version that is left becomes the default of its name."""
        name = model.spec.name
        del self._served[name, model.spec.version]
        if self._served[name, ""] is model:
            del self._served[name, ""]
            left = [key for key in self._served if key[0] == name]
            if left:
                self._served[name, ""] = self._served[max(left, key=lambda key: version_key(key[1]))]
        self._changed()

    def _serve(self, model: Model) -> None:
        spec = model.spec
        self._served[spec.name, spec.version] = model
        default = self._served.get((spec.name, ""))
        if default is None or version_key(spec.version) >= version_key(default.spec.version):
            self._served[spec.name, ""] = model
        self._changed()

    def _changed(self) -> None:
        self._own_process = [model.engine for model in self.all() if model.own_process]
        self.on_change()

    def find(self, name: str, version: str = "", sees: Callable[[str], bool] = _everything) -> Model | None:
        """Return the model of this name and version ("" is the default), or None.

        None, too, if `sees` does not know the name, which is then not looked for.
        """
        return self._served.get((name, version)) if sees(name) else None  # guard: model-scope

    def all(self, sees: Callable[[str], bool] = _everything) -> Iterator[Model]:
        """Return every version of every model whose name is known to `sees`, by name and version."""
        keys = [key for key in self._served if key[1] and sees(key[0])]  # guard: models-listed
        return iter([self._served[key] for key in sorted(keys, key=lambda key: (key[0], version_key(key[1])))])

    def current(self, model: Model) -> Model:
        """Return the model that is served now by the name and version of `model`; itself if there is none."""
        return self._served.get((model.spec.name, model.spec.version), model)

    def works_apart(self) -> bool:
        """Tell whether calls are with engines in processes of their own, which may want this core."""
        return any(engine.busy for engine in self._own_process)

    def default_version(self, name: str) -> str:
        """Return the version served where none is asked for."""
        return self._served[name, ""].spec.version

    def explain_missing(self, name: str, version: str, sees: Callable[[str], bool] = _everything) -> str:
        """Say what a caller hears whose model is not here, or not for it: both read the same."""
        if version and sees(name) and (name, "") in self._served:  # guard: model-versions
            served = ", ".join(key[1] for key in self._served if key[0] == name and key[1])
            return f"model {shown(name)} has no version {shown(version)}; served: {served}"
        names = sorted({key[0] for key in self._served if sees(key[0])})  # guard: models-in-error
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        # guard: name-in-error
        return f"model {shown(name)} is not served; served: {', '.join(names[:NAMES_SHOWN]) or 'none'}{more}"
