"""msgpack by struct alone, for the vectors of messages; and values as the vectors write them.

What lives here: the bytes of plain values, shortest form first. What must not: any check, any import of msgpack.
"""

from __future__ import annotations

import struct

Value = None | bool | int | float | str | bytes | list["Value"] | dict[str, "Value"]


def pack(value: Value) -> bytes:
    """The shortest msgpack of a plain value; a float in 8 bytes."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return _integer(value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xCB, value)
    if isinstance(value, str):
        raw = value.encode()
        return _head(len(raw), 0xA0, 31, (0xD9, 0xDA, 0xDB)) + raw
    if isinstance(value, bytes):
        return _head(len(value), 0, -1, (0xC4, 0xC5, 0xC6)) + value
    if isinstance(value, list):
        return _head(len(value), 0x90, 15, (None, 0xDC, 0xDD)) + b"".join(map(pack, value))
    head = _head(len(value), 0x80, 15, (None, 0xDE, 0xDF))
    return head + b"".join(pack(key) + pack(item) for key, item in value.items())


def _integer(value: int) -> bytes:
    if -32 <= value <= 127:
        return struct.pack("b" if value < 0 else "B", value)
    forms = ((0xCC, ">BB"), (0xCD, ">BH"), (0xCE, ">BI"), (0xCF, ">BQ"))
    signed = ((0xD0, ">Bb"), (0xD1, ">Bh"), (0xD2, ">Bi"), (0xD3, ">Bq"))
    bits = (value.bit_length() if value >= 0 else (~value).bit_length() + 1) + 7
    code, form = (forms if value >= 0 else signed)[(bits // 8 - 1).bit_length()]
    return struct.pack(form, code, value)


def _head(count: int, fixed: int, most: int, codes: tuple[int | None, int, int]) -> bytes:
    if count <= most:
        return bytes((fixed | count,))
    if codes[0] is not None and count < 256:
        return bytes((codes[0], count))
    return struct.pack(">BH", codes[1], count) if count < 65536 else struct.pack(">BI", codes[2], count)


def tagged(value: Value) -> object:
    """A value without doubt about its type: nil and bools as JSON's, all else as an object of one key."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return {"int": str(value)}
    if isinstance(value, float):
        return {"float": struct.pack(">d", value).hex()}
    if isinstance(value, str):
        return {"str": value}
    if isinstance(value, bytes):
        return {"bin": value.hex()}
    if isinstance(value, list):
        return {"list": [tagged(item) for item in value]}
    return {"map": {key: tagged(item) for key, item in value.items()}}
