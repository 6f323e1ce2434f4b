"""What looks like a key is not shown, and nothing else is hidden."""

from __future__ import annotations

import pytest

from tensorwire.protocol.masking import masked

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
