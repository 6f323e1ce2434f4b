"""A hostile server's words in every field that a client prints: escaped and capped, whatever the command."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import numpy as np
import pytest
from click.testing import CliRunner

import tensorwire
from tensorwire.clients.cli.group import cli
from tensorwire.clients.errors import TensorwireError
from tensorwire.codec import (
    FREE,
    Description,
    Health,
    HealthReport,
    Kind,
    ModelEntry,
    ModelList,
    State,
    TensorSpec,
    decode_metadata,
    dtype_by_name,
    encode_metadata,
)
from tensorwire.protocol import ErrorCode, Message, Status, pack_extension
from tensorwire.protocol.safe_text import TEXT_LIMIT
from tests.attacks.peer import BYTES, FLOAT
from tests.support.peer import Peer, PeerConnection

pytestmark = pytest.mark.timeout(60)

# The terminal's controls in both of their spellings, line ends of every kind, a direction override, NUL.
EVIL = "\x1b[2J\x1b]0;title\x07\x9b31m\r\nforged line\x85\u2028\u202egnp.\x00\x7f"
NAME = EVIL + "n" * 100  # within 256 bytes, so that it passes every check of the codec
TEXT = EVIL + "t" * (1 << 15)
LONG = 4096
"""Characters of one printed line about a hostile server, at most; JSON of what was asked for is as long as it is."""


def describe() -> Description:
    spec = TensorSpec(NAME, FLOAT, (FREE, 2))
    return Description(
        model=NAME, version=NAME, backend=NAME, engine=NAME, device=NAME, max_batch=4, inputs=(spec,), outputs=(spec,),
        images={}, labels=(EVIL, EVIL + "2"),
    )  # fmt: skip


def payload(name: str) -> bytes:
    if name == "$models":
        return ModelList((ModelEntry(TEXT, TEXT[: 1 << 14], State.IDLE),)).pack()
    if name == "$describe":
        return describe().pack()
    return HealthReport((Health(model=NAME, version=NAME, state=State.IDLE, detail=TEXT[: 1 << 14]),)).pack()


def answers_everything(peer: PeerConnection, message: Message) -> None:
    name = decode_metadata(message.meta).model
    if name.startswith("$"):
        body = payload(name)
        meta = encode_metadata(name, "", [TensorSpec("payload", BYTES, (FREE,))])
        peer.send(message.stream_id, meta, pack_extension(dims=struct.pack("<Q", len(body))), body)
        return
    strings = TensorSpec("s" + EVIL, dtype_by_name("uint8"), (1,), Kind.STRING)
    scores = TensorSpec(NAME, FLOAT, (1, 2))
    meta = encode_metadata(NAME, NAME, [strings, scores])
    text = TEXT[:1000].encode()
    body = struct.pack("<2q", 0, len(text)) + bytes(48) + text
    body += bytes(-len(body) % 64) + struct.pack("<2f", 1, 2)
    peer.send(message.stream_id, meta, pack_extension(dims=struct.pack("<Q", len(text))), body)


def fails_everything(peer: PeerConnection, message: Message) -> None:
    peer.end(message.stream_id, Status.INTERNAL, EVIL + "x" * 900)


def closes(peer: PeerConnection, message: Message) -> None:
    peer.connection.close(ErrorCode.INTERNAL, EVIL + "x" * 900)
    peer.flush()
    assert message.stream_id


def goes_away(peer: PeerConnection, message: Message) -> None:
    peer.goaway(0, EVIL + "x" * 900)
    assert message.stream_id


def sends_bad_replies(peer: PeerConnection, message: Message) -> None:
    peer.send(message.stream_id, encode_metadata(NAME, "", [TensorSpec(NAME, FLOAT, (5,))]), b"", bytes(4))


def sends_bad_payloads(peer: PeerConnection, message: Message) -> None:
    body = msgpack.packb({EVIL: EVIL, "models": [{"model": 1, EVIL: 2, "state": EVIL}], "model": 7})
    meta = encode_metadata("$models", "", [TensorSpec("payload", BYTES, (FREE,))])
    peer.send(message.stream_id, meta, pack_extension(dims=struct.pack("<Q", len(body))), body)


SERVERS: dict[str, Callable[[PeerConnection, Message], None]] = {
    "answers": answers_everything,
    "fails": fails_everything,
    "closes": closes,
    "goes-away": goes_away,
    "bad-replies": sends_bad_replies,
    "bad-payloads": sends_bad_payloads,
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "models": ("models",),
    "models-json": ("models", "--json"),
    "describe": ("describe", "m"),
    "describe-json": ("describe", "m", "--json"),
    "health": ("health",),
    "health-json": ("health", "--json"),
    "watch": ("health", "--watch"),
    "send": ("send", "m", "--input", "[1, 2]"),
    "send-to": ("send", "m", "--input", f"{EVIL}=[1, 2]"),
    "send-json": ("send", "m", "--input", "[1, 2]", "--output", "json"),
    "send-npy": ("send", "m", "--input", "[1, 2]", "--output", "npy"),
    "bench": ("bench", "m", "--requests", "3"),
}


@contextmanager
def hostile(name: str) -> Iterator[str]:
    with Peer(SERVERS[name]) as peer:
        yield peer.url


def run(url: str, *arguments: str, width: str = "100") -> tuple[str, BaseException | None]:
    """Everything the command printed, on either stream."""
    done = CliRunner(env={"TENSORWIRE_URL": url, "COLUMNS": width}).invoke(cli, arguments, prog_name="tensorwire")
    return done.output, done.exception


def check(printed: str, longest: int) -> None:
    for line in printed.split("\n"):
        assert line.isprintable(), line[:200]
        assert len(line) <= longest, line[:200]


# A watch of a server that answers stays for ever, as it should: what it prints is in the next test.
PAIRS = [(s, c) for s in SERVERS for c in COMMANDS if (s, c) != ("answers", "watch")]


@pytest.mark.parametrize(("server", "command"), PAIRS)
def test_what_a_hostile_server_says_is_printed_escaped_and_capped(server: str, command: str) -> None:
    with hostile(server) as url:
        printed, raised = run(url, *COMMANDS[command])
        assert raised is None or isinstance(raised, SystemExit), raised
        assert printed
        json_asked = "json" in command and server == "answers"
        check(printed, 1 << 20 if json_asked else LONG)
        if json_asked:
            json.loads(printed)


def test_a_watch_prints_what_it_is_told_escaped() -> None:
    def tells_and_closes(peer: PeerConnection, message: Message) -> None:
        body = payload("$health")
        meta = encode_metadata("$health", "", [TensorSpec("payload", BYTES, (FREE,))])
        peer.send(message.stream_id, meta, pack_extension(dims=struct.pack("<Q", len(body))), body, flags=0)
        peer.hang_up()

    with Peer(tells_and_closes) as peer:
        printed, _ = run(peer.url, "health", "--watch")
        assert "forged line" in printed
        check(printed, LONG)


def test_values_with_labels_are_printed_escaped() -> None:
    def labelled(peer: PeerConnection, message: Message) -> None:
        if decode_metadata(message.meta).model.startswith("$"):
            answers_everything(peer, message)
        else:
            meta = encode_metadata(NAME, NAME, [TensorSpec(NAME, FLOAT, (2, 2))])
            peer.send(message.stream_id, meta, b"", bytes(16))

    with Peer(labelled) as peer:
        for output in ("table", "json"):
            printed, _ = run(peer.url, "send", "m", "--input", "[1, 2]", "--output", output)
            assert "forged line" in printed
            check(printed, 1 << 20)


@pytest.mark.parametrize("server", ["fails", "closes", "goes-away", "bad-replies"])
def test_errors_of_the_library_are_safe_to_log(server: str) -> None:
    with hostile(server) as url, tensorwire.connect(url) as client:
        for call in (lambda: client.infer("m", {"x": np.zeros(2, np.float32)}), client.models):
            with pytest.raises(TensorwireError) as caught:
                call()
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) <= 2 * TEXT_LIMIT


def test_a_capture_of_a_hostile_server_is_printed_escaped(tmp_path: Path) -> None:
    for server in ("answers", "fails", "closes"):
        file = tmp_path / f"{server}.twcap"
        with hostile(server) as url:
            run(url, "send", "m", "--input", "[1, 2]", "--capture", str(file))
        printed, raised = run("", "decode", str(file))
        assert raised is None or isinstance(raised, SystemExit)
        assert "OPEN" in printed
        check(printed, LONG)


def test_names_of_outputs_are_no_paths_in_a_file_of_arrays(tmp_path: Path) -> None:
    """`npz` is an archive: a name in it is a path to whoever unpacks it."""
    names = ("../../evil", "/etc/evil", "file", "allow_pickle")

    def climbs(peer: PeerConnection, message: Message) -> None:
        if decode_metadata(message.meta).model.startswith("$"):
            answers_everything(peer, message)
        else:
            specs = [TensorSpec(name, FLOAT, (16,)) for name in names]
            peer.send(message.stream_id, encode_metadata("m", "1", specs), b"", bytes(64 * len(names)))

    file = tmp_path / "out.npz"
    with Peer(climbs) as peer:
        printed, raised = run(peer.url, "send", "m", "--input", "[1, 2]", "--output", f"npy={file}")
    assert raised is None or isinstance(raised, SystemExit), raised
    check(printed, LONG)
    if file.exists():
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            assert all(".." not in name and not name.startswith("/") for name in arrays)
