"""Bursts beside every alternative that a user has: `python -m benchmarks.latency`."""
