"""A request as the address of its picture: the way back from ``handler.address``."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from client.errors import ArgumentError

SOURCES = ("seed", "seeds", "noise", "walk", "mix")
VERSION_DIGITS = 8


def path(fields: Mapping[str, Any], weights: str = "", directions: str = "") -> str:
    """The path and query of a picture: ``/seeds/1-64.png?columns=8``.

    Args:
        fields: of docs/api.md.
        weights: their SHA-256 (``X-Weights-SHA256``) for an address that is of these weights alone,
            so that its picture never changes; left out it is of whatever is served.
        directions: their SHA-256 (``X-Directions-SHA256``), which a picture with ``edit`` depends
            on, too; left out caches keep that for minutes only.

    Raises:
        ArgumentError: only seeds and walks between seeds have an address.
    """
    left = {name: value for name, value in fields.items() if value is not None}
    form: Any = left.pop("format", "png")
    if isinstance(form, Mapping):  # an animation and how it plays
        left |= {name: value for name, value in form.items() if name != "type"}
        form = form["type"]
    source = [name for name in SOURCES if name in left]
    given: Any = left.pop(source[0]) if source else None
    if source == ["seed"]:
        first, count = _seeds([given])[0], int(left.pop("num_images", 1))
        place = f"seed/{first}" if count == 1 else f"seeds/{first}-{first + count - 1}"
    elif source == ["seeds"]:
        place = f"seeds/{','.join(map(str, _seeds(given)))}"
    elif source == ["walk"]:
        left |= {name: value for name, value in given.items() if name != "between"}
        place = f"walk/{'-'.join(map(str, _seeds(given.get('between') or [None])))}"
    elif not source:
        place = "random"
    else:
        raise ArgumentError(
            f"{' and '.join(source)} has no address; only one of seed, seeds and walk has"
        )
    edit = left.pop("edit", None) or {}
    left |= {f"edit.{name}": strength for name, strength in edit.items()}
    query = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in left.items()
    }
    digests = [weights, directions] if edit and directions else [weights]
    version = "/v/" + "-".join(one[:VERSION_DIGITS] for one in digests) if weights else ""
    return f"{version}/{place}.{quote(form)}" + (f"?{urlencode(query)}" if query else "")


def _seeds(found: Sequence[Any]) -> list[int]:
    """Seeds as numbers, of numbers or of their digits."""
    try:
        return [int(one) if isinstance(one, str) else operator.index(one) for one in found]
    except (TypeError, ValueError):
        raise ArgumentError("only seeds have an address, latents have none") from None
