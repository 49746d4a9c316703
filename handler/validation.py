"""Fields as a client gave them -> checked values, or the problem document's parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from handler.errors import Kind, RequestError, show
from handler.fields import allowed_values, body_model
from handler.settings import Limits

# pydantic's error types in our words; errors of our own validators bring their text along.
_DETAIL = {
    "missing": "is missing",
    "model_type": "is not an object",
    "list_type": "is not a list",
    "int_type": "is not an integer",
    "float_type": "is not a number that a float can hold",
    "finite_number": "is not finite",
    "too_short": "is too short",
    "too_long": "is too long",
    "greater_than_equal": "is out of range",
    "less_than_equal": "is out of range",
    "string_type": "is not a string",
    "string_unicode": "is not Unicode text",
    "string_pattern_mismatch": "has a wrong form",
    "literal_error": "is not one of the choices",
}
_KIND = {
    "unknown_field": Kind.UNKNOWN_FIELD,
    "conflict": Kind.CONFLICT,
    "too_many_latents": Kind.TOO_LARGE,
}
_COUNTS = {"num_images", "seeds", "noise", "steps"}  # beyond their maximum: 413, not 400


def validate(given: Mapping[str, Any], nz: int, limits: Limits) -> dict[str, Any]:
    """Check names, types and ranges of the fields.

    Args:
        given: field name -> JSON value, or the bytes of raw noise.
        nz: length of a latent.
        limits: how much a request may ask for.

    Returns:
        The fields given, without nulls: seeds as int, numbers in lists as float, noise as rows.

    Raises:
        RequestError: names the first wrong place, as in ``walk.between[3]``.
    """
    try:
        body = body_model(nz, limits).model_validate(given)
    except ValidationError as error:
        # The only one, or nearly: lists fail fast, and so do unknown names.
        raise _refusal(error.errors(include_url=False)[0], allowed_values(nz, limits)) from None
    return body.model_dump(exclude_none=True)


def _refusal(first: ErrorDetails, allowed_in: Mapping[str, str]) -> RequestError:
    """pydantic's account of one wrong place as a problem."""
    context = first.get("ctx", {})
    # Names in angle brackets are the tags of a union, no part of the client's body.
    at = [part for part in first["loc"] if not str(part).startswith("<")]
    at += context.get("within", ())
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at)[1:]
    names = [part for part in at if isinstance(part, str)]
    allowed = context.get("allowed") or allowed_in[".".join(names)]
    kind = _KIND.get(first["type"], Kind.INVALID_FIELD)
    if first["type"] in ("too_long", "less_than_equal") and at[-1] in _COUNTS:
        kind = Kind.TOO_LARGE
    return RequestError(
        kind,
        f"{path} {_DETAIL.get(first['type'], first['msg'])}; use {allowed}",
        field=path,
        seen=context.get("seen") or show(first["input"]),
        allowed=allowed,
    )
