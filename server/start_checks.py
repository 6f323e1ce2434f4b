"""What is settled before the server listens: that nobody can call who should not, and the audit log.

What lives here: refusals to start, in words that say what to do. What must not: the order of things (app.py).
"""

from __future__ import annotations

import asyncio

from ..protocol.safe_text import masked
from .front.audit import Audit
from .front.audit_file import AuditFile
from .front.listener import ListenError, check_address
from .front.mask import Mask, read_salt
from .front.timers import Timers
from .settings import Settings


class StartError(Exception):
    """The server cannot start; the message says why and what to do. A key given for something else is not shown."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


def open_audit(settings: Settings, timers: Timers, loop: asyncio.AbstractEventLoop) -> Audit | None:
    """Open the audit log, if there is to be one. Raises StartError."""
    if settings.audit is None:
        return None
    try:
        salt = b"" if settings.audit_salt is None else read_salt(settings.audit_salt)
        file = AuditFile(settings.audit)
    except OSError as error:
        raise StartError(
            f"audit log: {error.filename!r}: {error.strerror}; give a file that can be read or written"
        ) from None
    except ValueError as error:
        raise StartError(str(error)) from None
    return Audit(file, timers, loop.call_soon, Mask(settings.masked, salt))


def check_access(settings: Settings) -> None:
    """Check that nobody can call who should not. Raises StartError that says what to do."""
    certified = settings.tls_principals and not settings.tcp and settings.unix is None
    if settings.keys is None and not settings.insecure and not certified:
        raise StartError(
            "there is no key file, so that nobody could call: make a key with `tensorwire keys new --principal NAME "
            "keys.toml` and add --keys keys.toml; or, for trying on this machine only, add --insecure"
        )
    if settings.insecure and settings.tcp:
        try:
            check_address(settings.host, guarded=False)
        except ListenError as error:
            raise StartError(f"--insecure: {error}") from None
