"""HELLO, WELCOME and AUTH: entries, choices, and errors that name both sides."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorwire.protocol import Config, Hello, PeerLimits, ProtocolError, Role, Welcome
from tensorwire.protocol.errors import ErrorCode
from tensorwire.protocol.handshake import (
    check_welcome,
    choose,
    grease_feature,
    is_grease,
    pack_entries,
    pack_hello,
    pack_welcome,
    parse_entries,
    parse_hello,
    parse_welcome,
)

NONCE = bytes(range(0xE0, 0x100))
CLIENT = Config(Role.CLIENT, agent="test client")
SERVER = Config(Role.SERVER)


def hello(**changes: object) -> Hello:
    base: dict[str, object] = {
        "version_min": 1, "version_max": 1, "draft": 1, "nonce": NONCE, "features": (0x0A0A,), "features_required": (),
        "macs": (0,), "key_id": b"", "limits": PeerLimits(16384, 0, 1 << 20), "agent": "",
    }  # fmt: skip
    return Hello(**(base | changes))  # type: ignore[arg-type]


def refusal(hello: Hello, config: Config = SERVER) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        choose(config, hello)
    return caught.value


def test_hello_says_what_the_configuration_says() -> None:
    config = Config(
        Role.CLIENT,
        version_max=3,
        features_offered=(1, 2),
        features_required=(2,),
        key_id=b"key",
        secret=bytes(32),
        agent="test client",
    )
    said = parse_hello(pack_hello(config, NONCE))
    assert (said.version_min, said.version_max, said.draft, said.nonce) == (1, 3, 1, NONCE)
    assert said.features == (1, 2, 0xEA0A)
    assert said.features_required == (2,)
    assert said.macs == (0,)
    assert (said.key_id, said.agent) == (b"key", "test client")
    assert said.limits == PeerLimits(262144, 0, 1 << 40)


def test_welcome_says_what_was_chosen() -> None:
    raw = pack_welcome(SERVER, NONCE, b"connect1", b"b" * 16, (1, (2,), 0))
    said = parse_welcome(raw)
    assert said == Welcome(
        1, 1, NONCE, (2,), 0, PeerLimits(262144, 4096, 1 << 40), "tensorwire", b"connect1", b"b" * 16, b""
    )


def test_the_random_feature_follows_the_nonce_and_is_never_chosen() -> None:
    seen = {grease_feature(bytes((n,)) + bytes(31)) for n in range(256)}
    assert len(seen) == 16
    assert all(map(is_grease, seen))
    assert not any(map(is_grease, (1, 2, 3, 4, 5)))
    config = Config(Role.SERVER, features_offered=(1, 0x0A0A))
    assert choose(config, hello(features=(1, 0x0A0A)))[1] == (1,)


def test_the_highest_common_version_is_chosen() -> None:
    config = Config(Role.SERVER, version_min=2, version_max=5)
    assert choose(config, hello(version_min=1, version_max=4))[0] == 4


@pytest.mark.parametrize(("low", "high"), [(2, 3), (0, 0), (3, 1)])
def test_no_common_version_names_both_ranges(low: int, high: int) -> None:
    error = refusal(hello(version_min=low, version_max=high))
    assert error.code is ErrorCode.VERSION
    assert f"client speaks {low}..{high}" in error.message
    assert "server speaks 1..1" in error.message


def test_another_draft_is_refused_naming_both() -> None:
    error = refusal(hello(draft=2))
    assert error.code is ErrorCode.VERSION
    assert "draft 2" in error.message
    assert "draft 1" in error.message


def test_a_missing_feature_names_both_lists() -> None:
    error = refusal(hello(features=(4, 7), features_required=(4,)), Config(Role.SERVER, features_offered=(1,)))
    assert error.code is ErrorCode.FEATURE
    assert "requires [4]" in error.message
    assert "server has [1]" in error.message
    error = refusal(hello(), Config(Role.SERVER, features_offered=(1,), features_required=(1,)))
    assert error.code is ErrorCode.FEATURE


def test_no_common_mac_names_both_lists() -> None:
    error = refusal(hello(macs=(1, 99)))
    assert error.code is ErrorCode.MAC
    assert "hmac-sha256, 99" in error.message
    assert "none" in error.message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 2}, ErrorCode.VERSION),
        ({"draft": 9}, ErrorCode.VERSION),
        ({"features": (1,)}, ErrorCode.FEATURE),
        ({"features": (0x0A0A,)}, ErrorCode.FEATURE),
        ({"mac": 1}, ErrorCode.MAC),
        ({"mac": 77}, ErrorCode.MAC),
    ],
)
def test_a_choice_that_was_not_offered_is_refused(change: dict[str, object], code: ErrorCode) -> None:
    base: dict[str, object] = {
        "version": 1, "draft": 1, "nonce": NONCE, "features": (), "mac": 0, "limits": PeerLimits(), "agent": "",
        "connection_id": bytes(8), "boot_id": bytes(16), "proof": b"",
    }  # fmt: skip
    with pytest.raises(ProtocolError) as caught:
        check_welcome(CLIENT, Welcome(**(base | change)))  # type: ignore[arg-type]
    assert caught.value.code is code


@given(st.dictionaries(st.integers(0, 65535), st.binary(max_size=50), max_size=8))
def test_entries_come_back_as_they_were(entries: dict[int, bytes]) -> None:
    assert parse_entries(pack_entries(sorted(entries.items()))) == entries


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused_as_a_handshake(raw: bytes) -> None:
    for parse in (parse_hello, parse_welcome):
        with pytest.raises(ProtocolError) as caught:
            parse(raw)
        assert caught.value.code is ErrorCode.HANDSHAKE


@settings(max_examples=300)
@given(st.data())
def test_a_bent_hello_is_parsed_or_refused_as_a_handshake(data: st.DataObject) -> None:
    raw = bytearray(pack_hello(CLIENT, NONCE))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_hello(bytes(raw))
    except ProtocolError as error:
        assert error.code is ErrorCode.HANDSHAKE  # noqa: PT017 - both outcomes are right
