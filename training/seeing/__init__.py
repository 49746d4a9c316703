"""Pictures that show what a DCGAN has learned; commands of ``python -m training``."""
