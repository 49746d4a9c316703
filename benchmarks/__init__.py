"""Comparisons, each of two or more things in one run. None of them is a test."""
