"""What is offered and chosen in the model, and what the attacker puts in the place of each entry (SPEC 9.3 to 9.6).

What lives here: the values that the model's entries take, and `choose` and `acceptable` over them. What must not:
proofs. test_model_is_the_code.py compares both functions with those of protocol/handshake.py over every value here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from .rules import Hello, Welcome

VERSIONS = (1, 2)  # one more than there is, so that there is a version to strip
DRAFT = 1
FEATURES = (2, 3, 4)  # what the server has; honest clients offer 2 and 3 and require 2
GREASE = 0x0A0A
MACS = ("aes-256-gmac", "hmac-sha256", "none")  # all that a server can allow: the worst case
ATTACKERS_NONCE = "attacker"

HELLO_VALUES: dict[str, tuple[Any, ...]] = {
    "versions": (VERSIONS, (1, 1)),
    "draft": (1, 2),
    "features": ((2, 3, GREASE), (2, GREASE), (GREASE,), (2, 3, 4, GREASE)),
    "features_required": ((2,), ()),
    "mac": (MACS[:2], ("hmac-sha256",), ("none",), ("hmac-sha256", "none")),
    "key_id": ("A", "B", "M", "nobody's", ""),
    "limits": ("client's", "altered"),
    "agent": ("client", "altered"),
}
WELCOME_VALUES: dict[str, tuple[Any, ...]] = {
    "versions": (2, 1),
    "draft": (1, 2),
    "features": ((2, 3), (2,), (), (2, 3, 4)),
    "mac": MACS,
    "limits": ("server's", "altered"),
    "agent": ("server", "altered"),
    "connection_id": ("altered",),
    "boot_id": ("boot", "altered"),
}
Entries = TypeVar("Entries", Hello, Welcome)


class Choice(NamedTuple):
    """What the server picks."""

    versions: int
    features: tuple[int, ...]
    mac: str


def choose(hello: Hello) -> Choice | None:
    """The server's choice, None for a refusal in plain."""
    low, high = max(hello.versions[0], VERSIONS[0]), min(hello.versions[1], VERSIONS[1])
    features = tuple(number for number in FEATURES if number in hello.features)
    allowed = [mac for mac in hello.mac if mac in MACS]
    if (
        low > high
        or hello.draft != DRAFT
        or not set(hello.features_required) <= set(features)
        or not allowed
        or (allowed[0] != "none" and not hello.key_id)
    ):
        return None
    return Choice(high, features, allowed[0])


def acceptable(hello: Hello, welcome: Welcome) -> bool:
    """Whether a client that sent `hello` finds all it is told among what it offered."""
    return (
        hello.versions[0] <= welcome.versions <= hello.versions[1]
        and welcome.draft == hello.draft
        and set(hello.features_required) <= set(welcome.features) <= set(hello.features) - {GREASE}
        and welcome.mac in hello.mac
    )


def altered(base: Entries, values: Mapping[str, Sequence[Any]], most: int) -> Iterator[Entries]:
    """`base` with at most `most` of its entries replaced by another of `values`."""
    yield base
    yield from _altered(base, list(values.items()), most)


def _altered(base: Entries, values: list[tuple[str, Sequence[Any]]], most: int) -> Iterator[Entries]:
    if most:
        for at, (name, others) in enumerate(values):
            for value in others:
                if value != getattr(base, name):
                    changed = base._replace(**{name: value})
                    yield changed
                    yield from _altered(changed, values[at + 1 :], most - 1)
