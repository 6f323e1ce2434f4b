"""A client's key: where its text comes from, how it is read, when it may be left out, which MACs are offered with it.

The text of a key is ``ID:SECRET``, as ``tensorwire keys new`` makes it: the id is public, the secret is 32 bytes in
base64url. It is asked for again at every connection, so that a key is changed without a restart. Secrets stand in no
error, ``repr`` or pickle made here. Not here: proofs and tags (``protocol.signing``), when to connect (``core``).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from typing import NoReturn

from ..protocol import Config, Role
from ..protocol.signing import SECRET_SIZE, available_macs
from ..version import __version__
from .errors import ConnectFailed, InvalidInput, InvalidKey
from .url import Address

KeySource = str | os.PathLike[str] | Callable[[], str]
"""The text of a key, the file that holds it, or what gives it back when it is called."""

KEY_VARIABLE = "TENSORWIRE_KEY"
FILE_VARIABLE = "TENSORWIRE_KEY_FILE"
MACS_BY_SPEED = ("aes-256-gmac", "hmac-sha256")
"""What is offered unless the caller says otherwise, as far as it is installed: for a small call both cost the same, a
chunk of a large body is tagged ten times as fast by the first."""
NO_MAC = ("none",)
MAX_FILE = 65536
"""Bytes of a key file that are read: a thousand keys are less."""

_SECRET_TEXT = 43
_PATTERN = re.compile(r"([A-Za-z0-9._-]{1,64}):([A-Za-z0-9_-]{43})")
_EXPECTED = (
    "expected ID:SECRET as 'tensorwire keys new' prints it, the id of 1 to 64 letters, digits, '.', '_' or '-', the "
    f"secret of {_SECRET_TEXT} base64url characters"
)
GIVE_A_KEY = (
    f"give one by key= (its text, or the pathlib.Path of a key file; on the command line --key-file), {FILE_VARIABLE} "
    f"or {KEY_VARIABLE}; whoever runs the server makes it with 'tensorwire keys new'"
)


class Key:
    """One key. Shows its id alone, and is not pickled."""

    __slots__ = ("id", "secret")

    def __init__(self, key_id: str, secret: bytes) -> None:
        self.id = key_id
        self.secret = secret

    def __repr__(self) -> str:
        return f"Key({self.id!r})"

    def __reduce__(self) -> NoReturn:
        # guard: secret-in-pickle
        raise TypeError("a key is not pickled: pass its file, or a function that returns its text, and read it there")


def parse_keys(text: str, where: str) -> list[Key]:
    """Read the keys in ``text``, one per line; a # begins a comment line.

    Raises :class:`InvalidKey`, which repeats nothing of it.
    """
    from base64 import urlsafe_b64decode, urlsafe_b64encode  # only who has a key pays for it

    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _PATTERN.fullmatch(line.strip())
        secret = urlsafe_b64decode(f"{match[2]}=") if match else b""
        # The last character has two bits to spare: text that uses them would be a second name of the same secret.
        if match is None or len(secret) != SECRET_SIZE or urlsafe_b64encode(secret)[:-1] != match[2].encode():
            raise InvalidKey(f"{where}, line {number}, cannot be read: {_EXPECTED}")
        keys.append(Key(match[1], secret))
    if not keys:
        raise InvalidKey(f"{where} is empty: {_EXPECTED}")
    return keys


def read_key_file(path: str) -> str:
    """Read the text of a key file, which nobody but its owner may read. Raises :class:`InvalidKey`."""
    try:
        # Not blocking: a pipe without a writer would hold the client up before it can be told from a file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidKey(f"the key file {path!r} cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidKey(f"the key file {path!r} is not a file: give the path of one that holds the key")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:  # guard: client-key-file-mode
            raise InvalidKey(
                f"the key file {path!r} is open to others (mode {mode:04o}), expected its owner alone: chmod 600 {path}"
            )
        content = os.read(descriptor, MAX_FILE + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE:
        raise InvalidKey(f"the key file {path!r} has more than {MAX_FILE} bytes: {_EXPECTED}")
    return content.decode("ascii", "replace")


class Credentials:
    """What one client proves itself with, and which MACs it offers.

    ``key``: see :data:`KeySource`; None for what the environment says, "" for no key whatever it says. ``mac``: a name
    or names, most wanted first; None for the fastest that is installed. Raises :class:`InvalidKey` where the key can be
    seen to be wrong, or is missing for ``address``; :class:`InvalidInput` for a wrong ``mac``. Nothing is sent.
    """

    __slots__ = ("_address", "_file", "_function", "_macs", "_text", "_where")

    def __init__(self, address: Address, key: KeySource | None = None, mac: str | Sequence[str] | None = None) -> None:
        self._address = address
        self._text = ""
        self._file = ""
        self._function: Callable[[], str] | None = None
        self._where = "the key"
        if key is None:
            self._ask_environment()
        elif isinstance(key, str):
            self._text = key
        elif isinstance(key, os.PathLike):
            self._file = os.fspath(key)
        elif callable(key):
            self._function = key
        else:
            raise InvalidKey(f"the key is of type {type(key).__name__}, expected a str, a pathlib.Path or a callable")
        if self._text:
            self._check_text()
        elif not self.has_key:
            self._check_keyless()
        self._macs = self._choose_macs((mac,) if isinstance(mac, str) else mac)

    def __repr__(self) -> str:
        return f"Credentials({'with' if self.has_key else 'without'} a key, mac={self._macs})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled: connect again in the other process")

    @property
    def has_key(self) -> bool:
        """Whether a key is given, in whatever form."""
        return bool(self._text or self._file or self._function)

    @property
    def may_wait(self) -> bool:
        """Whether :meth:`config` calls a function of the caller's, which may take its time."""
        return self._function is not None

    def config(self) -> Config:
        """Make the configuration of the next connection; the key's source is asked again.

        Raises :class:`InvalidKey`, and :class:`ConnectFailed` where the caller's function raised something.
        """
        agent = f"tensorwire-python/{__version__}"
        if not self.has_key:
            return Config(role=Role.CLIENT, agent=agent, mac_algorithms=NO_MAC)
        key = self._key()
        return Config(
            role=Role.CLIENT, agent=agent, mac_algorithms=self._macs, key_id=key.id.encode(), secret=key.secret
        )

    def _ask_environment(self) -> None:
        self._text = os.environ.get(KEY_VARIABLE, "")
        if self._text:
            self._where = KEY_VARIABLE
        else:
            self._file = os.environ.get(FILE_VARIABLE, "")

    def _check_text(self) -> None:
        """Refuse what is no key before anything is connected."""
        text = self._text
        # What the text may be instead is not known, so that it is not repeated.
        if not _PATTERN.match(text.strip()) and os.path.exists(text):  # noqa: PTH110 - it may be no path at all
            raise InvalidKey(
                f"{self._where} is the path of a file, expected ID:SECRET: pass key=pathlib.Path(...) or set "
                f"{FILE_VARIABLE}"
            )
        self._key()

    def _check_keyless(self) -> None:
        """Refuse to talk where anybody may listen, or without the key that the address names."""
        if not self._address.is_private:  # guard: plain-to-another-machine
            raise InvalidKey(
                f"{self._address} is not on this machine, and without a key whoever is on the way can read and change "
                f"every call: {GIVE_A_KEY}. Or use TLS, tws://, where the server has it"
            )
        if self._address.key_id:
            raise InvalidKey(f"the address names the key {self._address.key_id!r}, and no key is given: {GIVE_A_KEY}")

    def _key(self) -> Key:
        """Ask the source for the key as it has it now; the address says which where there are several."""
        where, text = self._where, self._text
        if self._file:
            where, text = f"the key file {self._file!r}", read_key_file(self._file)
        elif self._function is not None:
            where, text = "what the key's function returned", _call(self._function)
        keys = parse_keys(text, where)
        wanted = self._address.key_id
        if not wanted and len(keys) == 1:
            return keys[0]
        found = [key for key in keys if key.id == wanted]
        if len(found) != 1:
            ids = ", ".join(key.id for key in keys)
            asked = f"no single key {wanted!r}" if wanted else "several keys, and the address names none"
            raise InvalidKey(f"{where} has {asked}: name one of {ids} as in tw://KEYID@host")
        return found[0]

    def _choose_macs(self, macs: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names to offer with the key."""
        available = available_macs()
        if macs is None:
            return tuple(name for name in MACS_BY_SPEED if name in available) if self.has_key else NO_MAC
        known = (*MACS_BY_SPEED, *NO_MAC)
        if not macs:
            raise InvalidInput(f"mac is empty, expected at least one of {', '.join(known)}")
        for name in macs:
            if name not in known:
                raise InvalidInput(f"mac {name!r} is unknown, expected one of {', '.join(known)}")
            if name not in available:
                raise InvalidInput(f"mac {name!r} needs the package cryptography: pip install 'tensorwire[fast]'")
            if name != "none" and not self.has_key:
                raise InvalidInput(f"mac {name!r} needs a key: {GIVE_A_KEY}")
            if name == "none" and not self._address.is_private:  # guard: no-tag-to-another-machine
                raise InvalidInput(
                    f"mac 'none' signs nothing, and {self._address} is not on this machine: leave mac out, or offer "
                    f"{' or '.join(MACS_BY_SPEED)}"
                )
        return tuple(macs)


def _call(function: Callable[[], str]) -> str:
    """Ask the caller's function for the text. What it raises is the cause, not the text, of the error."""
    try:
        text = function()
    except Exception as error:
        raise ConnectFailed(f"the key's function raised {type(error).__name__}") from error
    if not isinstance(text, str):
        raise InvalidKey(f"the key's function returned a {type(text).__name__}, expected a str: {_EXPECTED}")
    return text
