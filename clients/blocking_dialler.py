"""How the blocking client gets a connection: one thread dials, for all that wait.

Not here: when to dial, which is the core's to say, and what waits meanwhile (``blocking_driver``).
"""

from __future__ import annotations

import socket
import time
from _thread import get_ident
from typing import TYPE_CHECKING

from .blocking_wire import Wire
from .core import ClientCore
from .errors import TensorwireError
from .leader_follower import Lead, Monitor
from .sockets import dial, explain
from .url import Address

if TYPE_CHECKING:
    from ssl import SSLContext

    from .tls import Channel, Trust


class Dialler:
    """Makes the connections of one client. The lock of ``monitor`` is held on entry and exit, and not while dialling.
    ``trust``: for TLS; None without.
    """

    def __init__(
        self, core: ClientCore, address: Address, connect_timeout: float, monitor: Monitor, trust: Trust | None = None
    ) -> None:
        self.lead = Lead()
        """Who dials, and who waits for that."""
        self._core = core
        self._address = address
        self._connect_timeout = connect_timeout
        self._monitor = monitor
        self._trust = trust
        self._spent = 0.0
        """Seconds without an answer in dials that their callers cut short, since the last that came to an end."""

    def dial(self, timeout: float) -> Wire | None:
        """Make a connection that has said its first words; None where there is none, as the core was told.

        timeout: seconds that the caller has. Where they end first, that is no failure for the others who wait: one of
        them dials next, and all of it counts as one for ``connect_timeout``.
        """
        began, left = time.monotonic(), self._connect_timeout - self._spent
        try:
            self.lead.holder = get_ident()
            made = self._connect(min(timeout, left))
            spent = time.monotonic() - began
            if isinstance(made, str) and timeout <= spent < left:
                self._spent += spent
                made = ""
            else:
                self._spent = 0.0
            return self._introduce(made)
        finally:
            self.lead.holder = 0
            self.lead.wake_all()

    def _connect(self, timeout: float) -> tuple[socket.socket, Channel | None] | str | TensorwireError:
        """Connect a socket, with TLS if there is to be any, or say why not; the key is asked for first."""
        until = time.monotonic() + timeout
        try:
            if not self._monitor.step_out():
                return ""
            self._core.read_key()
            if self._trust is None:
                return dial(self._address, timeout, self._is_wanted), None
            context = self._trust.context()
            return self._secure(dial(self._address, timeout, self._is_wanted), context, until)
        except TensorwireError as error:
            return error
        except InterruptedError:
            return ""
        except OSError as error:
            return explain(error, self._address)
        finally:
            self._monitor.step_in()

    def _is_wanted(self) -> bool:
        return not (self._core.closed or self._monitor.late)

    def _secure(self, sock: socket.socket, context: SSLContext, until: float) -> tuple[socket.socket, Channel]:
        from .tls import secure

        try:
            return sock, secure(sock, context, self._address.host, until - time.monotonic())
        except BaseException:
            sock.close()
            raise

    def _introduce(self, made: tuple[socket.socket, Channel | None] | str | TensorwireError) -> Wire | None:
        core, now = self._core, time.monotonic()
        core.changing = True
        if made == "":
            return None  # something else comes first
        if isinstance(made, TensorwireError):
            core.key_failed(made, now)
        elif isinstance(made, str):
            core.dial_failed(made, now)
        elif core.closed:
            made[0].close()
        else:
            sock, channel = made
            link = core.dialled(now) if channel is None else core.dialled(now, channel.binding)
            wire = Wire(sock, link, str(self._address), now, channel)
            wire.flush(now)
            return wire
        return None
