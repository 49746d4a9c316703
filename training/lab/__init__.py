"""What a DCGAN has learned, in pictures and in numbers; commands of ``python -m training``."""
