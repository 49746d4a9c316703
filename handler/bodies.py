"""The body of one request as TorchServe gives it -> a mapping of field names to JSON values.

TorchServe hands over a dict per request: ``{"body": ...}`` with the body decoded
(``application/json``), as text (``text/*``) or as bytes (anything else, and JSON that it could
not decode), or one key per form field with the value as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from handler.errors import Kind, RequestError, show
from handler.limits import Limits

_HINT = "send a JSON object with the header Content-Type: application/json"


def fields(raw: Mapping[str, Any], limits: Limits) -> Mapping[str, Any]:
    """Field name -> JSON value, from any of the ways a body arrives in.

    Args:
        raw: what TorchServe gives for one request.
        limits: ``max_body_bytes`` bounds text and bytes; decoded JSON has been bounded by
            TorchServe's max_request_size.

    Raises:
        RequestError: 400 for what is not JSON or not an object, 413 for a body too large.
    """
    if set(raw) == {"body"}:
        return _object(raw["body"], limits)
    for name in raw:
        if name.lstrip()[:1] in ("{", "["):
            # curl -d without a header: the JSON text was taken for the name of a form field,
            # cut at the first "=" or "&".
            if len(raw) == 1 and not raw[name]:
                return _object(name, limits)
            raise RequestError(
                Kind.INVALID_BODY, f"JSON was sent as a form; {_HINT}", seen=show(name)
            )
    _check_size(sum(len(value) for value in raw.values() if isinstance(value, bytearray)), limits)
    return {name: _form_value(name, value) for name, value in raw.items()}


def _object(body: object, limits: Limits) -> Mapping[str, Any]:
    """A body in any stage of decoding -> the JSON object in it; nothing is ``{}``."""
    if isinstance(body, str | bytes | bytearray):
        _check_size(len(body), limits)
        body = _load(body) if body.strip() else None
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise RequestError(
            Kind.INVALID_BODY, f"the body is not a JSON object; {_HINT}", seen=show(body)
        )
    return body


def _load(text: str | bytes | bytearray) -> object:
    """Decode JSON; every way that can fail is the client's (RFC 8259)."""
    try:
        return json.loads(text)
    except RecursionError:
        reason = "it is nested too deeply"
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno} column {error.colno}"
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except ValueError:
        reason = "it holds an integer of too many digits"
    raise RequestError(
        Kind.INVALID_JSON, f"the body is not JSON: {reason}; {_HINT}", seen=show(text)
    )


def _form_value(name: str, value: object) -> object:
    """A form field's text is JSON where it can be read as JSON, else a plain string."""
    if not isinstance(value, str | bytes | bytearray):
        return value  # a part with a content type of its own, decoded already
    try:
        text = value if isinstance(value, str) else value.decode()
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text
    except (ValueError, RecursionError):
        raise RequestError(
            Kind.INVALID_FIELD,
            "a form field is neither JSON nor UTF-8 text; send text",
            field=show(name)[1:-1],
            seen=show(value),
        ) from None


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.max_body_bytes:
        raise RequestError(
            Kind.TOO_LARGE,
            "the body is too large; send fewer latents",
            seen=f"{size} bytes",
            allowed=f"at most {limits.max_body_bytes} bytes",
        )
