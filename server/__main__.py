"""`python -m tensorwire.server MODELS_DIR`: the `serve` command without the client's CLI."""

from __future__ import annotations

from .cli import serve

if __name__ == "__main__":
    serve(prog_name="python -m tensorwire.server")
