"""Peer text in a message is quoted, escaped and capped."""

from __future__ import annotations

import pytest

from tensorwire.codec import CodecError
from tensorwire.codec.errors import shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "'plain'"),
        ("a\r\nb", r"'a\r\nb'"),
        ("\x1b[0m", r"'\x1b[0m'"),
        ("é\ud800", r"'\xe9\ud800'"),
        ("", "''"),
    ],
)
def test_text_is_escaped(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize("character", ["x", "\x1b", "\U0001f600", "'"])
def test_text_is_capped(character: str) -> None:
    assert len(shown(character * 1_000_000)) <= 90
    assert shown(character * 81).endswith("...'")


def test_a_codec_error_is_a_value_error() -> None:
    assert issubclass(CodecError, ValueError)
