"""What a peer sends can be logged: escaped, and cut."""

from __future__ import annotations

import io
import json
import logging

from tensorwire.server.logs import MAX_VALUE_CHARS, configure_logs, get_logger, printable


def test_control_characters_are_escaped() -> None:
    assert printable("a\r\nb\x1b[31mc\x00") == "a\\r\\nb\\x1b[31mc\\x00"


def test_bidirectional_overrides_and_surrogates_are_escaped() -> None:
    assert printable("a\u202eb\udc80") == "a\\u202eb\\udc80"


def test_long_values_are_cut_and_say_so() -> None:
    text = printable("x" * (1 << 20))
    assert len(text) < MAX_VALUE_CHARS + 50
    assert text.endswith("(1048576 characters)")


def test_a_json_line_is_one_line_whatever_it_carries() -> None:
    out = io.StringIO()
    configure_logs("json", "info", out)
    get_logger("test").info("closed", detail="one\ntwo", bytes_value=b"\x00\n", number=3)
    (line,) = out.getvalue().splitlines()
    event = json.loads(line)
    assert event["detail"] == "one\\ntwo"
    assert event["number"] == 3
    assert event["part"] == "test"


def test_lines_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    configure_logs("console", "warning", out)
    get_logger("test").info("quiet")
    get_logger("test").warning("loud", text="a\x1bb")
    assert "quiet" not in out.getvalue()
    assert "loud" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_what_the_standard_library_logs_goes_the_same_way() -> None:
    out = io.StringIO()
    configure_logs("json", "info", out)
    logging.getLogger("tensorwire.engine").warning("process %d ended:\n%s", 7, "killed")
    logging.getLogger("asyncio").debug("quiet")
    (line,) = out.getvalue().splitlines()
    event = json.loads(line)
    assert (event["part"], event["level"]) == ("engine", "warning")
    assert event["event"] == "process 7 ended:\\nkilled"
