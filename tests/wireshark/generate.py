"""Writes session.pcap: a small session of both cores as tcpdump would have captured it. ``--check`` compares instead.

What lives here: how the session is cut into segments. What must not: the session (tests.support.sessions).
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.packets import Conversation, pcap
from tests.support.sessions import small_session

TARGET = Path(__file__).resolve().parent / "session.pcap"


def session_pcap() -> bytes:
    """The file's bytes: what a side says at once is a segment, but every fifth is cut in two."""
    conversation = Conversation().handshake()
    for n, (from_client, data) in enumerate(small_session()):
        conversation.send(from_client, data, *([len(data) // 2] if n % 5 == 4 else []))
    return pcap(conversation.close().packets)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        TARGET.write_bytes(session_pcap())
    elif TARGET.read_bytes() != session_pcap():
        sys.exit(f"{TARGET} is not what this script writes: run python -m tests.wireshark.generate")
