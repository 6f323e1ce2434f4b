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
        ("tws://gpu1", Address(host="gpu1", port=7413, tls=True)),
        ("tws://robot@[::1]:9000", Address(host="::1", port=9000, key_id="robot", tls=True)),
        ("tw+unix:///run/tensorwire.sock", Address(path="/run/tensorwire.sock")),
        ("tw+unix:///a%20b.sock", Address(path="/a b.sock")),
        ("tw://robot.7@gpu1:9000", Address(host="gpu1", port=9000, key_id="robot.7")),
        ("tw://robot@[::1]", Address(host="::1", port=7411, key_id="robot")),
        ("tw+unix://robot@/run/t.sock", Address(path="/run/t.sock", key_id="robot")),
        ("tw+unix:///run/a@b.sock", Address(path="/run/a@b.sock")),
    ],
)
def test_an_address_is_read(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("", "names no host"),
        ("localhost:", "has the port ''"),
        ("http://localhost:7411", "unknown scheme 'http'"),
        ("TW://localhost", "unknown scheme"),
        ("tw://", "names no host"),
        ("tw://a..b", "an empty or overlong part between the dots of its host"),
        ("tw://.a", "an empty or overlong part"),
        ("tw://ä..b:7411", "an empty or overlong part"),
        (f"tws://{'a' * 64}.example", "an empty or overlong part"),
        ("tw://:7411", "names no host"),
        ("tw://a b", "names no host"),
        ("tw://host:", "expected a number from 1 to 65535"),
        ("tw://host:0", "expected a number from 1 to 65535"),
        ("tw://host:65536", "expected a number from 1 to 65535"),
        ("tw://host:-1", "expected a number from 1 to 65535"),
        ("tw://host:٣", "expected a number from 1 to 65535"),
        ("tw://host:7411/model", "has a path"),
        ("tw://host?x=1", "has a query"),
        ("tw://me you@host", "no key id"),
        ("tw://@host", "no key id"),
        ("tw://" + "x" * 65 + "@host", "no key id"),
        ("tw://me:@host", "has a password"),
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
        parse_url("http://localhost")
    with pytest.raises(ValueError, match="scheme"):
        parse_url("http://localhost")
    with pytest.raises(InvalidURL, match="not bytes"):
        parse_url(b"tw://host")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gpu1:7500", "tw://gpu1:7500"),
        ("localhost", "tw://localhost:7411"),
        ("[::1]:7", "tw://[::1]:7"),
        ("robot@gpu1:7500", "tw://gpu1:7500"),
        ("/run/models.sock", "tw+unix:///run/models.sock"),
    ],
)
def test_the_scheme_may_be_left_out(typed: str, meant: str) -> None:
    assert str(parse_url(typed)) == meant


@pytest.mark.parametrize(
    "url", ["tw://localhost:9000", "tw://[::1]:7411", "tws://gpu1:7413", "tws://[::1]:1", "tw+unix:///run/t.sock"]
)
def test_an_address_prints_as_the_url_it_came_from(url: str) -> None:
    assert str(parse_url(url)) == url


def test_the_key_id_is_no_part_of_the_printed_address() -> None:
    assert str(parse_url("tw://robot@[::1]:7411")) == "tw://[::1]:7411"


SECRET = "Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE"


@pytest.mark.parametrize(
    "url",
    [
        f"tw://robot:{SECRET}@host",
        f"tw://robot:{SECRET}@host:0",
        f"tw://robot:{SECRET}",
        f"tw://{SECRET}:robot",
        f"tw://[{SECRET}",
        f"tw://robot:{SECRET}/x@host",
        f"robot:{SECRET}",
        f"robot:{SECRET}@host",
        f"http://robot:{SECRET}@host",
        f"tw+unix://robot:{SECRET}@/run/t.sock",
        f"{SECRET}://host",
        "tw://robot:hunter2@host",
        "robot:hunter2@host",
        "http://robot:hunter2@host/",
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidURL) as caught:
        parse_url(url)
    for secret in (SECRET, "hunter2"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "[0:0:0:0:0:0:0:1]", "localhost"])
def test_loopback_is_local(host: str) -> None:
    assert parse_url(f"tw://{host}").is_local


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "0.0.0.0",
        "[::]",
        "[fe80::1]",
        "gpu1",
        "gr\u00fcn",
        "localhost.example",
        "127.0.0.1.example",
        "128.0.0.1",
    ],
)
def test_other_addresses_and_names_are_not_local(host: str) -> None:
    assert not parse_url(f"tw://{host}").is_local


def test_a_unix_socket_is_local() -> None:
    assert parse_url("tw+unix:///run/t.sock").is_local


def test_what_is_sent_over_tls_or_within_this_machine_is_private() -> None:
    assert parse_url("tws://gpu1").is_private
    assert not parse_url("tws://gpu1").is_local
    assert parse_url("tw://localhost").is_private
    assert not parse_url("tw://gpu1").is_private
