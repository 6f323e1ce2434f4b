"""One module per command, imported when that command runs; each holds the click command as ``command``."""
