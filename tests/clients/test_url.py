"""Server addresses: what is taken, and what an error says."""

from __future__ import annotations

import pytest

from tensorwire.clients.errors import InvalidURL, LocalError
from tensorwire.clients.url import Address, parse_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("tw://localhost:9000", Address(host="localhost", port=9000)),
        ("tw://localhost", Address(host="localhost", port=7411)),
        ("tw://127.0.0.1:1/", Address(host="127.0.0.1", port=1)),
        ("tw://[::1]:65535", Address(host="::1", port=65535)),
        ("tw://[::1]", Address(host="::1", port=7411)),
        ("tw+unix:///run/tensorwire.sock", Address(path="/run/tensorwire.sock")),
        ("tw+unix:///a%20b.sock", Address(path="/a b.sock")),
    ],
)
def test_an_address_is_read(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("", "has no scheme"),
        ("localhost:7411", "has no scheme"),
        ("http://localhost:7411", "unknown scheme 'http'"),
        ("TW://localhost", "unknown scheme"),
        ("tw://", "names no host"),
        ("tw://:7411", "names no host"),
        ("tw://a b", "names no host"),
        ("tw://host:", "expected a number from 1 to 65535"),
        ("tw://host:0", "expected a number from 1 to 65535"),
        ("tw://host:65536", "expected a number from 1 to 65535"),
        ("tw://host:-1", "expected a number from 1 to 65535"),
        ("tw://host:٣", "expected a number from 1 to 65535"),
        ("tw://host:7411/model", "has a path"),
        ("tw://host?x=1", "has a query"),
        ("tw://me@host", "has a user name"),
        ("tw://::1", "goes in brackets"),
        ("tw://[::1", "brackets"),
        ("tw://[::1]7411", "brackets"),
        ("tw+unix://relative.sock", "absolute path"),
        ("tw+unix:///a\0b", "NUL"),
        ("tw+unix:///folder/", "names a folder"),
        ("tw+unix:///" + "x" * 107, "at most 107"),
    ],
)
def test_a_wrong_address_is_refused_with_a_hint(url: str, hint: str) -> None:
    with pytest.raises(InvalidURL, match=hint.replace("?", r"\?")):
        parse_url(url)


def test_a_wrong_address_is_the_callers_own_fault_and_a_value_error() -> None:
    with pytest.raises(LocalError):
        parse_url("x")
    with pytest.raises(ValueError, match="scheme"):
        parse_url("x")
    with pytest.raises(InvalidURL, match="not bytes"):
        parse_url(b"tw://host")  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["tw://localhost:9000", "tw://[::1]:7411", "tw+unix:///run/t.sock"])
def test_an_address_prints_as_the_url_it_came_from(url: str) -> None:
    assert str(parse_url(url)) == url
