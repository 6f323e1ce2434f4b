"""Every vector, whole, byte by byte, and with bytes behind it; and the vectors themselves: schema, generator, SPEC."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tensorwire.codec import decode_metadata, resolve
from tensorwire.protocol import ProtocolError, parse_extension
from tests.support.together import by_section, each
from tests.vectors import wire
from tests.vectors.player import Player, load, single, unpack, whole

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SPEC = (ROOT / "protocol" / "SPEC.md").read_text()
CONNECTIONS = [*load("connection"), *load("clock")]
EXTENSIONS = list(load("extension"))
OTHERS = [*load("metadata"), *load("message")]
STABLE = {  # SHA-256 of each stable file: a new one gets its line, a line never changes
    "preface.json": "c41f06f44904053de2ac337a96312b7974781ff8419433f55102f3b4ddf15c68",
}
Json = dict[str, Any]


def play(file: Json, vector: Json, split: Any) -> Player:
    player = Player(file, vector, split)
    if vector["start"] == "open":
        player.play(file["prelude"][vector["role"]])
    player.play(vector["steps"])
    return player


@pytest.mark.parametrize("split", [whole, single])
@each("file vector", CONNECTIONS, by_section)
def test_vector_holds_however_its_bytes_are_split(file: Json, vector: Json, split: Any) -> None:
    player = play(file, vector, split)
    player.finish()
    if not vector["valid"]:
        assert player.closed
        check_last_words(player.sent, vector["steps"][-1]["expect"][-1]["code"], vector["role"])


def check_last_words(sent: bytes, code: int, role: str) -> None:
    """The last frame is CLOSE with the code; a foreign client gets one line, a foreign server nothing."""
    if code == wire.NOT_TENSORWIRE and role == "client":
        assert sent == wire.PREFACE + wire.hello()
        return
    if code == wire.NOT_TENSORWIRE:
        line = sent.rpartition(b"\r\n\r\n")[2]
        assert b"tensorwire" in line
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")
        assert len(line) <= 200
        return
    closes = [
        m.start() - 4 for m in re.finditer(b"\x0f\x00\x00\x00" + bytes(12) + bytes((code, 0, 0, 0)), sent, re.DOTALL)
    ]
    assert closes, f"no CLOSE with code {code} in {sent.hex()}"
    assert int.from_bytes(sent[closes[-1] : closes[-1] + 4], "little") == len(sent) - closes[-1] - 32


@each("file vector", CONNECTIONS, by_section)
def test_bytes_behind_a_vector_give_no_event(file: Json, vector: Json) -> None:
    steps = vector["steps"]
    if not vector["valid"]:
        *before, last, expected = steps
        steps = [
            *before,
            {"receive": [*last["receive"], "00" * 40, "ff" * 40]} if "receive" in last else last,
            expected,
        ]
    player = play(file, vector | {"steps": steps}, whole)
    if not player.closed and vector["valid"]:
        player.receive(wire.frame(wire.PING, body=bytes(8))[: 36 if vector["start"] == "open" else 31])
    player.finish()


@each("file vector", EXTENSIONS, by_section)
def test_extension_region(file: Json, vector: Json) -> None:
    raw = bytes.fromhex(vector["bytes"])
    if not vector["valid"]:
        with pytest.raises(ProtocolError) as caught:
            parse_extension(raw)
        assert caught.value.code == vector["code"]
        return
    parsed = parse_extension(raw)
    found: Json = {
        "dims": [int.from_bytes(parsed.dims[n : n + 8], "little") for n in range(0, len(parsed.dims), 8)],
        "body_length": parsed.body_length,
        "trace": parsed.trace.hex(),
        "timing": list(parsed.timing or ()),
        "retry_after": parsed.retry_after,
        "queue_estimate": parsed.queue_estimate,
    }
    assert {name: value for name, value in found.items() if value or value == 0} == vector["items"]


def test_generator_leaves_no_diff() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.vectors.generate", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_generator_imports_nothing_of_tensorwire() -> None:
    script = "import sys, tests.vectors.generate; sys.exit(any(m.split('.')[0] == 'tensorwire' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_at_least_half_of_the_vectors_are_invalid() -> None:
    kinds = [vector["valid"] for _, _, vector in CONNECTIONS + EXTENSIONS + OTHERS]
    assert kinds.count(False) * 2 >= len(kinds)


def test_stable_vectors_have_not_changed() -> None:
    assert {path.name: sha256(path.read_bytes()).hexdigest() for path in (HERE / "stable").iterdir()} == STABLE


@pytest.mark.parametrize("path", sorted((HERE / "stable").glob("*.json")), ids=lambda p: p.stem)
def test_stable_vectors_show_stable_sections(path: Path) -> None:
    stable = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? .*\(stable\)", SPEC, re.MULTILINE))
    for vector in json.loads(path.read_text())["vectors"]:
        # 2.3 sends to 10.1: that a foreign peer is answered, and not how, is what these show
        assert {vector["section"], vector["section"].partition(".")[0]} & (stable | {"10.1"}), vector["name"]


@pytest.mark.parametrize("path", sorted(HERE.glob("*/*.json")), ids=lambda p: p.stem)
def test_file_keeps_the_schema_and_cites_sections_that_exist(path: Path) -> None:
    file = json.loads(path.read_text())
    schema = json.loads((HERE / "vector.schema.json").read_text())
    check(file, schema, schema, path.name)
    tests = file["vectors"] if file["kind"] != "signed" else [t for group in file["groups"] for t in group["tests"]]
    names = [vector.get("name", vector.get("id")) for vector in tests]
    assert len(names) == len(set(names))
    for vector in tests:
        section = re.escape(vector["section"])
        assert re.search(rf"^(#+ )?(Appendix )?{section}\b", SPEC, re.MULTILINE), (
            f"SPEC has no section {vector['section']}"
        )


def check(value: Any, schema: Json, root: Json, where: str) -> None:
    """The part of JSON schema that vector.schema.json uses."""
    if "$ref" in schema:
        check(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, where)
        return
    if "anyOf" in schema:
        assert any(fits(value, option, root, where) for option in schema["anyOf"]), f"{where}: {str(value)[:80]}"
    if "enum" in schema:
        assert value in schema["enum"], where
    kinds: dict[str, type] = {
        "object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)
    }  # fmt: skip
    assert "type" not in schema or type(value) is kinds[schema["type"]], where
    if isinstance(value, str):
        assert re.search(schema.get("pattern", ""), value), where
    if isinstance(value, list) and "items" in schema:
        for n, item in enumerate(value):
            check(item, schema["items"], root, f"{where}[{n}]")
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), where
        for key, item in value.items():
            if key in schema.get("properties", {}):
                check(item, schema["properties"][key], root, f"{where}.{key}")
            else:
                assert schema.get("additionalProperties", True), f"{where}.{key}"


def fits(value: Any, schema: Json, root: Json, where: str) -> bool:
    try:
        check(value, schema, root, where)
    except AssertionError:
        return False
    return True


def test_hand_laid_metadata_is_read_by_the_codec() -> None:
    metadata = decode_metadata(wire.metadata("1"))
    assert (metadata.model, metadata.version) == ("echo", "1")
    assert resolve(metadata, bytes([1, *bytes(7), 3, *bytes(7)])).body_length == 12


def spelled(text: str) -> bytes:
    """The bytes of the indented lines of hex."""
    return bytes.fromhex("".join(re.findall(r"^    ((?:[0-9a-f]{2} ?)+)(?: |$)", text, re.MULTILINE)))


def test_worked_session_of_the_spec_is_the_vector() -> None:
    shown = spelled(SPEC[SPEC.index("## Appendix A") : SPEC.index("## Appendix B")])
    file, vector = next(c[1:] for c in CONNECTIONS if c[2]["name"] == "a unary call with timing, at the client")
    steps = [s for s in vector["steps"] if "sends" in s or "receive" in s]
    assert shown.hex() == b"".join(unpack(s.get("sends") or s["receive"]) for s in steps).hex()
    assert file["spec"] == {"version": 1, "draft": 1}


def test_signed_handshake_of_the_spec_is_the_vector() -> None:
    file = json.loads((HERE / "draft" / "signed_handshake.json").read_text())
    group = file["groups"][0]
    shown = group["handshake"]
    records = [unpack(group[name]["record"]) for name in ("first_client", "first_server")]
    parts = re.split(r"^B\.\d ", SPEC[SPEC.index("## Appendix B") :], flags=re.MULTILINE)
    assert [spelled(part).hex() for part in parts[1:]] == [
        shown["preface"] + shown["hello"],
        shown["welcome"],
        shown["auth"],
        shown["ready"],
        *((record[:4] + record[-16:]).hex() for record in records),
    ]
    keys = dict(re.findall(r"^    (\w+) +([0-9a-f]{64})$", parts[2], re.MULTILINE))
    assert len(keys) == 6
    assert keys == {name: shown[name] for name in keys}
    appendix_a = SPEC[SPEC.index("## Appendix A") : SPEC.index("## Appendix B")]
    calls = re.split(r"^A\.\d ", appendix_a, flags=re.MULTILINE)
    assert [record[4:-16] for record in records] == [spelled(calls[5]), spelled(calls[6])]
    assert bytes.fromhex(group["secret"]) == bytes(range(0x40, 0x60))
    assert (bytes.fromhex(group["key_id"]), group["mac"], group["binding"]) == (b"vectors", "hmac-sha256", "")
