"""tshark with the dissector, run once over one file: its frames as named values.

What lives here: the command line and reading its PDML. What must not: expectations.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

DISSECTOR = Path(__file__).resolve().parents[2] / "protocol" / "wireshark" / "tensorwire.lua"
TIMEOUT = 100  # seconds


@dataclass
class Shown:
    """One item of ours in tshark's output: the values of each field in order, and the texts of its expert infos."""

    packet: int
    values: dict[str, list[str]] = field(default_factory=dict)
    experts: list[str] = field(default_factory=list)

    def one(self, name: str) -> str:
        """The value of a field that is there once, "" if it is not there."""
        values = self.values.get(name, [""])
        assert len(values) == 1, (name, values)
        return values[0]


def tshark(file: Path, *options: str) -> str:
    """What tshark prints; it must end well, and no Lua may have failed."""
    done = subprocess.run(
        ["tshark", "-X", f"lua_script:{DISSECTOR}", "-r", str(file), *options],
        capture_output=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    output, errors = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, errors
    for text in (output, errors):
        for sign in ("Lua Error", "Error during loading", "tensorwire.lua:", "_ws.lua.error", "(null)"):
            at = text.find(sign)
            assert at < 0, text[max(at - 300, 0) : at + 500]
    return output


def shown(file: Path, *options: str) -> list[Shown]:
    """Our items, in order."""
    return list(_items(tshark(file, "-T", "pdml", *options)))


def _items(pdml: str) -> Iterator[Shown]:
    packet = 0
    for proto in ET.fromstring(pdml).iter("proto"):
        if proto.get("name") == "geninfo":
            packet = next(int(f.get("show", "0")) for f in proto if f.get("name") == "num")
        elif proto.get("name") == "tensorwire":
            item = Shown(packet)
            for found in proto.iter("field"):
                name = (found.get("name") or "").removeprefix("tensorwire.")
                if name == "_ws.expert.message":
                    item.experts.append(found.get("show", ""))
                elif not name.startswith("_ws."):
                    item.values.setdefault(name, []).append(found.get("show", ""))
            yield item


__all__ = ["DISSECTOR", "Shown", "shown", "tshark"]
