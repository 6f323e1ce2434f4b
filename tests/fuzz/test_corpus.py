"""Every kept input, and every seed, is handled as its target documents: no stray error, 100 ms, bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.target import NAMES, kept, load, run_timed, run_traced
from tests.support.together import each

KEPT = [(f"{name}: {path.name}", name, path) for name in NAMES for path in kept(name)]


@each("name path", KEPT)
def test_a_kept_input_is_handled_as_documented(name: str, path: Path) -> None:
    data = path.read_bytes()
    run_timed(load(name), data)
    run_traced(load(name), data)


@pytest.mark.parametrize("name", NAMES)
def test_the_seeds_are_handled_as_documented(name: str) -> None:
    target = load(name)
    seeds = list(target.seeds())
    assert len(seeds) > 10
    for seed in seeds:
        assert len(seed) <= target.max_bytes, "libFuzzer would cut this seed off"
        run_timed(target, seed)


def test_the_corpus_is_there_and_small() -> None:
    sizes = {name: [path.stat().st_size for path in kept(name)] for name in NAMES}
    assert all(sizes.values()), sizes
    assert sum(map(sum, sizes.values())) < 1 << 20
