"""A request as the address of its picture: the way back from ``handler.address``."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

from client.errors import ArgumentError

if TYPE_CHECKING:
    import numpy.typing as npt

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
        ArgumentError: only seeds and walks between seeds have an address; or a field is not as
            docs/api.md has it.
    """
    left = {name: value for name, value in fields.items() if value is not None}
    form: Any = left.pop("format", "png")
    if isinstance(form, Mapping):  # an animation and how it plays
        left |= {name: value for name, value in form.items() if name != "type"}
        form = form.get("type")
    if not isinstance(form, str):
        raise ArgumentError(
            f"format is {fields['format']!r}; allowed is a name, or {{'type': 'webp', 'fps': 12}}"
        )
    source = [name for name in SOURCES if name in left]
    given: Any = left.pop(source[0]) if source else None
    if source == ["seed"]:
        first, count = _seeds([given])[0], _count(left.pop("num_images", 1))
        place = f"seed/{first}" if count == 1 else f"seeds/{first}-{first + count - 1}"
    elif source == ["seeds"]:
        place = f"seeds/{','.join(map(str, _seeds(given)))}"
    elif source == ["walk"]:
        given = _object("walk", given, "{'between': [1, 7], 'steps': 12}")
        left |= {name: value for name, value in given.items() if name != "between"}
        place = f"walk/{'-'.join(map(str, _seeds(given.get('between') or [None])))}"
    elif not source:
        place = "random"
    else:
        raise ArgumentError(
            f"{' and '.join(source)} has no address; only one of seed, seeds and walk has"
        )
    edit = _object("edit", left.pop("edit", {}), "{'glasses': 1.5}")
    left |= {f"edit.{name}": strength for name, strength in edit.items()}
    query = {
        name: value if isinstance(value, str) else json.dumps(value, default=plain)
        for name, value in left.items()
    }
    digests = [weights, directions] if edit and directions else [weights]
    version = "/v/" + "-".join(one[:VERSION_DIGITS] for one in digests) if weights else ""
    return f"{version}/{place}.{quote(form)}" + (f"?{urlencode(query)}" if query else "")


def _object(name: str, given: Any, example: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise ArgumentError(f"{name} is {given!r}; allowed is an object, as {example}")
    return given


def _count(given: Any) -> int:
    try:
        return int(given)
    except (TypeError, ValueError):
        raise ArgumentError(f"num_images is {given!r}; allowed is a whole number") from None


def _seeds(found: Sequence[Any]) -> list[int]:
    """Seeds as numbers, of numbers or of their digits."""
    try:
        return [int(one) if isinstance(one, str) else operator.index(one) for one in found]
    except (TypeError, ValueError):
        raise ArgumentError("only seeds have an address, latents have none") from None


def plain(value: object) -> object:
    """A range and NumPy values as JSON."""
    if isinstance(value, range):
        return list(value)
    kind = getattr(getattr(value, "dtype", None), "kind", "c")
    if kind != "c":
        array = cast("npt.NDArray[Any]", value)
        # tolist gives NumPy's own numbers for floats longer than Python's.
        return (array.astype("float64") if kind == "f" else array).tolist()
    raise ArgumentError(f"{type(value).__name__} cannot be sent as JSON; give lists and numbers")
