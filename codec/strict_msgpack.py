"""Strict msgpack: plain values with caps, and reading typed fields out of them.

What lives here: bytes <-> None, bool, int, float, str, bytes, list, dict. What must not: what the fields mean
(service.py). Every refusal is a CodecError that names the field, what came and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from .errors import CodecError, shown
from .limits import MAX_SERVICE_BYTES, MAX_SERVICE_DEPTH, MAX_SERVICE_ITEMS

T = TypeVar("T")

# Codes of msgpack from 0xc0 on: bytes that follow; width of the length that follows; (width of the count, values each).
_SCALARS = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def pack_service(value: Any, max_bytes: int = MAX_SERVICE_BYTES) -> bytes:
    """Pack a plain value. CodecError if `unpack_service` would refuse it."""
    try:
        raw: bytes = msgpack.packb(value, use_bin_type=True, strict_types=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"service message: {error}") from None
    if len(raw) > max_bytes:
        raise CodecError(f"service message: {len(raw)} bytes, at most {max_bytes} are allowed")
    _check_plain(value)
    return raw


def unpack_service(
    raw: bytes | memoryview,
    max_bytes: int = MAX_SERVICE_BYTES,
    max_depth: int = MAX_SERVICE_DEPTH,
    max_items: int = MAX_SERVICE_ITEMS,
) -> Any:
    """Unpack a plain value: None, bool, int, float, str, bytes, list, dict with str keys. CodecError on all else.

    Refused: more than `max_bytes`, deeper than `max_depth`, more than `max_items` values, extension types, duplicate or
    non-str keys, bad UTF-8, trailing bytes. Time is linear in the size.
    """
    if len(raw) > max_bytes:
        raise CodecError(f"service message: {len(raw)} bytes, at most {max_bytes} are allowed")
    _check_counts(raw, max_depth, max_items)
    try:
        return msgpack.unpackb(raw, raw=False, strict_map_key=True, object_pairs_hook=_unique)
    except CodecError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise CodecError(f"service message: not the msgpack of one plain value ({type(error).__name__})") from None


def _check_counts(raw: bytes | memoryview, max_depth: int, max_items: int) -> None:
    """Count values and levels by their headers, before one is built.

    The library takes memory for what a header promises: 64 KiB of nested ones made it take 80 MB and 60 ms.
    """
    at, values, to_come = 0, 1, [1]  # to_come: values that are still missing at each level
    while to_come:
        if not to_come[-1]:
            to_come.pop()
            continue
        to_come[-1] -= 1
        if at >= len(raw):
            raise CodecError(f"service message: cut off; more values were promised than {len(raw)} bytes hold")
        code = raw[at]
        at += 1
        inner = 0
        if code < 0x80 or code >= 0xE0:
            continue
        if code < 0x90:
            inner = 2 * (code & 0x0F)
        elif code < 0xA0:
            inner = code & 0x0F
        elif code < 0xC0:
            at += code & 0x1F
        elif code in _SCALARS:
            at += _SCALARS[code]
        elif code in _LENGTHS:
            width = _LENGTHS[code]
            at += width + int.from_bytes(raw[at : at + width], "big")
        elif code in _COUNTS:
            width, each = _COUNTS[code]
            inner = each * int.from_bytes(raw[at : at + width], "big")
            at += width
        else:
            raise CodecError(f"service message: 0x{code:x} is an extension type or unused; neither is allowed")
        if inner:
            values += inner
            if values > max_items or len(to_come) > max_depth:  # guard: msgpack-nested
                raise CodecError(f"service message: more than {max_items} values or {max_depth} levels")
            to_come.append(inner)


def _unique(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):  # guard: msgpack-key-twice
        raise CodecError("service message: a map has the same key twice")
    if not all(type(key) is str for key in result):  # guard: msgpack-int-keys
        raise CodecError("service message: a map has a key that is not str")
    return result


def _check_plain(value: Any) -> None:
    """Walk level by level, so that depth costs no recursion. `type() is` because bool is an int to isinstance."""
    items, depth, level = 1, 0, [value]
    while level:
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                if not all(type(key) is str for key in node):
                    raise CodecError("service message: a map has a key that is not str")
                items += len(node)
                below.extend(node.values())
            elif type(node) is list:
                below.extend(node)
            elif node is not None and type(node) not in (bool, int, float, str, bytes):
                raise CodecError(f"service message: a value of type {type(node).__name__}; only plain ones are allowed")
        items += len(below)
        depth += bool(below)
        if items > MAX_SERVICE_ITEMS or depth > MAX_SERVICE_DEPTH:
            raise CodecError(f"service message: more than {MAX_SERVICE_ITEMS} values or {MAX_SERVICE_DEPTH} levels")
        level = below


class Fields:
    """A map under inspection: every getter names the field, what came and what was expected."""

    __slots__ = ("_value", "_where")

    def __init__(self, value: Any, where: str) -> None:
        if type(value) is not dict:
            raise CodecError(f"{where}: {type(value).__name__}, expected a map")
        self._value = value
        self._where = where

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """Return the value of `key`, exactly of `kind` (or an int where a float is asked for). No default: required."""
        value = self._value.get(key)
        if value is None and default is not None:
            return default
        if kind is float and type(value) is int:
            value = float(value) if abs(value) < 1 << 64 else value
        if type(value) is not kind:  # guard: msgpack-bool-for-int
            got = "nothing" if value is None else type(value).__name__
            raise CodecError(f"{self._where}.{_key(key)}: {got}, expected {kind.__name__}")
        if kind is float and not math.isfinite(value):  # type: ignore[arg-type]
            raise CodecError(f"{self._where}.{_key(key)}: {value}, expected a finite number")
        return value

    def optional(self, key: str, kind: type[T]) -> T | None:
        """Like get, but None if the key is missing or nil."""
        return None if self._value.get(key) is None else self.get(key, kind)

    def items(self, key: str, read: Callable[[Any, str], T]) -> tuple[T, ...]:
        """Read a list, each item by `read(item, where)`. Missing means empty."""
        values: list[Any] = self.get(key, list, [])
        return tuple(read(value, f"{self._where}.{key}[{index}]") for index, value in enumerate(values))

    def numbers(self, key: str) -> dict[str, int]:
        """Read a map of str to int. Missing means empty."""
        values: dict[str, Any] = self.get(key, dict, {})
        inner = Fields(values, f"{self._where}.{key}")
        return {name: inner.get(name, int) for name in values}


def _key(key: str) -> str:
    """Show a key in a message: some are the peer's own words."""
    return key if key.isidentifier() and key.isascii() and len(key) <= 40 else shown(key, 40)


def read_str(value: Any, where: str) -> str:
    """`value`, if it is a str. CodecError names `where` if not."""
    if type(value) is not str:
        raise CodecError(f"{where}: {type(value).__name__}, expected str")
    return value


def read_int(value: Any, where: str) -> int:
    """`value`, if it is an int and no bool."""
    if type(value) is not int:
        raise CodecError(f"{where}: {type(value).__name__}, expected int")
    return value


def read_float(value: Any, where: str) -> float:
    """`value` as a float, if it is a float or an int."""
    return Fields({"value": value}, where).get("value", float)


def read_choice(choices: type[T], value: str, where: str) -> T:
    """Return the member of the enum `choices` with this value."""
    try:
        return choices(value)  # type: ignore[call-arg]
    except ValueError:
        raise CodecError(f"{where}: {shown(value)}, expected one of {', '.join(map(str, choices))}") from None  # type: ignore[call-overload]
