"""What the avatars can have, by name: the classes of the labelled attributes.

The numbers are those of the drawings in robohash's set4, in file order.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from training.lab.usage import UsageError

NAMES: dict[str, dict[str, int]] = {
    "body": {
        "maroon": 0, "green": 1, "black": 2, "lilac": 3, "red": 4, "sand": 5, "pink": 6,
        "brown": 7, "blue": 8, "yellow": 9, "ochre": 10, "grey": 11, "caramel": 12, "cream": 13,
        "orange": 14,
    },
    "fur": {"tiger": 1, "swirls": 3, "dark-eye-patch": 4, "white-patches": 5, "spots": 9},
    "eyes": {"dots": 2, "monocle": 4, "smiling": 6, "lashes": 10, "glasses": 12},
    "mouth": {"curl": 1, "shout": 3, "teeth": 8},
    "accessory": {
        "red-scarf": 0, "bell": 1, "red-collar": 2, "headband": 3, "pink-bow": 4, "black-hat": 5,
        "red-headphones": 6, "blue-scarf": 7, "medal": 8, "machine": 9, "pendant": 10,
        "bandana": 11, "blue-bow": 12, "red-hat": 13, "silver-headphones": 14, "bare": 15,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """One class of one attribute."""

    attribute: str
    index: int

    def __str__(self) -> str:
        for name, index in NAMES.get(self.attribute, {}).items():
            if index == self.index:
                return name
        return f"{self.attribute}:{self.index}"


def parse_concept(text: str, classes: Mapping[str, int]) -> Concept:
    """A name of ``NAMES``, or ``attribute:number``.

    Args:
        text: such as ``glasses`` or ``eyes:12``.
        classes: attribute -> number of classes, of the classifier in use.

    Raises:
        UsageError: unknown; the nearest name is told.
    """
    attribute, colon, number = text.partition(":")
    if colon:
        if attribute not in classes:
            raise UsageError(f"unknown attribute {attribute!r}; {_hint(attribute, [*classes])}")
        if not number.isdecimal() or int(number) >= classes[attribute]:
            raise UsageError(
                f"{attribute} has no class {number!r}; give 0 to {classes[attribute] - 1}"
            )
        return Concept(attribute, int(number))
    known = {
        name: Concept(attribute, index)
        for attribute, names in NAMES.items()
        for name, index in names.items()
        if index < classes.get(attribute, 0)
    }
    if text not in known:
        raise UsageError(
            f"unknown concept {text!r}; {_hint(text, [*known])}, or an attribute and a number, "
            "such as eyes:12"
        )
    return known[text]


def _hint(text: str, known: list[str]) -> str:
    near = difflib.get_close_matches(text, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
