"""The ``tensorwire`` command line. It needs the extra ``cli``; commands are modules that are imported when they run.

- ``group``: the command group, lazy loading, plugged-in commands. ``commands/``: one module per command.
- ``inputs``: ``--input`` to arrays. ``outputs``: replies to text. ``load``: the load engine, usable without the rest.
- ``failures``: every error of a client as one line and an exit code.
"""

from __future__ import annotations

import sys

from ...version import __version__ as __version__


def main() -> None:
    """Run the command line: the console script ``tensorwire``."""
    try:
        from .group import cli
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("Error: the command line is an extra: pip install 'tensorwire[cli]'")
    cli(prog_name="tensorwire")
