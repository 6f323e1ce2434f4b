"""Micro benchmarks: instructions per call, counted by callgrind, so that they say the same on a noisy machine."""
