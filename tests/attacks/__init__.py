"""Attacks with raw sockets on a real server: each one is a finding that must not come back."""
