"""Hypothesis strategies shared by the tests; every error but the documented one is a bug."""
