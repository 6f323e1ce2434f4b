"""Vectors of msgpack: what READY and the service calls carry (SPEC 9.8 and 16)."""

from __future__ import annotations

import struct

from tests.vectors.case import Vector
from tests.vectors.pack import Value, pack, tagged
from tests.vectors.wire import parts

NIL = b"\xc0"
_ONE_KEY = b"\x81\xa0\xc0"  # {"": nil}: three values
_INTEGERS = (0, 127, 128, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1,
             -1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**31) - 1, -(2**63))  # fmt: skip


def messages() -> list[Vector]:
    """Plain values first, then each message with its keys."""
    return [*_values(), *_long(), *_refused(), *_ready(), *_models(), *_describe(), *_health()]


def good(name: str, value: Value, raw: bytes | None = None, section: str = "16.2", kind: str = "plain") -> Vector:
    """A message that is taken."""
    found: Vector = {"name": name, "section": section, "valid": True, "as": kind}
    return found | {"bytes": parts(pack(value) if raw is None else raw), "value": tagged(value)}


def bad(name: str, raw: bytes, section: str = "16.2", kind: str = "plain") -> Vector:
    """A message that is refused."""
    return {"name": name, "section": section, "valid": False, "as": kind, "bytes": parts(raw)}


def _values() -> list[Vector]:
    return [
        good("nil, true, false", [None, True, False]),
        *(good(f"the integer {number}", number) for number in _INTEGERS),
        good("an integer in more bytes than it needs", 1, struct.pack(">BQ", 0xCF, 1)),
        good("a float of 4 bytes", 1.5, struct.pack(">Bf", 0xCA, 1.5)),
        good("floats of 8 bytes", [0.1, -0.0, float("inf"), float("-inf"), 5e-324]),
        good("no text", ""),
        good("text of 31, 32, 255 and 256 bytes", ["a" * 31, "b" * 32, "c" * 255, "d" * 256]),
        good("text of every UTF-8 length, and a zero byte", "hä€𝄞\0"),
        good("text with a length in more bytes than it needs", "a", b"\xdb\0\0\0\1a"),
        good("bytes", [b"", b"\xff\0", b"x" * 300]),
        good("lists of 0, 15 and 16 items", [[], [1] * 15, [2] * 16]),
        good("maps of 0, 15 and 16 keys", [{}, {f"k{n}": n for n in range(15)}, {f"k{n}": n for n in range(16)}]),
        good("an empty key", {"": {"": None}}),
        good("values at level 8", [[[[[[[[None]]]]]]]]),
        good("an empty list at level 8", [[[[[[[[[]]]]]]]]]),
    ]


def _long() -> list[Vector]:
    """At the caps; what they hold is not written down."""
    found = [
        good("16,384 values", None, b"\xdc\x3f\xff" + NIL * 16383),
        good("16,384 values, 5461 of them keys", None, b"\xdc\x15\x55" + _ONE_KEY * 5461),
        good("65,536 bytes", None, b"\xc5\xff\xfd" + bytes(65533)),
    ]
    for vector in found:
        del vector["value"]
    return [
        *found,
        bad("16,385 values", b"\xdc\x40\x00" + NIL * 16384),
        bad("16,385 values, 5461 of them keys", b"\xdc\x15\x56" + _ONE_KEY * 5461 + NIL),
        bad("65,537 bytes", b"\xc5\xff\xfe" + bytes(65534)),
        bad("60,000 empty lists", b"\xdc\xea\x60" + b"\x90" * 60000),
        bad("60,000 lists in each other", b"\x91" * 60000 + NIL),
    ]


def _refused() -> list[Vector]:
    deep = b"\x91" * 9 + NIL
    return [
        bad("no bytes", b""),
        bad("a value and one more byte", NIL * 2),
        bad("the byte that msgpack never uses", b"\xc1"),
        bad("values at level 9", deep),
        bad("values at level 9, in maps", b"\x81\xa1a" * 9 + NIL),
        bad("an empty map at level 9", b"\x91" * 9 + b"\x80"),
        bad("a list of 2^32 - 1 items", b"\xdd\xff\xff\xff\xff"),
        bad("a map of 2^32 - 1 keys", b"\xdf\xff\xff\xff\xff"),
        bad("text of 2^32 - 1 bytes", b"\xdb\xff\xff\xff\xff"),
        bad("bytes of 2^32 - 1", b"\xc6\xff\xff\xff\xff"),
        bad("a list that lacks its last item", b"\x93\xc0\xc0"),
        bad("a map that lacks its last value", b"\x82\xa1a\xc0\xa1b"),
        bad("text one byte short", b"\xa3ab"),
        *(bad(f"an extension of {size} bytes", bytes((code, 5)) + bytes(size))
          for code, size in ((0xD4, 1), (0xD5, 2), (0xD6, 4), (0xD7, 8), (0xD8, 16))),
        bad("an extension of 0 bytes", b"\xc7\x00\x05"),
        bad("an extension of 2^32 - 1 bytes", b"\xc9\xff\xff\xff\xff\x05"),
        bad("a timestamp of 4 bytes", b"\xd6\xff\0\0\0\1"),
        bad("a timestamp of 12 bytes", b"\xc7\x0c\xff" + bytes(12)),
        bad("an extension deep inside", b"\x81\xa1a\x91\xd4\x00\x00"),
        bad("a key twice", b"\x82\xa1a\x01\xa1a\x02"),
        bad("a key twice, in different bytes", b"\x82\xa1a\x01\xd9\x01a\x02"),
        bad("a key twice, deep inside", b"\x91\x81\xa1b\x82\xa1a\xc0\xa1a\xc0"),
        *(bad(f"a key that is {name}", b"\x81" + key + NIL) for name, key in
          (("an integer", b"\x01"), ("nil", NIL), ("a bool", b"\xc3"), ("a float", struct.pack(">Bd", 0xCB, 1.0)),
           ("bytes", b"\xc4\x01a"), ("a list", b"\x90"), ("a map", b"\x80"))),
        *(bad(f"text that is {name}", bytes((0xA0 | len(text),)) + text) for name, text in
          (("no UTF-8", b"\xff\xfe"), ("a lone continuation byte", b"\x80"), ("a surrogate", b"\xed\xa0\x80"),
           ("an overlong form", b"\xc0\xaf"), ("cut within a character", b"a\xe2\x82"))),
        bad("a key that is no UTF-8", b"\x81\xa1\xff\xc0"),
    ]  # fmt: skip


def _read(kind: str, section: str, name: str, value: Value, **reads: Value) -> Vector:
    """A message that is taken, and some of what its reader finds."""
    return good(name, value, None, section, kind) | {"reads": {key: tagged(item) for key, item in reads.items()}}


def _wrong(kind: str, section: str, base: dict[str, Value], *changes: tuple[str, str, Value]) -> list[Vector]:
    """A good message with one key changed, or taken out (...)."""
    return [bad(name, pack(base | {key: value}), section, kind) for name, key, value in changes]


def _without(kind: str, section: str, base: dict[str, Value], *keys: str) -> list[Vector]:
    return [
        bad(f"{kind} without {key}", pack({k: v for k, v in base.items() if k != key}), section, kind) for key in keys
    ] + [bad(f"{kind} with nil for {key}", pack(base | {key: None}), section, kind) for key in keys]


def _ready() -> list[Vector]:
    kind, section = "ready", "9.8"
    least: dict[str, Value] = {"principal": "anonymous"}
    full: dict[str, Value] = {
        "principal": "alice",
        "models": ["*", "llm-*"],
        "server": {"name": "tensorwire", "version": "1.0"},
        "rate": 12.5,
        "limits": {"max_streams": 4096},
    }
    return [
        _read(kind, section, "READY with the least", least, **least, rate=None),
        _read(kind, section, "READY with everything", full, **full),
        _read(kind, section, "READY with a key of the future", least | {"later": [1, {"x": b"y"}]}, **least),
        _read(kind, section, "READY with nil for what is optional", least | {"models": None, "rate": None}, rate=None),
        _read(kind, section, "READY with an integer rate", least | {"rate": 5}, rate=5.0),
        bad("READY that is a list", pack(["anonymous"]), section, kind),
        bad("READY that is nil", NIL, section, kind),
        *_without(kind, section, full, "principal"),
        *_wrong(kind, section, full,
                ("READY with bytes for the principal", "principal", b"alice"),
                ("READY with a map for the models", "models", {}),
                ("READY with a number among the models", "models", ["*", 1]),
                ("READY with a list for the server", "server", []),
                ("READY with a number for the server's name", "server", {"name": 1}),
                ("READY with text for the rate", "rate", "12.5"),
                ("READY with a bool for the rate", "rate", True),
                ("READY with a rate that is no number", "rate", float("nan")),
                ("READY with an endless rate", "rate", float("inf")),
                ("READY with a bool among the limits", "limits", {"max_streams": True}),
                ("READY with a float among the limits", "limits", {"max_streams": 4096.0}),
                ("READY with nil among the limits", "limits", {"max_streams": None})),
    ]  # fmt: skip


def _models() -> list[Vector]:
    entry: dict[str, Value] = {"model": "echo", "version": "1", "state": "idle"}
    kind, section = "models", "16.3"
    states = ("idle", "serving", "stalled", "loading", "unloaded", "failed")
    return [
        _read("models_request", section, "$models asks with an empty map", {}),
        _read("models_request", section, "$models asks with a key of the future", {"all": True}),
        bad("$models asks with nil", NIL, section, "models_request"),
        bad("$models asks with no bytes", b"", section, "models_request"),
        bad("$models asks with a list", b"\x90", section, "models_request"),
        _read(kind, section, "no models", {"models": []}, models=[]),
        *(_read(kind, "16.6", f"a model that is {state}", {"models": [entry | {"state": state}]},
                models=[entry | {"state": state}]) for state in states),
        bad("models that are a map", pack({"models": {}}), section, kind),
        bad("a model that is text", pack({"models": ["echo"]}), section, kind),
        bad("a model in a state of no name", pack({"models": [entry | {"state": "busy"}]}), "16.6", kind),
        bad("a model in a state in capitals", pack({"models": [entry | {"state": "IDLE"}]}), "16.6", kind),
        bad("a model with a number for its version", pack({"models": [entry | {"version": 1}]}), section, kind),
        *(bad(f"a model without {key}", pack({"models": [{k: v for k, v in entry.items() if k != key}]}), section, kind)
          for key in entry),
    ]  # fmt: skip


def _describe() -> list[Vector]:
    kind, section = "describe", "16.4"
    image: dict[str, Value] = {"size": [224, 160], "mean": [0.5, 0, 0.25], "std": [1, 1, 1], "layout": "NHWC"}
    tensor: dict[str, Value] = {"name": "x", "dtype": "float32", "kind": "dense", "shape": [-1, 3]}
    scale: dict[str, Value] = {"name": "scale", "dtype": "float32", "kind": "dense", "shape": []}
    full: dict[str, Value] = {
        "model": "net",
        "version": "2",
        "backend": "torch",
        "device": "cpu",
        "engine": "process",
        "max_batch": 32,
        "inputs": [tensor],
        "outputs": [{"name": "y", "dtype": "uint8", "kind": "string", "shape": [-1]}],
        "images": {"x": image},
        "labels": ["cat", "dog"],
    }
    short: dict[str, Value] = {k: v for k, v in tensor.items() if k != "kind"}
    found = [
        _read("describe_request", section, "$describe asks for a model", {"model": "net"}, model="net", version=""),
        _read("describe_request", section, "$describe with nil for the version", {"model": "net", "version": None},
              version=""),
        bad("$describe without a model", pack({"version": "1"}), section, "describe_request"),
        bad("$describe with bytes for the model", pack({"model": b"net"}), section, "describe_request"),
        bad("$describe with 1 for the version", pack({"model": "net", "version": 1}), section, "describe_request"),
        _read(kind, section, "a description with everything", full, labels=["cat", "dog"], max_batch=32,
              inputs=[tensor]),
        _read(kind, section, "a description of a tensor without kind", full | {"inputs": [short]}, inputs=[tensor]),
        _read(kind, section, "a description with an input that may be left out", full | {"optional": [scale]},
              inputs=[tensor], optional=[scale]),
        _read(kind, section, "a description without hints",
              {k: v for k, v in full.items() if k not in {"images", "labels"}}, images={}, labels=[]),
        *_without(kind, section, full, "model", "version", "backend", "device", "engine", "max_batch"),
        *_wrong(kind, section, full,
                ("a description with a bool for max_batch", "max_batch", True),
                ("a description with a float for max_batch", "max_batch", 32.0),
                ("a description with text for max_batch", "max_batch", "32"),
                ("a description with one label", "labels", "cat"),
                ("a description with images in a list", "images", [image])),
    ]  # fmt: skip
    tensors: tuple[tuple[str, str, Value], ...] = (
        ("a type of no name", "dtype", "float31"),
        ("a kind of no name", "kind", "sparse"),
        ("a name of no bytes", "name", ""),
        ("nine dims", "shape", [1] * 9),
        ("a dim of -2", "shape", [-2]),
        ("a dim that is a bool", "shape", [True]),
        ("a dim that is a float", "shape", [1.0]),
    )
    hints: tuple[tuple[str, str, Value], ...] = (
        ("three sizes", "size", [1, 2, 3]),
        ("a size of 0", "size", [0, 1]),
        ("a size of 2^40", "size", [1 << 40, 1]),
        ("a size that is a float", "size", [1.0, 1]),
        ("a mean of text", "mean", ["0.5"]),
        ("a mean that is no number", "mean", [float("nan")]),
    )
    for name, key, value in tensors:
        changed = full | {"inputs": [tensor | {key: value}]}
        found.append(bad(f"a described tensor with {name}", pack(changed), section, kind))
    for name, key, value in hints:
        changed = full | {"images": {"x": image | {key: value}}}
        found.append(bad(f"an image hint with {name}", pack(changed), section, kind))
    return found


def _health() -> list[Vector]:
    kind, section, ask = "health", "16.5", "health_request"
    entry: dict[str, Value] = {"model": "echo", "version": "1", "state": "stalled"}
    full: dict[str, Value] = entry | {
        "queue_depth": 3,
        "last_progress": 1.5,
        "effective_max_batch": 8,
        "restarts": 0,
        "detail": "no batch done for 30 s",
    }
    zeros: dict[str, Value] = {
        "queue_depth": 0, "last_progress": 0.0, "effective_max_batch": 0, "restarts": 0, "detail": ""
    }  # fmt: skip
    return [
        _read(ask, section, "$health asks for all", {}, model="", watch=False),
        _read(ask, section, "$health watches one", {"model": "echo", "watch": True}, model="echo", watch=True),
        bad("$health with 1 for watch", pack({"watch": 1}), section, ask),
        bad("$health with text for watch", pack({"watch": "true"}), section, ask),
        bad("$health with a list for the model", pack({"model": ["echo"]}), section, ask),
        _read(kind, section, "health with everything", {"models": [full]}, models=[full]),
        _read(kind, section, "health with the least", {"models": [entry]}, models=[entry | zeros]),
        _read(kind, section, "health with an integer for a float", {"models": [full | {"last_progress": 2}]},
              models=[full | {"last_progress": 2.0}]),
        *(bad(f"health with {name}", pack({"models": [full | {key: value}]}), section, kind) for name, key, value in
          (("a bool for queue_depth", "queue_depth", False), ("a float for restarts", "restarts", 1.0),
           ("text for last_progress", "last_progress", "1"),
           ("an endless last_progress", "last_progress", float("inf")), ("a number for detail", "detail", 0),
           ("no known state", "state", "fine"), ("nil for the model", "model", None))),
    ]  # fmt: skip
