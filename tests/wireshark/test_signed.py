"""Signed connections under the real tshark and ``tensorwire decode``: records split, frames shown, and both agree."""

from __future__ import annotations

import base64
import io
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tensorwire
from tensorwire.clients.cli.commands import decode
from tensorwire.clients.cli.decoding.fields import fields_of
from tensorwire.clients.cli.decoding.rows import Rows
from tensorwire.clients.cli.decoding.text import line_of
from tensorwire.protocol.capture import CaptureWriter
from tests.support.packets import Conversation, pcap
from tests.support.server import running_server
from tests.support.sessions import KEY_ID, SECRET, Piece, big_session, small_session
from tests.wireshark.agreement import by_decode, by_tshark
from tests.wireshark.test_dissector import several
from tests.wireshark.test_live import ROOT, start_capture, wait_until_quiet
from tests.wireshark.tshark import shown, tshark

pytestmark = [pytest.mark.xdist_group("tshark"), pytest.mark.timeout(100)]

SUITES = ("hmac-sha256", "aes-256-gmac")
ONLY_OURS = ("-J", "tensorwire")


def saved(folder: Path, session: list[Piece], mss: int = 1400, *, at_once: bool = False) -> Path:
    """The session as packets; `at_once`: writes of one side in a row are one, so that records share segments."""
    conversation = Conversation(mss=mss).handshake()
    if at_once:
        merged: list[Piece] = []
        for side, data in session:
            if merged and merged[-1][0] == side:
                merged[-1] = (side, merged[-1][1] + data)
            else:
                merged.append((side, data))
        session = merged
    for side, data in session:
        conversation.send(side, data)
    file = folder / "signed.pcap"
    file.write_bytes(pcap(conversation.close().packets))
    return file


def lines(file: Path, **keys: bytes) -> list[str]:
    rows = Rows(io.BytesIO(file.read_bytes()), None, (lambda key_id: keys.get(key_id.decode())) if keys else None)
    return [line_of(fields_of(row)) for row in rows]


@pytest.mark.parametrize("mss", [60, 536, 1400, 60_000])
@pytest.mark.parametrize("mac", SUITES)
def test_decode_and_tshark_agree_on_a_signed_session(tmp_path: Path, mac: str, mss: int) -> None:
    for at_once in (False, True):
        file = saved(tmp_path, small_session(mac), mss, at_once=at_once)
        ours = by_decode(file.read_bytes())
        assert by_tshark(file, *ONLY_OURS) == ours
        assert sum("record" in item for item in ours) >= 8
        assert [item["type"] for item in ours if "type" in item][:4] == [1, 2, 3, 4]
        assert len(next(item["proof"] for item in ours if item.get("type") == 2)) == 64
        assert not any(item.get("malformed") for item in ours)


@pytest.mark.parametrize("mac", SUITES)
def test_decode_and_tshark_agree_on_signed_chunks(tmp_path: Path, mac: str) -> None:
    file = saved(tmp_path, big_session(mac=mac), 1400)
    ours = by_decode(file.read_bytes())
    assert by_tshark(file, *ONLY_OURS) == ours
    assert sum(item["record"] > 16384 for item in ours if "record" in item) >= 4


def test_tshark_shows_mac_key_id_proofs_and_tags_that_it_does_not_check(tmp_path: Path) -> None:
    items = shown(saved(tmp_path, small_session("hmac-sha256")))
    hello, welcome, auth = items[1], items[2], items[3]
    assert (hello.one("mac"), welcome.one("mac")) == ("1", "1")
    assert bytes.fromhex(hello.one("key_id").replace(":", "")) == KEY_ID
    assert all(len(item.one("proof").replace(":", "")) == 64 for item in (welcome, auth))
    records = [item for item in items if "record.tag" in item.values]
    assert all(item.one("record.check") == "not checked" for item in records)
    info = tshark(tmp_path / "signed.pcap", "-T", "fields", "-e", "_ws.col.Info").splitlines()
    assert [line.strip() for line in info[3:7]] == ["PREFACE, HELLO", "WELCOME", "AUTH", "READY"]


def test_a_filter_by_model_finds_calls_inside_records(tmp_path: Path) -> None:
    file = saved(tmp_path, small_session("aes-256-gmac"))
    found = tshark(file, "-Y", 'tensorwire.model == "words"', "-T", "fields", "-e", "tensorwire.stream_id").split()
    assert found == ["2", "2"]


def test_two_passes_show_what_one_does(tmp_path: Path) -> None:
    file = saved(tmp_path, small_session("hmac-sha256"), 100, at_once=True)
    assert by_tshark(file, *ONLY_OURS, "-2") == by_tshark(file, *ONLY_OURS)


@pytest.mark.parametrize(
    "data",
    [
        (31).to_bytes(4, "little") + bytes(60),
        (1_048_609).to_bytes(4, "little") + bytes(60),
        (33).to_bytes(4, "little") + (2).to_bytes(4, "little") + bytes(45),
        (40).to_bytes(4, "little") + bytes((0, 0, 0, 0, 15)) + bytes(51),
    ],
)
def test_a_record_that_is_none_is_malformed_to_both(tmp_path: Path, data: bytes) -> None:
    session = small_session("hmac-sha256")
    file = saved(tmp_path, [*session[:3], (True, data)], 60_000)
    assert any(item.experts for item in shown(file, *ONLY_OURS))
    assert any(" ! FRAME: " in line or "FRAME: " in line or "TOO_LARGE: " in line for line in lines(file))


@pytest.mark.parametrize("seed", range(3))
def test_signed_sessions_with_changed_bits_are_read_alike(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    damaged = []
    for _ in range(80):
        session = small_session(chance.choice(SUITES))
        for _ in range(chance.choice((1, 1, 3))):
            index = chance.randrange(len(session))
            side, data = session[index]
            at = chance.randrange(len(data))
            session[index] = (side, data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :])
        damaged.append(session)
    file = tmp_path / "damaged.pcap"
    file.write_bytes(pcap(several(damaged, chance.choice((100, 1400, 60_000)))))
    assert by_tshark(file, *ONLY_OURS) == by_decode(file.read_bytes())


def test_decode_marks_each_tag_good_with_the_key_and_the_wrong_one_bad(tmp_path: Path) -> None:
    session = small_session("hmac-sha256")
    file = saved(tmp_path, session)
    assert sum(" not checked" in line for line in lines(file) if " RECORD " in line) == sum(
        " good" in line for line in lines(file, session=SECRET) if " RECORD " in line
    )
    side, data = session[6]
    session[6] = (side, data[:60] + bytes((data[60] ^ 1,)) + data[61:])
    marked = [line.split()[-1] for line in lines(saved(tmp_path, session), session=SECRET) if " RECORD " in line]
    assert marked.count("bad") == 1
    assert marked.count("good") == len(marked) - 1


def test_a_capture_of_ours_is_judged_with_the_key_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "session.twcap"
    writer = CaptureWriter(file)
    for n, (from_client, data) in enumerate(small_session("aes-256-gmac")):
        (writer.sent if from_client else writer.received)(data, n / 1000)
    writer.close()
    text = f"{KEY_ID.decode()}:{base64.urlsafe_b64encode(SECRET).decode().rstrip('=')}"
    for key, verdict in ((text, "good"), ("", "not checked")):
        monkeypatch.setenv("TENSORWIRE_KEY", key)
        done = CliRunner().invoke(decode.command, [str(file)])
        marked = [line for line in done.output.splitlines() if " RECORD " in line]
        assert len(marked) >= 8
        assert all(line.endswith(verdict) for line in marked)
        assert text.partition(":")[2] not in done.output
    monkeypatch.setenv("TENSORWIRE_KEY", "session:secret")
    done = CliRunner().invoke(decode.command, [str(file)])
    assert done.exit_code != 0
    assert "session:secret" not in done.output


def test_a_live_signed_session_is_read_by_both_and_its_tags_are_good(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "echo").symlink_to(ROOT / "examples" / "models" / "echo")
    key, keys, file = tmp_path / "robot.key", tmp_path / "keys.toml", tmp_path / "live.pcapng"
    tool = [str(Path(sys.executable).parent / "tensorwire")]
    subprocess.run([*tool, "keys", "new", "--principal", "robot", "--out", key, keys], check=True, capture_output=True)
    image = np.arange(3 * 50_176, dtype=np.float32).reshape(3, 50_176)
    with running_server(tmp_path / "models", "--keys", str(keys)) as server:
        capture = start_capture(file, server.address[1])
        try:
            for mac in SUITES:
                with tensorwire.connect(f"tw://{server.address[0]}:{server.address[1]}", key=key, mac=mac) as client:
                    assert np.array_equal(client.infer("echo", {"x": image})["y"], image)
            wait_until_quiet(file)
        finally:
            capture.send_signal(signal.SIGINT)
            capture.communicate(timeout=20)
    ours = by_decode(file.read_bytes())
    assert by_tshark(file, *ONLY_OURS, "-o", "tcp.reassemble_out_of_order:TRUE") == ours
    assert not any(item.get("malformed") for item in ours)
    said = subprocess.run(
        [*tool, "decode", file, "--key-file", key], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    marked = [line.split()[-1] for line in said if " RECORD " in line]
    assert len(marked) >= 8
    assert set(marked) == {"good"}
    assert sum("proof_check=good" in line for line in said) == 4
    assert key.read_text().strip().partition(":")[2] not in "".join(said)
