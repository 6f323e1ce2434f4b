"""What callers pass for seconds, flags and counts -> what the core wants: float, bool, int, of exactly these types.

Both clients convert here and nowhere else, once for each call: compiled modules take only their own kinds of numbers,
and a float32 added to a clock that has run for months would lose its milliseconds. Not here: what the values mean
(``core``).
"""

from __future__ import annotations

from typing import Any

from .errors import InvalidInput


def seconds(name: str, value: Any) -> float:
    """``value``, any real number (numpy's scalars, fractions), as seconds. Raises :class:`InvalidInput`."""
    if type(value) is float:
        return value
    try:
        if not isinstance(value, str | bytes | bytearray):  # float() would read them
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidInput(f"{name} is {value!r}, expected seconds as a number")


def whole(name: str, value: Any) -> int:
    """``value``, any whole number (numpy's scalars, 1e6), as int. Raises :class:`InvalidInput`."""
    try:
        if not isinstance(value, str | bytes | bytearray) and value == int(value):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InvalidInput(f"{name} is {value!r}, expected a whole number")


def text(name: str, value: Any) -> str:
    """``value``, a str, or None for "". Raises :class:`InvalidInput`."""
    if value is None or isinstance(value, str):
        return value or ""
    raise InvalidInput(f"{name} is {value!r}, expected a str such as {str(value)!r}")


def check_inputs(inputs: Any) -> None:
    """Raise :class:`InvalidInput` where ``inputs`` are no mapping of names to tensors: asked once a call has failed."""
    if not hasattr(inputs, "items"):
        raise InvalidInput(
            f"inputs are of type {type(inputs).__name__}, expected a mapping of names to tensors, such as "
            "{'x': array}; describe(model) gives the names"
        )
    for name in inputs:
        if not isinstance(name, str):
            raise InvalidInput(f"inputs have the name {name!r}, expected a str such as {str(name)!r}")


def of_call(deadline: Any, timing: Any, priority: Any) -> tuple[float | None, bool, int]:
    """Return the options of a call."""
    return (
        None if deadline is None else seconds("deadline", deadline),
        bool(timing),
        whole("priority", priority),
    )
