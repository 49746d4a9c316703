"""Pictures that show what a DCGAN has learned; ``python -m training.seeing --help``."""
