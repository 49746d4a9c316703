"""Other servers for the same generator, each as its own documentation teaches it, measured beside
ours by ``benchmarks.compare``; ``launch`` starts them, a ``.txt`` has the exact pins of each."""
