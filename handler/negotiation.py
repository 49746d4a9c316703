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
_RANGE = re.compile(rf"(?:({_TOKEN})/({_TOKEN})|(\*))[ \t]*(?:;(.*))?", re.DOTALL)
_WEIGHT = re.compile(r"[ \t]*q[ \t]*=(.*)", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"[ \t]*(0?\.[0-9]+|[01](?:\.[0-9]*)?)[ \t]*")
_LEAST = 1e-6


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
    parts = [part.strip() for part in accept.split(",") if part.strip()]
    if not parts:
        return offered[0]
    ranges = [found for part in parts if (found := _range(part)) is not None]
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
    """``type/subtype;q=weight``, or ``*`` for ``*/*`` as Java has sent for years; None for what is
    no media range.

    A weight may have any number of digits. One that is none is the least: what a client named is
    rather sent than refused.
    """
    found = _RANGE.fullmatch(part)
    if found is None:
        return None
    kind, subtype, _, parameters = found.groups("*")
    weight = next(filter(None, map(_WEIGHT.fullmatch, parameters.split(";"))), None)
    if weight is None:
        return kind.lower(), subtype.lower(), 1.0
    number = _NUMBER.fullmatch(weight[1])
    value = float(number[1]) if number else 2.0
    return kind.lower(), subtype.lower(), value if value <= 1 else _LEAST


def _weight(media_type: str, ranges: list[tuple[str, str, float]]) -> float:
    """The weight of the most specific range that matches; 0 when none does."""
    kind, subtype = media_type.split("/")
    for pattern in ((kind, subtype), (kind, "*"), ("*", "*")):
        weights = [weight for *found, weight in ranges if tuple(found) == pattern]
        if weights:
            return max(weights)
    return 0.0
