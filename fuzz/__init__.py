"""Strategies, stateful machines and fuzz targets, shared with the tests."""
