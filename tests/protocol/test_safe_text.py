"""What looks like a key is not shown, and nothing else is hidden."""

from __future__ import annotations

from typing import Any

import pytest

from tensorwire.protocol.safe_text import masked, printable

SECRET = "Zm9v-_" * 7 + "a"


@pytest.mark.parametrize(
    "text", ["{}", "the key file '{}' cannot be read", "tw://{}@host:7411", "a={}, b={}", "{}=", "{}\n"]
)
def test_a_key_is_masked_wherever_it_stands(text: str) -> None:
    shown = masked(text.replace("{}", f"robot:{SECRET}"))
    assert SECRET not in shown
    assert "robot:***" in shown


@pytest.mark.parametrize(
    "text", ["tw://127.0.0.1:7411", "sha256:" + "0123456789abcdef" * 4, "a:b", SECRET, "/a/b:c", ""]
)
def test_what_is_no_key_is_shown(text: str) -> None:
    assert masked(text) == text


def test_a_terminal_obeys_nothing_of_what_is_printed_and_letters_stay() -> None:
    assert printable("a\r\nb\x1b[31mc\x00\ud800\u202e") == "a\\r\\nb\\x1b[31mc\\x00\\ud800\\u202e"
    assert printable("größer 大") == "größer 大"


@pytest.mark.parametrize(
    ("text", "shown"), [("abc", "abc"), ("abcd", "abc~"), ("\n\n\n", "\\n\\n\\n"), ("ab\nd", "ab\\n~")]
)
def test_a_long_text_is_cut_by_its_own_characters(text: str, shown: str) -> None:
    assert printable(text, 3, "~") == shown


@pytest.mark.parametrize("text", [[], {}, b"a", 1, None])
def test_what_is_no_text_is_an_error_of_one_kind(text: Any) -> None:
    with pytest.raises(TypeError):
        printable(text)
