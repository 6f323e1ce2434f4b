#!/bin/sh
# A forked child that closes what it has inherited of an asyncio loop makes its parent deaf.
# Seen: parent's reader heard: without a child True, beside one that exits True, beside one that removes its reader False.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -W ignore - <<'PY'
import asyncio
import os
import socket
import sys


async def heard(child: str) -> bool:
    """Whether a reader of the parent still hears, after a child was forked that did nothing or removed its own copy."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    event = asyncio.Event()
    loop.add_reader(ours, event.set)
    if child:
        pid = os.fork()
        if not pid:
            if child == "removes":
                loop.remove_reader(ours)
            os._exit(0)
        os.waitpid(pid, 0)
    theirs.send(b"x")
    try:
        async with asyncio.timeout(1.0):
            await event.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(ours)
        ours.close()
        theirs.close()
    return True


print("Python", sys.version.split()[0])
print("believed: after fork a child has a loop of its own, and what it removes there is its own affair")
found = [asyncio.run(heard(child)) for child in ("", "exits", "removes")]
print("parent's reader heard: without a child {}, beside one that exits {}, beside one that removes its reader {}".format(*found))
print("true: both share one epoll set in the kernel: a child must close descriptors and leave the loop alone")
sys.exit(0 if found == [True, True, False] else "this has changed")
PY
