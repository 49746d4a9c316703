"""Checks of a command's settings, before it starts to work."""

from __future__ import annotations

from pathlib import Path


class UsageError(ValueError):
    """The command cannot do it with what was given; the message says what to give."""


def check_out(path: Path, *suffixes: str) -> None:
    """Refuse a file name whose ending is none of ``suffixes``.

    Raises:
        UsageError: it is not.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"--out {path} ends in {path.suffix!r}; give {' or '.join(suffixes)}")


def check_least(**values: tuple[int, int]) -> None:
    """Refuse settings, ``name=(value, least)``, below their least value.

    Raises:
        UsageError: the first that is too small.
    """
    for name, (value, least) in values.items():
        if value < least:
            raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be >= {least}")
