"""One file per layer: on top what it may refuse and what must hold, below `TARGET`."""
