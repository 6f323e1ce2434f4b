"""``python -m tensorwire``: the command line where the script is not on the path."""

from __future__ import annotations

from .clients.cli import main

if __name__ == "__main__":
    main()
