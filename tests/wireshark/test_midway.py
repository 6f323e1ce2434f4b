"""Captures of signed connections that begin in the middle or lack a segment, under the real tshark and ``decode``."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorwire
from tests.protocol.test_resync import Sent, sent
from tests.support.packets import START_US, Conversation, Packet, pcap
from tests.support.server import running_server
from tests.support.sessions import Piece, big_session, small_session
from tests.wireshark.agreement import Common, by_decode, by_tshark
from tests.wireshark.test_live import ROOT, start_capture, wait_until_quiet
from tests.wireshark.tshark import shown, tshark

pytestmark = [pytest.mark.xdist_group("tshark"), pytest.mark.timeout(200)]

SUITES = ("hmac-sha256", "aes-256-gmac")
ONLY_OURS = ("-J", "tensorwire")
UNCHECKED = "not checked: the handshake was not captured"


def midway(session: list[Piece], cut: int, mss: int, number: int = 0) -> list[Packet]:
    """The packets of a connection whose first bytes, of the first writes so many, were not captured."""
    now = START_US + number * 1_000_000
    conversation = Conversation(client=("127.0.0.1", 10_000 + number), mss=mss, now_us=now)
    for side, data in session:
        conversation.send(side, data[min(cut, len(data)) :])
        cut -= min(cut, len(data))
    return conversation.packets


def kinds(found: list[Common], side: str) -> list[tuple[int, int, int]]:
    return [(item["type"], item["stream"], item["length"]) for item in found if item.get("sender") == side]


def expected(one: Sent, cut: int) -> list[tuple[int, int, int]]:
    return [(header[1], header[4], header[0]) for header in one.after(cut)]


def cut_of(session: list[Piece], cut: int, side: bool) -> int:
    """How many of the missing bytes are this side's."""
    mine = 0
    for one, data in session:
        mine += min(cut, len(data)) if one is side else 0
        cut -= min(cut, len(data))
    return mine


@pytest.mark.parametrize("seed", range(3))
def test_decode_and_tshark_agree_on_signed_sessions_from_the_middle_on(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    packets: list[Packet] = []
    mss = (100, 1400, 60_000)[seed]
    for number in range(80):
        session = small_session(chance.choice(SUITES))
        size = sum(len(data) for _, data in session)
        packets += midway(session, chance.randrange(9, size - 200), mss, number)
    file = tmp_path / "midway.pcap"
    file.write_bytes(pcap(packets))
    ours = by_decode(file.read_bytes())
    assert by_tshark(file, *ONLY_OURS) == ours
    assert by_tshark(file, *ONLY_OURS, "-2") == ours
    # Where only a part of HELLO is missing, WELCOME says what is signed with.
    assert UNCHECKED in {item["check"] for item in ours if "record" in item} <= {UNCHECKED, "not checked"}
    assert not any(item.get("malformed") for item in ours)


@pytest.mark.parametrize("mac", SUITES)
@pytest.mark.parametrize("mss", [1448, 60_000])
def test_a_capture_that_begins_within_a_chunk_is_read_by_both_from_the_next_record_on(
    tmp_path: Path, mac: str, mss: int
) -> None:
    session = big_session(4 << 20, 1 << 20, mac)
    cut = sum(len(data) for _, data in session[:4]) + 1_500_000
    file = tmp_path / "midway.pcap"
    file.write_bytes(pcap(midway(session, cut, mss)))
    ours = by_decode(file.read_bytes())
    for side, name in ((True, "client"), (False, "server")):
        wanted = expected(sent(session, side), cut_of(session, cut, side))
        assert kinds(ours, name)[-len(wanted) :] == wanted
        assert len(wanted) >= 4
    assert by_tshark(file, *ONLY_OURS) == ours


@pytest.mark.parametrize("mss", [100, 1448])
def test_a_segment_lost_in_the_middle_costs_both_the_records_that_it_touches(tmp_path: Path, mss: int) -> None:
    session = big_session(200_000, 16_384, "hmac-sha256")
    whole = Conversation(mss=mss).handshake()
    for side, data in session:
        whole.send(side, data)
    chance = random.Random(mss)
    last = [(15, 0, 0)]  # the client's CLOSE
    for _ in range(4):
        packets = list(whole.packets)
        at = chance.randrange(8, len(packets) - 30)
        del packets[at]
        file = tmp_path / "lost.pcap"
        file.write_bytes(pcap(packets))
        ours, theirs = by_decode(file.read_bytes()), by_tshark(file, *ONLY_OURS)
        for found in (ours, theirs):
            everything = {expected for side in (True, False) for expected in expected_all(session, side)}
            assert set(kinds(found, "client") + kinds(found, "server")) <= everything
            assert kinds(found, "client")[-1:] == last
            assert len(kinds(found, "client") + kinds(found, "server")) >= 30


def expected_all(session: list[Piece], side: bool) -> list[tuple[int, int, int]]:
    one = sent(session, side)
    handshake = [(1, 0, 107), (3, 0, 36)] if side else [(2, 0, 162)]
    return handshake + expected(one, 0)


def test_tshark_says_that_the_handshake_was_not_captured(tmp_path: Path) -> None:
    session = small_session("hmac-sha256")
    file = tmp_path / "midway.pcap"
    file.write_bytes(pcap(midway(session, sum(len(data) for _, data in session[:3]) + 10, 1400)))
    records = [item for item in shown(file, *ONLY_OURS) if "record.tag" in item.values]
    assert {item.one("record.check") for item in records} == {UNCHECKED}
    assert UNCHECKED in tshark(file, "-V")


def test_a_capture_started_while_a_signed_client_works_is_read_by_both(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "echo").symlink_to(ROOT / "examples" / "models" / "echo")
    key, keys, file = tmp_path / "robot.key", tmp_path / "keys.toml", tmp_path / "live.pcapng"
    tool = [str(Path(sys.executable).parent / "tensorwire")]
    subprocess.run([*tool, "keys", "new", "--principal", "robot", "--out", key, keys], check=True, capture_output=True)
    image = np.arange(3 * 50_176, dtype=np.float32).reshape(3, 50_176)
    with running_server(tmp_path / "models", "--keys", str(keys)) as server:
        with tensorwire.connect(f"tw://{server.address[0]}:{server.address[1]}", key=key) as client:
            client.infer("echo", {"x": image})
            capture = start_capture(file, server.address[1])
            try:
                for rows in (1, 3):
                    assert np.array_equal(client.infer("echo", {"x": image[:rows]})["y"], image[:rows])
                client.close()
                wait_until_quiet(file, server.address[1])
            finally:
                capture.send_signal(signal.SIGINT)
                capture.communicate(timeout=20)
        done = subprocess.run(
            [*tool, "decode", file, "--port", str(server.address[1])], check=True, capture_output=True, text=True
        )
    lines = done.stdout.splitlines()
    assert sum(" OPEN stream=2" in line or " OPEN stream=3" in line for line in lines) == 2
    assert any("echo@1 y:float32[3,50176]" in line for line in lines)
    assert all(line.endswith(UNCHECKED) for line in lines if " RECORD " in line)
    assert not any(" ! " in line for line in lines)
    theirs = by_tshark(
        file, *ONLY_OURS, "-o", f"tensorwire.port:{server.address[1]}", "-o", "tcp.reassemble_out_of_order:TRUE"
    )
    assert [item["type"] for item in theirs if "type" in item].count(5) == 2
    assert any(item.get("code") == "NO_ERROR" for item in theirs)
