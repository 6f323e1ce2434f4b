"""What a peer sends can be logged: escaped, and cut."""

from __future__ import annotations

import io
import json
import logging
import logging.config

import structlog

from tensorwire.server.engine.log import log
from tensorwire.server.logs import FORWARDED_PER_SECOND, MAX_VALUE_CHARS, configure_logs, get_logger, printable


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


def test_a_flood_of_it_is_no_flood_of_log() -> None:
    out = io.StringIO()
    configure_logs("json", "info", out)
    for number in range(10 * FORWARDED_PER_SECOND):
        logging.getLogger("a.library").warning("again %d", number)
    events = [json.loads(line)["event"] for line in out.getvalue().splitlines()]
    left_out = [int(event.split()[0]) for event in events if "left out" in event]
    assert len(events) - len(left_out) + sum(left_out) <= 10 * FORWARDED_PER_SECOND
    assert len(events) < 5 * FORWARDED_PER_SECOND


def test_what_an_engine_says_is_one_record_with_its_traceback() -> None:
    out = io.StringIO()
    configure_logs("json", "info", out)
    log.error("m/1: model raised ValueError: 'no'", "Traceback\n  line\nValueError: 'no'\n")
    log.info("m/1: printed")
    first, second = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (first["level"], first["part"], first["exception"].count("\n")) == ("error", "engine", 3)
    assert (second["level"], second["event"], "exception" in second) == ("info", "m/1: printed", False)


def test_a_model_that_sets_the_logging_libraries_up_for_itself_silences_nobody_else() -> None:
    """Both are one for the whole process, and a model on the loop may use either."""
    out = io.StringIO()
    configure_logs("json", "info", out)
    before = structlog.get_config()
    try:
        logging.disable(logging.CRITICAL)
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
        structlog.configure(processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent)])
        log.warning("m/1: heard")
        get_logger("front").info("heard", number=1)
    finally:
        logging.disable(logging.NOTSET)
        structlog.configure(**before)
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["m/1: heard", "heard"]
