"""What tensorwire computes in its handshake and records, as symbolic terms: SPEC 9.3 and 11.3 to 11.6 as a table.

What lives here: HELLO, WELCOME and AUTH as rows of entries, and every formula over them, each ingredient under a name
by which a test can leave it out. What must not: who sends what when (machine.py). test_model_is_the_code.py computes
these very terms with real hashes and compares them with what a real pair of connections sends, byte by byte.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any, NamedTuple

from .terms import Term, public, term


class Hello(NamedTuple):
    """HELLO's entries in ascending order of type; an empty one that may be absent is not sent."""

    versions: tuple[int, int]
    draft: int
    nonce: str
    features: tuple[int, ...]
    features_required: tuple[int, ...]
    mac: tuple[str, ...]
    key_id: str
    limits: str
    agent: str


class Welcome(NamedTuple):
    """WELCOME's entries, in ascending order of type, less PROOF."""

    versions: int
    draft: int
    nonce: str
    features: tuple[int, ...]
    mac: str
    limits: str
    agent: str
    connection_id: str
    boot_id: str


# The numbers of SPEC 9.3.
ENTRY = {
    "versions": 1,
    "draft": 2,
    "nonce": 3,
    "features": 4,
    "features_required": 5,
    "mac": 6,
    "key_id": 7,
    "limits": 8,
    "agent": 9,
    "connection_id": 10,
    "boot_id": 11,
    "proof": 13,
}
OPTIONAL = frozenset({"features_required", "key_id", "agent"})

ZERO_PROOF = public("proof", "32 zero bytes")
PREFACE = public("preface", "")

KEY_IDS = ("A", "B", "M")  # that the server knows; M is the attacker's own

# Everything that can be left out of the formulas. Entries are named HELLO.mac, WELCOME.nonce and so on.
INGREDIENTS = (
    "preface",
    "binding",
    "salt client nonce",
    "salt server nonce",
    "secret",
    "a secret for each key",
    "info label",
    "info TH",
    "server proof label",
    "direction label",
    "server proof TH",
    "client proof TH",
    "AUTH in client proof",
    "proof zeroing",
    "counter",
    *(f"HELLO.{name}" for name in Hello._fields),
    *(f"WELCOME.{name}" for name in Welcome._fields),
)


def nonce(name: str) -> Term:
    """A nonce as a term: nobody guesses it, everybody knows it once it was sent."""
    return term("fresh", value=name)


def _entry(name: str, value: Any) -> Term:
    return term("entry", nonce(value) if name == "nonce" else public(name, value), value=ENTRY[name])


class Rules:
    """The formulas of SPEC 11, less the ingredients in `without`."""

    def __init__(self, without: Collection[str] = ()) -> None:
        unknown = set(without) - set(INGREDIENTS)
        if unknown:
            raise ValueError(f"no such ingredient: {sorted(unknown)}; there are {', '.join(INGREDIENTS)}")
        self.without = frozenset(without)
        self.keys = lru_cache(maxsize=None)(self._keys)

    def _kept(self, *named: tuple[str, Term]) -> tuple[Term, ...]:
        return tuple(one for name, one in named if name not in self.without)

    def secret(self, key_id: str) -> Term:
        """The 32 bytes behind a key id; for an id that the server does not know, the dummy's."""
        if key_id in KEY_IDS:
            return term("secret", value="A" if key_id == "B" and "a secret for each key" in self.without else key_id)
        return term("secret", value="dummy")

    # ---- messages ----

    def hello(self, hello: Hello, left_out: Collection[str] = ()) -> Term:
        """The frame HELLO."""
        entries = (
            _entry(name, value)
            for name, value in zip(hello._fields, hello, strict=True)
            if f"HELLO.{name}" not in left_out and (value or name not in OPTIONAL)
        )
        return term("frame", *entries, value="HELLO")

    def welcome(self, welcome: Welcome, proof: Term | None, left_out: Collection[str] = ()) -> Term:
        """The frame WELCOME; `proof` is None for a client without key."""
        entries = [
            _entry(name, value)
            for name, value in zip(welcome._fields, welcome, strict=True)
            if f"WELCOME.{name}" not in left_out and (value or name not in OPTIONAL)
        ]
        if proof is not None:
            entries.append(term("entry", proof, value=ENTRY["proof"]))
        return term("frame", *entries, value="WELCOME")

    def auth(self, extra: str, proof: Term) -> Term:
        """The frame AUTH. `extra` stands for entries that the server does not know: ignored, but hashed."""
        unknown = (term("entry", public("extra", extra), value=1),) if extra else ()
        return term("frame", *unknown, term("entry", proof, value=ENTRY["proof"]), value="AUTH")

    # ---- transcript, keys, proofs (SPEC 11.3, 11.4) ----

    def th(self, hello: Hello, welcome: Welcome, binding: str, received: Term | None = None) -> Term:
        """TH. `received`: the PROOF that stood in WELCOME, which counts as zero."""
        proof = received if received is not None and "proof zeroing" in self.without else ZERO_PROOF
        return term(
            "hash",
            *self._kept(("preface", PREFACE)),
            term("sized", self.hello(hello, self.without)),
            term("sized", self.welcome(welcome, proof, self.without)),
            *self._kept(("binding", term("sized", public("binding", binding)))),
        )

    def _keys(self, hello: Hello, welcome: Welcome, th: Term, secret_: Term) -> dict[str, Term]:
        """One key for each label."""
        salt = self._kept(("salt client nonce", nonce(hello.nonce)), ("salt server nonce", nonce(welcome.nonce)))
        prk = term("extract", *self._kept(("secret", secret_)), term("cat", *salt))
        same = {}
        if "server proof label" in self.without:
            same["server proof"] = "client proof"
        if "direction label" in self.without:
            same["server record"] = "client record"
        labels = ("server proof", "client proof", "server record", "client record")
        return {
            label: term(
                "expand",
                prk,
                public("prefix", "tensorwire 1 "),
                *self._kept(("info label", public("label", same.get(label, label)))),
                public("zero", 1),
                *self._kept(("info TH", th)),
            )
            for label in labels
        }

    def server_proof(self, keys: dict[str, Term], th: Term) -> Term:
        """PROOF of WELCOME."""
        return term("hmac", keys["server proof"], term("cat", *self._kept(("server proof TH", th))))

    def client_proof(self, keys: dict[str, Term], th: Term, extra: str) -> Term:
        """PROOF of AUTH."""
        auth = term("sized", self.auth(extra, ZERO_PROOF))
        signed = self._kept(("client proof TH", th), ("AUTH in client proof", auth))
        return term("hmac", keys["client proof"], term("cat", *signed))

    # ---- records (SPEC 11.5, 11.6) ----

    def tag(self, mac: str, key: Term, position: int, frames: Any) -> Term:
        """The tag of the record that has `position` records before it."""
        counter = self._kept(("counter", public("counter", position)))
        text = term("sized", public("frames", frames))
        if mac == "aes-256-gmac":
            return term("gmac", key, term("cat", *counter, public("zero", 4)), text)
        return term("first16", term("hmac", key, term("cat", *counter, text)))
