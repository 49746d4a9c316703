"""Measurements: serving against the stock handler, open-loop load, training recipes."""
