"""Other servers for the same generator, measured beside ours by ``benchmarks.compare``."""
