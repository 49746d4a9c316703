"""The body of one request as TorchServe gives it -> a mapping of field names to values.

TorchServe hands over a dict per request: ``{"body": ...}`` with the bytes of the body, beside one
key for each parameter of the query on the few routes that read one; or one key per form field.
Over gRPC the keys are those of the ``input`` map; there ``data`` is as usual a name as ``body``.
All values are bytes, for ``handler.dcgan_handler`` turns TorchServe's own decoding off; a value
that is no bytes is JSON that has been decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from handler.errors import Kind, RequestError, show
from handler.fields import foreign
from handler.headers import NONE, check_readable, media_type
from handler.settings import Limits

_HINT = "send a JSON object with the header Content-Type: application/json"
_NOISE = ("", "application/octet-stream")  # what raw noise may be declared as; "": as nothing
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_LOOKS_LIKE_JSON = re.compile(rb"(\xef\xbb\xbf)?[ \t\n\r]*[{\[]")


def fields(
    raw: Mapping[str, Any], nz: int, limits: Limits, headers: Mapping[str, Any] = NONE
) -> Mapping[str, Any]:
    """Field name -> value, from any of the ways a body arrives in.

    Args:
        raw: what TorchServe gives for one request.
        nz: length of a latent.
        limits: ``max_body_bytes`` bounds bytes.
        headers: of the same request.

    Returns:
        JSON values; for raw noise the field ``noise`` with its bytes, float32 (n, nz),
        little-endian.

    Raises:
        RequestError: 400 for what is not JSON, not an object or no whole rows of noise, 413
            for a body too large, 415 for a packed one.
    """
    # /invocations?model_name=dcgan: TorchServe has read it.
    raw = {name: value for name, value in raw.items() if name != "model_name"}
    check_readable(raw, headers)
    _check_size(raw.values(), limits)
    key = "data" if set(raw) == {"data"} else "body"
    others = {name: value for name, value in raw.items() if name != key}
    for name in others:
        if name.lstrip()[:1] in ("{", "["):
            # curl -d without a header: the JSON text was taken for the name of a form field,
            # cut at the first "=" or "&".
            if len(raw) == 1 and not raw[name]:
                return _object(_load(name))
            raise RequestError(
                Kind.INVALID_BODY, f"JSON was sent as a form; {_HINT}", seen=show(name)
            )
    body = raw.get(key)
    if isinstance(body, bytes | bytearray):
        body = _decoded(bytes(body), media_type(headers, key), nz)
    found = _object(body)
    for name in others:
        if found.get(name) is not None:
            raise RequestError(
                Kind.CONFLICT,
                "a field is both in the body and in the query; keep one of them",
                field=show(name)[1:-1],
                seen=show(name),
                allowed="each field once",
            )
    return {**found, **{name: _form_value(name, value) for name, value in others.items()}}


def _object(body: object) -> Mapping[str, Any]:
    """Decoded JSON -> the object that it is; nothing is ``{}``."""
    if body is None:
        return {}
    if not isinstance(body, dict):
        twice = isinstance(body, str) and body.lstrip()[:1] in ("{", "[")
        raise RequestError(
            Kind.INVALID_BODY,
            "the body is valid JSON but no object"
            + (": it was encoded as JSON twice" if twice else "")
            + f"; {_HINT}",
            seen=show(body),
            allowed="a JSON object",
        )
    return body


def _decoded(body: bytes, media: str, nz: int) -> object:
    """JSON under any type; raw noise only where nothing else was declared.

    There the bytes themselves have to say which: noise is never text from end to end.
    """
    row_bytes = 4 * nz
    if media in _NOISE and not _is_text(body):
        if body and len(body) % row_bytes == 0:
            return {"noise": body}
        if body.strip() and not _LOOKS_LIKE_JSON.match(body):
            what = foreign(body)
            raise RequestError(
                Kind.INVALID_BODY,
                f"the body is {f'{what}, ' if what else ''}neither JSON nor raw noise (float32, "
                f"little-endian); {_HINT}, or whole rows of {nz} float32 numbers as "
                "application/octet-stream",
                seen=f"{len(body)} bytes, {show(body[:20])}",
                allowed=f"a JSON object, or a positive multiple of {row_bytes} bytes",
            )
    if not body.strip():
        return None
    encoding = json.detect_encoding(body)
    if what := foreign(body):
        reason = f"it is {what}"
    elif not encoding.startswith("utf-8"):
        reason = f"it looks like {encoding[:6].upper()} where JSON is UTF-8"
    else:
        try:
            return _load(body.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            reason = f"it is not UTF-8 at byte {error.start}"
    raise _no_json(reason, body)


def _is_text(body: bytes) -> bool:
    """Whether bytes are text from end to end, in an encoding that JSON is seen in, and not blank.

    Noise is not: no number of it could be zero or negative in UTF-8, and in UTF-16 or UTF-32 that
    begins with two characters of ASCII the first number is below 1e-17.
    """
    try:
        text = body.decode(json.detect_encoding(body))
    except UnicodeDecodeError:
        return False
    return bool(text.strip()) and text[:2].isascii() and not _CONTROL.search(text)


def _load(text: str) -> object:
    """Decode JSON; every way that can fail is the client's (RFC 8259)."""
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except RecursionError:
        reason = "it is nested too deeply"
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno} column {error.colno}"
    except ValueError:
        reason = "it holds an integer of too many digits"
    raise _no_json(reason, text)


def _no_json(reason: str, seen: str | bytes) -> RequestError:
    return RequestError(
        Kind.INVALID_JSON, f"the body is not JSON: {reason}; {_HINT}", seen=show(seen)
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
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        text = value.decode("utf-8-sig")
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


def _check_size(values: Iterable[object], limits: Limits) -> None:
    size = sum(len(value) for value in values if isinstance(value, bytes | bytearray))
    if size > limits.max_body_bytes:
        raise RequestError(
            Kind.TOO_LARGE,
            "the body is too large; send fewer latents",
            seen=f"{size} bytes",
            allowed=f"at most {limits.max_body_bytes} bytes",
        )
