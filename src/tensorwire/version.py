"""The version of the package, below everything that says it."""

__version__ = "0.2.0.dev0"
