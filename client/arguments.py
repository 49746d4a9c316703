"""The command line's own notation: ``0-63``, ``1,7,42``, ``1,2,3 - 4,5,6 + 7,8,9``."""

from __future__ import annotations

import re
from typing import Any

from client.errors import ArgumentError

MAX_SEEDS = 1_000_000  # a mistyped range must not fill the memory

_ITEM = re.compile(r"(\d+)(?:-(\d+))?")
# In a mix - is always minus: it has no ranges.
_TERM = re.compile(r"\s*([+-])?\s*(?:(\d+(?:\.\d+)?)\s*\*\s*)?(\d[\d,\s]*?)\s*(?=[+-]|$)")


def seeds(text: str) -> list[int]:
    """``"0-3,7"`` -> ``[0, 1, 2, 3, 7]``.

    Raises:
        ArgumentError: another notation, an empty range, or more than ``MAX_SEEDS``.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _ITEM.fullmatch(part.strip())
        if match is None:
            raise ArgumentError(f"{part!r} is neither a seed nor a range; write 0-63 or 1,7,42")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ArgumentError(f"the range {part.strip()} is empty; write {last}-{first}")
        if len(found) + last - first + 1 > MAX_SEEDS:
            raise ArgumentError(f"{text!r} is more than {MAX_SEEDS} seeds; ask in parts")
        found.extend(range(first, last + 1))
    return found


def mix(text: str) -> list[dict[str, Any]]:
    """``"1,2 - 0.5*3,4"`` -> the field ``mix``: two terms of weight 1 and -0.5.

    Raises:
        ArgumentError: another notation.
    """
    terms: list[dict[str, Any]] = []
    place = 0
    while place < len(text.rstrip()):
        match = _TERM.match(text, place)
        if match is None or (terms and match[1] is None):
            raise ArgumentError(
                f"{text!r} cannot be read at {text[place : place + 20]!r}; write terms of seeds as "
                'in "1,2,3 - 4,5,6 + 0.5*7,8,9"'
            )
        weight = float(match[2] or 1) * (-1 if match[1] == "-" else 1)
        terms.append({"weight": weight, "seeds": seeds(match[3])})
        place = match.end()
    if not terms:
        raise ArgumentError('an empty mix; write terms of seeds as in "1,2,3 - 4,5,6"')
    return terms
