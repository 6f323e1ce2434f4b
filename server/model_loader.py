"""From a folder to a running engine: what is there, where it runs, its ties to the loop, loading and warm-up.

What lives here: how a model begins and ends, also while others are served. What must not: which model a name leads to
(registry.py), what models cost (engine/).

`inline` runs on the loop, `process` in a process of its own, `auto` is measured: a model stays on the loop only if one
call costs less than handing it over would, if its code does nothing that concerns a whole process, and if it loads
there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from ..gpu import SlabPool
from .engine.api import Engine, HealthState
from .engine.backends import LoadError
from .engine.process import ProcessEngine
from .engine.spec import ModelSpec, SpecError, load_spec
from .engine.worker import Surroundings
from .logs import get_logger
from .model import Model
from .model_stats import ModelStats

if TYPE_CHECKING:
    from .engine.inline import InlineEngine

log = get_logger("server")

INLINE_BELOW = 100e-6
"""Seconds of one batch, measured at warm-up, below which a model runs on the loop: about what a hand-over costs."""

STALLED_AFTER = 30.0
"""Seconds without an answer after which a model with calls counts as stalled."""

Wake = Callable[["InlineEngine | ProcessEngine"], None]
"""Sees to it that the engine is stepped soon."""


class ModelLoadError(Exception):
    """Models cannot be loaded; the message says which, why and what to mend."""


class ModelLoader:
    """Makes models of folders, and ends them. `loop` watches descriptors and timers, `wake` steps engines.

    stats: the counts of a name and version. attach: called with each model before its engine starts; it sets the sink.
    timeout: seconds to load one. `busy()` is around everything that may keep the loop for long. `run_limit` (seconds)
    and `result_bytes` are for models that do not say themselves.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: SlabPool,
        wake: Wake,
        stats: Callable[[str, str], ModelStats],
        attach: Callable[[Model], None],
        timeout: float,
        busy: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        run_limit: float = 120.0,
        result_bytes: int = 256 << 20,
    ) -> None:
        self._run_limit = run_limit
        self._result_bytes = result_bytes
        self._loop = loop
        self._busy = busy
        self._surroundings = Surroundings.now()
        self._wake = wake
        self._pool = pool
        self._stats = stats
        self._attach = attach
        self._timeout = timeout
        self.models: list[Model] = []
        """Those that were begun and not unloaded yet."""

    async def load(self, spec: ModelSpec, asked: str) -> Model:
        """Load `spec` where `asked` ("inline", "process", "auto") says, and warm it up. Raises ModelLoadError."""
        began = monotonic()
        model = await self._place(spec, asked)
        engine = model.engine
        log.info(
            "model loaded",
            model=spec.name,
            version=spec.version,
            engine=model.placement,
            max_batch=engine.effective_max_batch,
            seconds=round(monotonic() - began, 3),
        )
        for remark in engine.remarks:
            log.warning(remark, model=spec.name, version=spec.version)
        return model

    def unload(self, model: Model) -> None:
        """Stop its engine and take it from the loop; what it still has fails UNAVAILABLE."""
        self.models.remove(model)
        for descriptor in model.engine.descriptors():
            self._loop.remove_reader(descriptor)
        model.engine.stop()

    async def _place(self, spec: ModelSpec, asked: str) -> Model:
        if asked == "inline":
            return self._inline(spec)
        model, engine = await self._process(spec)
        if asked != "auto" or choose_placement(spec, engine.warm_up, engine.effective_max_batch) != "inline":
            return model
        if engine.habits:
            does = " and ".join(engine.habits)
            text = f"model stays in a process of its own, cheap as it is: its code {does}"
            log.info(text, model=spec.name, version=spec.version)
            return model
        try:
            inline = self._inline(spec)
        except ModelLoadError as error:  # such as one that runs an event loop: there can be none within ours
            text = "model stays in a process of its own, since on the loop it does not load"
            log.warning(text, model=spec.name, version=spec.version, why=str(error))
            return model
        self.unload(model)
        return inline

    def _begin(self, spec: ModelSpec, engine: Engine, placement: str) -> Model:
        model = Model(spec, engine, placement, self._stats(spec.name, spec.version))
        self.models.append(model)
        self._attach(model)
        return model

    def _inline(self, spec: ModelSpec) -> Model:
        process = os.getpid()
        with self._busy():
            from .engine.inline import InlineEngine  # brings the backends, and torch with them: only where wanted

            engine = InlineEngine(spec, self._pool, self._wake, self._loop.call_later)
            model = self._begin(spec, engine, "inline")
            try:
                engine.start()
            except LoadError as error:
                self.unload(model)
                raise ModelLoadError(f"model {spec.name} version {spec.version}: {error}") from error
            finally:
                if os.getpid() != process:  # the model forked, and forgot to end the child: there is one server
                    os._exit(1)
        return model

    async def _process(self, spec: ModelSpec) -> tuple[Model, ProcessEngine]:
        changed = asyncio.Event()
        run_limit = self._run_limit if spec.run_limit is None else spec.run_limit
        engine = ProcessEngine(
            spec,
            self._pool,
            self._wake,
            load_timeout=self._timeout,
            stall_timeout=min(STALLED_AFTER, run_limit),
            kill_after=run_limit,
            result_bytes=self._result_bytes if spec.result_bytes is None else spec.result_bytes,
            surroundings=self._surroundings,
            on_change=lambda _engine: changed.set(),
        )
        model = self._begin(spec, engine, "process")
        engine.start()
        for descriptor in engine.descriptors():
            self._loop.add_reader(descriptor, engine.on_readable, descriptor)
        while engine.health().state is HealthState.LOADING:  # the engine gives up by itself after `timeout`
            changed.clear()
            await changed.wait()
        health = engine.health()
        if not health.ready:
            self.unload(model)
            raise ModelLoadError(f"model {spec.name} version {spec.version}: {health.detail}")
        return model, engine


def scan_models(folder: Path, link_roots: Sequence[Path] = ()) -> list[ModelSpec]:
    """Read every `folder/<name>/<version>/model.toml`. Raises ModelLoadError naming each one that is wrong.

    link_roots: see load_spec.
    """
    if not folder.is_dir():
        raise ModelLoadError(f"{str(folder)!r} is not a folder; expected models/<name>/<version>/model.toml in it")
    specs: list[ModelSpec] = []
    problems: list[str] = []
    for description in sorted(folder.glob("*/*/model.toml")):
        try:
            specs.append(load_spec(description.parent, link_roots=link_roots))
        except SpecError as error:
            problems.append(str(error))
    if problems:
        raise ModelLoadError("\n".join(problems))
    if not specs:
        raise ModelLoadError(f"there is no model in {str(folder)!r}; expected <name>/<version>/model.toml in it")
    return specs


def choose_placement(spec: ModelSpec, seconds: Mapping[int, float], effective_max_batch: int) -> str:
    """Choose `inline` or `process` for a model that leaves it to us, from what warm-up measured in a process.

    `seconds` are those of the fastest batch by its rows. What counts is the largest batch that will be run: that is how
    long everybody on the loop would wait for it. Without figures, or on a device, it stays in its process.
    """
    rows = max((rows for rows in seconds if rows <= effective_max_batch), default=0)
    cheap = seconds.get(rows, inf) < INLINE_BELOW
    return "inline" if cheap and spec.device == "cpu" else "process"
