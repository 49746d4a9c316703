"""The body of one request as TorchServe gives it -> a mapping of field names to JSON values.

TorchServe hands over a dict per request: ``{"body": ...}`` with the body decoded
(``application/json``), as text (``text/*``) or as bytes (anything else, and JSON that it could
not decode), or one key per form field with the value as bytes. Over gRPC the keys are those of
the ``input`` map and the values bytes; there ``data`` is as usual a name as ``body``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

from handler.errors import Kind, RequestError, show
from handler.limits import Limits

_HINT = "send a JSON object with the header Content-Type: application/json"
_LOOKS_LIKE_JSON = re.compile(rb"(\xef\xbb\xbf)?[ \t\n\r]*[{\[]")
_TEXT = re.compile(rb"[\t\n\r -~]*")


def fields(raw: Mapping[str, Any], nz: int, limits: Limits) -> Mapping[str, Any]:
    """Field name -> JSON value, from any of the ways a body arrives in.

    Args:
        raw: what TorchServe gives for one request.
        nz: length of a latent; bytes that are no JSON are noise, float32 (n, nz),
            little-endian, and come back as the field ``noise`` in base64.
        limits: ``max_body_bytes`` bounds text and bytes; decoded JSON has been bounded by
            TorchServe's max_request_size.

    Raises:
        RequestError: 400 for what is not JSON, not an object or no whole rows of noise, 413
            for a body too large.
    """
    if set(raw) in ({"body"}, {"data"}):
        return _object(next(iter(raw.values())), nz, limits)
    for name in raw:
        if name.lstrip()[:1] in ("{", "["):
            # curl -d without a header: the JSON text was taken for the name of a form field,
            # cut at the first "=" or "&".
            if len(raw) == 1 and not raw[name]:
                return _object(name, nz, limits)
            raise RequestError(
                Kind.INVALID_BODY, f"JSON was sent as a form; {_HINT}", seen=show(name)
            )
    texts = [value for value in raw.values() if isinstance(value, str | bytes | bytearray)]
    _check_size(sum(map(len, texts)), limits)
    return {name: _form_value(name, value) for name, value in raw.items()}


def _object(body: object, nz: int, limits: Limits) -> Mapping[str, Any]:
    """A body in any stage of decoding -> the JSON object in it; nothing is ``{}``."""
    if isinstance(body, str | bytes | bytearray):
        _check_size(len(body), limits)
        body = _load(body) if isinstance(body, str) else _from_bytes(bytes(body), nz)
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise RequestError(
            Kind.INVALID_BODY, f"the body is not a JSON object; {_HINT}", seen=show(body)
        )
    return body


def _from_bytes(body: bytes, nz: int) -> object:
    """JSON or raw noise: no content type says which, so the bytes themselves have to."""
    row_bytes = 4 * nz
    whole_rows = bool(body) and len(body) % row_bytes == 0
    if _LOOKS_LIKE_JSON.match(body):
        try:
            return _load(body)
        except RequestError:
            # Noise may begin with such a byte, but not be printable from end to end: no number
            # could be zero or negative then. So a slip in JSON does not become a picture.
            if not whole_rows or _TEXT.fullmatch(body):
                raise
    if whole_rows:
        return {"noise": base64.b64encode(body).decode("ascii")}
    if not body.strip():
        return None
    raise RequestError(
        Kind.INVALID_BODY,
        "the body is neither JSON nor raw noise (float32, little-endian); "
        f"{_HINT}, or whole rows of {nz} float32 numbers as application/octet-stream",
        seen=f"{len(body)} bytes, {show(body[:20])}",
        allowed=f"a JSON object, or a positive multiple of {row_bytes} bytes",
    )


def _load(text: str | bytes) -> object:
    """Decode JSON; every way that can fail is the client's (RFC 8259)."""
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
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


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 8259, section 4: names should be unique; which of two was meant is a guess."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RequestError(
                Kind.INVALID_JSON,
                "an object names a field twice; keep one of them",
                field=show(name)[1:-1],
                seen=show(name),
                allowed="each name once",
            )
        found[name] = value
    return found


def _form_value(name: str, value: object) -> object:
    """A form field's text is JSON where it can be read as JSON, else a plain string."""
    if not isinstance(value, str | bytes | bytearray):
        return value  # a part with a content type of its own, decoded already
    try:
        text = value if isinstance(value, str) else value.decode()
        try:
            return json.loads(text, object_pairs_hook=_without_doubles)
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
