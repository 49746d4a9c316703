"""Triton, as its documentation teaches it."""
