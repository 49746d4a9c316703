"""Numbers for a Generator's samples; ``python -m training evaluate --help``."""
