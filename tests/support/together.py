"""Many small cases as a few tests: with ten thousand vectors, a test for each costs more than the vectors do.

What lives here: a decorator in the place of `pytest.mark.parametrize`. What must not: what a case is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

#: What fails in a check: pytest's own failures, as of `pytest.raises`, are no Exception.
FAILURES = (Exception, pytest.fail.Exception)


def each(
    names: str, cases: Iterable[tuple[Any, ...]], group: Callable[..., str] = lambda name, *_: name.partition(":")[0]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a check for every case, (name, \\*values); those of one group are one test, which tells each that failed.

    names: of the check's parameters that take the values, in their order, with a space between.
    group: makes the name of a case's group of its name and values; without it, what the name says before its colon.
    """
    keys = names.split()
    groups: dict[str, list[tuple[Any, ...]]] = {}
    for case in cases:
        groups.setdefault(group(*case), []).append(case)

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        def run(group: list[tuple[Any, ...]], **others: Any) -> None:
            failed = []
            for name, *values in group:
                try:
                    check(**dict(zip(keys, values, strict=True)), **others)
                except FAILURES as error:
                    error.add_note(f"in the case {name!r}")
                    failed.append(error)
            if failed:
                raise BaseExceptionGroup(f"{len(failed)} of {len(group)} cases failed", failed)

        wanted = inspect.signature(check).parameters
        others = [parameter for name, parameter in wanted.items() if name not in keys]
        taken = inspect.Parameter("group", inspect.Parameter.KEYWORD_ONLY)
        run.__signature__ = inspect.Signature([*(p.replace(kind=taken.kind) for p in others), taken])  # type: ignore[attr-defined]
        run.__name__, run.__doc__, run.__module__ = check.__name__, check.__doc__, check.__module__
        run.pytestmark = getattr(check, "pytestmark", [])  # type: ignore[attr-defined]
        marked: Callable[..., None] = pytest.mark.parametrize("group", groups.values(), ids=list(groups))(run)
        return marked

    return decorate


def by_section(name: str, *values: Any) -> str:
    """The group of a vector, which is the last value: its file and the section of the SPEC that it shows."""
    return f"{name.partition(':')[0].partition(' ')[0]} {values[-1]['section']}"
