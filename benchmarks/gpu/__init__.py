"""Checks and measures what a GPU does here, in minutes: ``python -m benchmarks.gpu``."""
