"""Which form a reply takes: the field ``format``, else the Accept header (RFC 9110, 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, get_args

from handler.errors import Kind, RequestError, show
from handler.headers import header

Format = Literal["png", "json", "npy"]
FORMATS: tuple[Format, ...] = get_args(Format)
MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "json": "application/json",
    "npy": "application/x-npy",
}

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_RANGE = re.compile(rf"({_TOKEN})/({_TOKEN})(.*)", re.DOTALL)
_WEIGHT = re.compile(r";[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*$", re.IGNORECASE)
_HAS_WEIGHT = re.compile(r";[ \t]*q[ \t]*=", re.IGNORECASE)


def choose(
    wanted: Format | None, headers: Mapping[str, Any], offered: tuple[Format, ...] = FORMATS
) -> Format:
    """The format of one reply.

    Args:
        wanted: the request's ``format``, which wins over any header.
        headers: the request's headers.
        offered: what can be sent, the preferred one first.

    Raises:
        RequestError: status 406, nothing that is offered is acceptable.
    """
    if wanted is not None:
        return wanted
    return _negotiate(header(headers, "Accept"), offered)


@lru_cache(maxsize=256)  # clients say the same again and again
def _negotiate(accept: str, offered: tuple[Format, ...]) -> Format:
    if not accept.strip():
        return offered[0]
    ranges = [found for part in accept.split(",") if (found := _range(part)) is not None]
    weights = {form: _weight(MEDIA_TYPES[form], ranges) for form in offered}
    best = max(offered, key=lambda form: weights[form])  # the first of equals
    if weights[best] > 0:
        return best
    types = ", ".join(MEDIA_TYPES[form] for form in offered)
    raise RequestError(
        Kind.NOT_ACCEPTABLE,
        f"none of the types in Accept can be sent; use one of {types}, or the field format",
        field="Accept",
        seen=show(accept),
        allowed=types,
    )


def _range(part: str) -> tuple[str, str, float] | None:
    """``type/subtype;q=weight``; None for what is no media range."""
    found = _RANGE.fullmatch(part.strip())
    if found is None:
        return None
    kind, subtype, parameters = found.groups()
    weight = _WEIGHT.search(parameters)
    if weight is None and _HAS_WEIGHT.search(parameters):
        return None
    return kind.lower(), subtype.lower(), float(weight[1]) if weight else 1.0


def _weight(media_type: str, ranges: list[tuple[str, str, float]]) -> float:
    """The weight of the most specific range that matches; 0 when none does."""
    kind, subtype = media_type.split("/")
    for pattern in ((kind, subtype), (kind, "*"), ("*", "*")):
        weights = [weight for *found, weight in ranges if tuple(found) == pattern]
        if weights:
            return max(weights)
    return 0.0
