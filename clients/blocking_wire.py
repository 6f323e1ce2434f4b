"""One socket of the blocking client and the link it drives: bytes written and read without waiting.

Everything here happens under the lock of the driver, but for the reads that wait, which are the driver's
(``blocking_driver``). Not here: threads, and which connection a call goes to.
"""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ..protocol.adaptive_spin import AdaptiveSpin
from .calls import FOREVER
from .fork_guard import parents
from .leader_follower import LOOK_AROUND, Lead
from .link import Link
from .sockets import Buffers, send_now, set_receive_timeout

if TYPE_CHECKING:
    from .tls import Channel

monotonic = time.monotonic

SPIN = 0.0002
"""Seconds that asking for a reply may take before sleeping is tried: as long as a Linux guest polls before it halts
(haltpoll's guest_halt_poll_ns). To sleep and be woken costs a third to a half of it, so that a reply that comes just
after costs three to four times the best choice (Karlin et al., Competitive randomized algorithms for nonuniform
problems, 1990); `AdaptiveSpin` sees to it that this is rare."""
LOST_TURN = 0.000_05
"""Seconds that asking once stays well below, unless another thread took the interpreter or the core meanwhile."""


def ask(sock: socket.socket, buffer: memoryview, until: float, spin: AdaptiveSpin) -> int:
    """Ask for bytes until some came (how many, 0 at the end of the stream) or it is time to sleep (-1).

    Raises ``OSError`` where the connection broke.
    """
    now = monotonic()
    until, turn = min(until, now + spin.seconds), FOREVER  # the first turn may be a cold one
    while now < until:
        try:
            n = sock.recv_into(buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            before, now = now, monotonic()
            if now - before > turn:
                break
            turn = spin.turn
        else:
            spin.learn(True)
            return n
    spin.learn(False)
    return -1


class Wire:
    """A connected socket with its link, and the TLS between them if there is any, from the dial to the hang-up."""

    __slots__ = ("_channel", "_name", "lead", "link", "read_at", "receive_timeout", "sock", "unsent", "usual")

    def __init__(self, sock: socket.socket, link: Link, name: str, now: float, channel: Channel | None = None) -> None:
        self.sock = sock
        parents.add(sock)
        self.link = link
        self.lead = Lead()
        """Who reads, and who waits for that."""
        self.unsent: Buffers = []
        """What the socket did not take yet."""
        self.read_at = now
        self.receive_timeout = LOOK_AROUND
        """Seconds after which a read that waits gives up, as the kernel was told."""
        set_receive_timeout(sock, LOOK_AROUND)
        self._name = name
        self._channel = channel
        self.usual = len(self.next_buffer())
        """Bytes asked for while no large body is under way."""

    def flush(self, now: float) -> None:
        """Write until all is written or the socket takes no more; hang up once the link is finished."""
        link = self.link
        buffers = self.unsent
        try:
            if not buffers:
                buffers = self._output(now)
            while buffers:
                buffers = send_now(self.sock, buffers)
                if buffers or not link.has_output:
                    break
                buffers = self._output(now)
        except OSError as error:
            self.broke(error)
            return
        except BaseException:
            # Interrupted (Ctrl-C): how much was written is not known.
            self.lost("was interrupted while writing")
            raise
        self.unsent = buffers
        if link.finished:
            if self._channel is not None:
                with suppress(OSError):
                    send_now(self.sock, [*buffers, self._channel.goodbye()])
            self._hang_up()

    def _output(self, now: float) -> Buffers:
        """Return what the link has to say, as it goes to the socket."""
        buffers = self.link.data_to_send(now)
        return self._channel.seal(buffers) if self._channel is not None and buffers else buffers

    def next_buffer(self) -> memoryview:
        """Where the socket's next bytes go."""
        return self.link.next_buffer() if self._channel is None else self._channel.buffer

    def read_flags(self) -> int:
        """How to read into the link's buffer: waiting for all of it where all of it is owed."""
        return socket.MSG_WAITALL if self._channel is None and self.link.exact else 0

    def read_now(self) -> bool:
        """Read once what is there without waiting; false where there was nothing."""
        if self.link.finished:
            return False
        try:
            n = self.sock.recv_into(self.next_buffer(), 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            self.broke(error)
            return False
        self.arrived(n)
        return n > 0

    def arrived(self, n: int) -> None:
        """``n`` bytes were read, 0 at the end."""
        self.read_at = now = monotonic()
        link = self.link
        if link.finished:
            return
        try:
            if self._channel is not None:
                self._opened(self._channel, n, now)
            elif n:
                link.received(n, now)
            else:
                link.eof(now)
        except BaseException:
            # Interrupted (Ctrl-C) or out of memory: what was taken in of the bytes is not known.
            self.lost("was interrupted while reading")
            raise
        if link.has_output or link.finished:
            self.flush(now)

    def _opened(self, channel: Channel, n: int, now: float) -> None:
        """``n`` bytes of ciphertext were read, 0 at the end: the link gets what they hold."""
        link = self.link
        channel.feed(n)
        while not link.finished:
            try:
                opened = channel.open(link.next_buffer())
            except OSError as error:
                self.broke(error)
                return
            if not opened:
                break
            link.received(opened, now)
        if (channel.ended or not n) and not link.finished:
            link.eof(now)

    def limit_read(self, left: float) -> None:
        """Have the next read give up before ``left`` seconds; down to half of them, the last setting will do."""
        if not min(left / 2, LOOK_AROUND) <= self.receive_timeout <= left:
            self.receive_timeout = min(left * 0.9, LOOK_AROUND)
            set_receive_timeout(self.sock, self.receive_timeout)

    def broke(self, error: OSError) -> None:
        """Give the connection up: a system call failed, or TLS did."""
        if self._channel is None:
            self.lost(f"broke: {error.strerror or error}")
        else:
            self.lost(f"broke: {self._channel.explain(error)}")

    def lost(self, what: str) -> None:
        """End the calls of a connection that is gone, or of no more use."""
        self.link.lost(f"the connection to {self._name} {what}", monotonic())
        self._hang_up()

    def step_down(self) -> None:
        """End the part of the leader, which closes what was hung up meanwhile."""
        if self.link.finished:
            self.sock.close()
        self.lead.step_down()

    def _hang_up(self) -> None:
        self.unsent = []
        if not self.lead.holder:
            self.sock.close()
            return
        # Whoever leads may sit in a read, even this very thread (see ``Monitor``): wake it, and let it close the
        # descriptor, which must not be used again before.
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
