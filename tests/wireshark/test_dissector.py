"""The Wireshark dissector under the real tshark: what it shows is what ``tensorwire decode`` reads, frame by frame.

No input may end in a Lua error: the helper that runs tshark fails on any.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzz.strategies_frames import DATA, END, HEADER, OPEN, PING, frame
from tensorwire.protocol.limits import PREFACE
from tests.support.packets import START_US, Conversation, Packet, pcap
from tests.support.sessions import Session, big_session, small_session
from tests.support.vector_sessions import vector_sessions
from tests.vectors.wire import metadata
from tests.wireshark import generate
from tests.wireshark import tshark as runner
from tests.wireshark.agreement import by_decode, by_tshark
from tests.wireshark.tshark import DISSECTOR, shown, tshark

pytestmark = pytest.mark.xdist_group("tshark")

SMALL = small_session()
ONLY_OURS = ("-J", "tensorwire")


def written(session: list[tuple[bool, bytes]], mss: int = 1400, **ends: tuple[str, int]) -> Conversation:
    conversation = Conversation(mss=mss, **ends).handshake()  # type: ignore[arg-type]
    for from_client, data in session:
        conversation.send(from_client, data)
    return conversation.close()


def save(folder: Path, packets: list[Packet], **options: int) -> Path:
    file = folder / "captured.pcap"
    file.write_bytes(pcap(packets, **options))  # type: ignore[arg-type]
    return file


def check_agreement(file: Path, *options: str) -> int:
    """Both read the same frames; how many."""
    ours, theirs = by_decode(file.read_bytes()), by_tshark(file, *ONLY_OURS, *options)
    for our, their in zip(ours, theirs, strict=False):
        assert our == their
    assert len(ours) == len(theirs)
    return len(ours)


def several(sessions: list[list[tuple[bool, bytes]]], mss: int = 60_000) -> list[Packet]:
    """Each session as a connection of its own, one after another."""
    packets: list[Packet] = []
    for n, session in enumerate(sessions):
        conversation = Conversation(client=("127.0.0.1", 10_000 + n), mss=mss, now_us=START_US + n * 1_000_000)
        conversation.handshake()
        for from_client, data in session:
            conversation.send(from_client, data)
        packets += conversation.close().packets
    return packets


# --- a session, frame by frame --------------------------------------------------------------------------------------


def test_the_committed_capture_is_what_the_script_writes() -> None:
    assert generate.TARGET.read_bytes() == generate.session_pcap(), "run: python -m tests.wireshark.generate"


def test_the_committed_capture_prints_frame_by_frame() -> None:
    names = ("frame.number", "sender", "type", "stream_id", "flags", "model", "status", "error_code")
    options = [part for name in names for part in ("-e", name if "." in name else f"tensorwire.{name}")]
    output = tshark(generate.TARGET, "-Y", "tensorwire", "-T", "fields", "-E", "separator=|", *options)
    assert output.splitlines() == [
        "4|client|1|0|0x0000|||",
        "5|server|2|0|0x0000|||",
        "6|client|3|0|0x0000|||",
        "7|server|4|0|0x0000|||",
        "9|client|5|1|0x0005|echo||",  # in two segments
        "10|server|6|1|0x0001|echo||",
        "11|client|5|2|0x0000|words||",
        "12|server|6|2|0x0000|words||",
        "13|client|11|0|0x0000|||",
        "15|server|12|0|0x0000|||",
        "16|client|8|2|0x0000|||",
        "17|client|5|3|0x0001|no\\x1b[31m such\\x0amodel||",
        "18|server|7|2|0x0000||1|",
        "19|server|7|3|0x0020||5|",
        "21|server|13|18446744073709551615|0x0000|||13",
        "22|client|15|0|0x0000|||0",
    ]


def test_the_packet_list_says_what_each_frame_is() -> None:
    output = tshark(generate.TARGET, "-T", "fields", "-e", "_ws.col.Info")
    lines = [line.strip() for line in output.splitlines()]
    assert lines[3] == "PREFACE, HELLO"
    assert "OPEN 1 END_STREAM+WANT_TIMING echo" in lines
    assert "END 3 NOT_STARTED NOT_FOUND" in lines
    assert "OPEN 3 END_STREAM no\\x1b[31m such\\x0amodel" in lines


def test_decode_and_tshark_agree_on_the_committed_capture() -> None:
    assert check_agreement(generate.TARGET) == 17


def test_every_detail_of_a_frame_is_a_field() -> None:
    items = shown(generate.TARGET)
    hello, welcome, ready = items[1], items[2], items[4]
    assert hello.one("agent") == "session/1"
    assert hello.values["entry"] == ["1", "2", "3", "4", "6", "8", "9"]
    assert hello.one("feature") == "0x0a0a"
    assert welcome.one("connection_id").replace(":", "") == "5f0c1d2e3b4a5968"
    assert welcome.one("mac") == "0"
    assert ready.one("principal") == "anonymous"
    assert "max_message: 1073741824" in ready.one("ready")
    call, reply = items[5], items[6]
    assert call.values["item"] == ["1", "5"]
    assert call.values["dim"] == ["1", "3"]
    assert call.one("deadline_us") == "250000"
    assert call.one("trace_id").replace(":", "") == bytes(range(16)).hex()
    assert reply.one("timing.compute_us") == "150"
    assert items[-3].one("retry_after_us") == "1500"
    assert items[-3].one("queue_estimate_us") == "2500"
    words = items[7]
    assert words.values["tensor"] == ["t: string[3]", "n: int64[]"]
    assert words.values["tensor.rank"] == ["1", "0"]


def test_a_call_and_its_answer_are_linked() -> None:
    items = [item for item in shown(generate.TARGET, "-2") if item.values.get("stream_id") == ["3"]]
    assert [item.one("type") for item in items] == [str(OPEN), str(END)]
    assert items[0].one("response_in") == "19"
    assert items[1].one("request_in") == "17"
    assert float(items[1].one("time")) == pytest.approx(0.00002, abs=1e-6)


# --- TCP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mss", [7, 31, 33, 200])
def test_frames_split_over_segments_are_put_together(tmp_path: Path, mss: int) -> None:
    assert check_agreement(save(tmp_path, written(SMALL, mss).packets)) == 17


def test_several_frames_in_a_segment_are_all_shown(tmp_path: Path) -> None:
    by_side = [(side, b"".join(data for from_client, data in SMALL if from_client == side)) for side in (True, False)]
    assert check_agreement(save(tmp_path, written(by_side).packets)) == 17


def test_a_body_of_600_kb_over_many_segments_is_its_chunks(tmp_path: Path) -> None:
    file = save(tmp_path, written(big_session(602_112)).packets)
    assert check_agreement(file) == 16
    lengths = [item.one("body_len") for item in shown(file, *ONLY_OURS) if item.values.get("type") == [str(DATA)]]
    assert lengths[:3] == ["262144", "262144", "77824"]


def test_segments_that_come_late_or_twice_change_nothing(tmp_path: Path) -> None:
    packets = written(SMALL, 60).packets
    shuffled = packets[:4]
    for n in range(4, len(packets) - 3, 4):
        part = packets[n : n + 4]
        shuffled += [*part[:1], *part[1:][::-1], part[0]]
    file = save(tmp_path, shuffled + packets[-3:])
    theirs = by_tshark(file, *ONLY_OURS, "-o", "tcp.reassemble_out_of_order:TRUE")
    whole = by_tshark(save(tmp_path, packets), *ONLY_OURS)
    for side in ("client", "server"):
        kinds = [[frame.get("type") for frame in found if frame.get("sender") == side] for found in (theirs, whole)]
        assert kinds[0] == kinds[1]


def test_a_packet_cut_by_the_snap_length_shows_what_is_there(tmp_path: Path) -> None:
    file = save(tmp_path, written(big_session(200_000)).packets, snap=150)
    items = shown(file)
    assert any("bytes were captured" in text for item in items for text in item.experts)
    assert all("malformed" not in text.lower() for item in items for text in item.experts)


# --- which connections ----------------------------------------------------------------------------------------------


def test_a_connection_on_any_port_is_known_by_its_preface(tmp_path: Path) -> None:
    file = save(tmp_path, written(SMALL, server=("::1", 9000), client=("::2", 5000)).packets)
    assert check_agreement(file) == 17


def test_a_preface_in_two_segments_is_known_too(tmp_path: Path) -> None:
    conversation = Conversation(server=("127.0.0.1", 9000)).handshake().send(True, SMALL[0][1], 5)
    assert check_agreement(save(tmp_path, conversation.packets)) == 2


@pytest.mark.parametrize("option", [("-d", "tcp.port==9000,tensorwire"), ("-o", "tensorwire.port:9000")])
def test_without_its_start_a_connection_is_read_from_the_first_frame(tmp_path: Path, option: tuple[str, str]) -> None:
    call, answer = frame(OPEN, 5, 1, meta=metadata(), body=b"body"), frame(DATA, 5, 1, body=b"body")
    conversation = Conversation(server=("127.0.0.1", 9000)).send(True, bytes(range(100))).send(False, answer)
    file = save(tmp_path, conversation.send(True, call).send(False, answer).packets)
    assert shown(file) == []
    items = shown(file, *option)
    assert [item.values.get("type") for item in items] == [None, ["6"], ["5"], ["6"]]
    assert items[0].experts == ["no frame begins here"]


def test_other_protocols_on_other_ports_are_left_alone(tmp_path: Path) -> None:
    conversation = Conversation(server=("127.0.0.1", 80)).handshake()
    conversation.send(True, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert shown(save(tmp_path, conversation.packets)) == []


def test_with_a_mac_chosen_frames_outside_records_are_not_read(tmp_path: Path) -> None:
    session = list(SMALL)
    session[1] = (False, session[1][1].replace(b"\x06\x00\x01\x00\x00", b"\x06\x00\x01\x00\x01"))
    items = shown(save(tmp_path, written(session).packets), *ONLY_OURS)
    kinds = [item.values.get("type", ["records"])[0] for item in items if "preface" not in item.values]
    assert kinds[:5] == ["1", "2", "3", "records", "records"]
    assert set(kinds[3:]) == {"records"}


def test_the_same_ports_used_again_are_another_connection(tmp_path: Path) -> None:
    first = written(SMALL[:6])
    first.client_seq, first.server_seq = 5_000_000, 9_000_000
    first.handshake()
    for from_client, data in SMALL:
        first.send(from_client, data)
    items = [item for item in shown(save(tmp_path, first.packets), *ONLY_OURS) if "request_in" in item.values]
    calls = [(int(item.one("request_in")), item.packet) for item in items if item.values.get("stream_id") == ["1"]]
    assert [answer - call for call, answer in calls] == [1, 1]


# --- malformed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (HEADER.pack(0, 17, 0, 0, 1, 0, 0, 0, 0, 0), "type 17"),
        (HEADER.pack(0xFFFFFFFF, DATA, 0, 0, 1, 0, 0, 0, 0, 0), "TOO_LARGE"),
        (HEADER.pack(1, OPEN, 0, 1, 1, 0, 0, 9, 0, 0) + b"x", "length is less"),
        (frame(PING, body=b"1234567"), "body of 7 bytes"),
        (frame(OPEN, 1, 1, ext=b"\x09\x01x"), "item 9 of 1 bytes"),
        (frame(OPEN, 1, 1, ext=b"\x01\x08x"), "runs past the end"),
        (frame(OPEN, 1, 1, meta=b"no FlatBuffer"), "TWM1"),
        (frame(OPEN, 1, 1, meta=b"\xff\xff\xff\xffTWM1"), "root"),
        (frame(4, meta=b"\xdf\xff\xff\xff\xff"), "READY ends within a value"),
        (frame(4, meta=b"\x81" * 100), "nested deeper"),
        (frame(END, 1, aux=99), "status 99"),
    ],
)
def test_a_malformed_frame_has_an_expert_info_that_says_why(tmp_path: Path, bad: bytes, text: str) -> None:
    server = bad[4] in {4, END}
    file = save(tmp_path, written([*SMALL[:4], (not server, bad)]).packets)
    (item,) = shown(file, "-Y", "tensorwire.malformed")
    assert text in " ".join(item.experts)


def test_every_vector_at_once_is_read_as_decode_reads_it(tmp_path: Path) -> None:
    sessions = [session for _, session in vector_sessions()]
    assert len(sessions) > 300
    assert check_agreement(save(tmp_path, several(sessions))) > 3000


@pytest.mark.parametrize("seed", [1, 2])
def test_sessions_with_changed_bytes_are_read_as_decode_reads_them(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    sessions = []
    for _ in range(200):
        session = list(SMALL)
        for _ in range(chance.randint(1, 3)):
            n = chance.randrange(len(session))
            changed = bytearray(session[n][1])
            changed[chance.randrange(len(changed))] = chance.choice((0, 1, 4, 8, 127, 128, 255, chance.randrange(256)))
            session[n] = (session[n][0], bytes(changed))
        sessions.append(session)
    assert check_agreement(save(tmp_path, several(sessions))) > 2000


def test_random_bytes_behind_a_handshake_end_in_no_lua_error(tmp_path: Path) -> None:
    chance = random.Random(3)
    sessions = []
    for _ in range(200):
        ext, meta = chance.randbytes(chance.randrange(40)), chance.randbytes(chance.randrange(200))
        kinds = [chance.randrange(20) for _ in range(3)]
        wild = [(chance.random() < 0.5, frame(kind, chance.randrange(3), 1, ext=ext, meta=meta)) for kind in kinds]
        sessions.append([*SMALL[:4], *wild, (True, chance.randbytes(100))])
    assert len(shown(save(tmp_path, several(sessions)), *ONLY_OURS)) > 1000


def test_an_early_preface_without_more_is_no_error(tmp_path: Path) -> None:
    for cut in (1, 5, 8, 20, 39):
        tshark(save(tmp_path, written([(True, (PREFACE + SMALL[0][1][8:])[:cut])]).packets), "-V")


def test_a_lua_error_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that all of this file stands on can fail."""
    broken = tmp_path / "tensorwire.lua"
    source = DISSECTOR.read_text()
    broken.write_text(source.replace("function words_of(h)\n", "function words_of(h)\n  local x = nil + 1\n"))
    assert broken.read_text() != source
    monkeypatch.setattr(runner, "DISSECTOR", broken)
    with pytest.raises(AssertionError, match="Lua"):
        tshark(generate.TARGET, "-V")


def test_sessions_are_real_ones() -> None:
    """Both cores accepted every byte of what is compared above."""
    session = Session()
    assert not session.client.closed
    assert not session.server.closed
