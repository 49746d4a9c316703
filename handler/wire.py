"""One request as TorchServe gives it: bytes and headers -> field names and JSON values.

TorchServe hands over a dict per request: ``{"body": ...}`` with the bytes of the body, beside one
key for each parameter of the query on the few routes that read one; or one key per form field.
Over gRPC the keys are those of the ``input`` map; there ``data`` is as usual a name as ``body``.
All values are bytes, for ``handler.dcgan_handler`` turns TorchServe's own decoding off; a value
that is no bytes is JSON that has been decoded.

Headers come as one mapping of text, with names as sent; over gRPC there are none. Beside them the
mapping holds, under the name of each field of the body, a mapping with that field's own
``content-type``. ``Headers`` reads it once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, get_args

from handler.errors import Kind, RequestError, show
from handler.settings import Limits

Format = Literal["png", "json", "npy", "webp", "apng", "gif"]
Moving = Literal["webp", "apng", "gif"]  # those with a frame an image
FORMATS: tuple[Format, ...] = get_args(Format)
MOVING: tuple[Moving, ...] = get_args(Moving)
MEDIA_TYPES: dict[Format, str] = {
    "png": "image/png",
    "json": "application/json",
    "npy": "application/x-npy",
    "webp": "image/webp",
    "apng": "image/apng",
    "gif": "image/gif",
}

_HINT = "send a JSON object with the header Content-Type: application/json"
_NOISE = ("", "application/octet-stream")  # what raw noise may be declared as; "": as nothing
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_LEAST_WEIGHT = 1e-6


class Headers:
    """The headers of one request."""

    __slots__ = ("_sent", "_text")

    def __init__(self, sent: Mapping[str, Any]) -> None:
        self._sent = sent
        self._text: dict[str, str] = {}
        for name, value in sent.items():
            if isinstance(value, str):
                lower = name.lower()
                before = self._text.get(lower)
                self._text[lower] = value if before is None else f"{before},{value}"

    def get(self, name: str) -> str:
        """The values of a header, joined by commas; empty when there is none.

        Args:
            name: in lower case; it is found in any.
        """
        return self._text.get(name, "")

    def media_type(self, field: str) -> str:
        """The media type that a field of the body is declared as: lower case, without parameters;
        empty when nothing declares it."""
        own = self._sent.get(field)
        declared = own.get("content-type") if isinstance(own, Mapping) else None
        if declared is None:
            declared = self.get("content-type")
        return str(declared).partition(";")[0].strip().lower()

    def end_of_stream(self) -> dict[str, str]:
        """The header that a reply over gRPC needs: that it is the last.

        Without it a call of StreamPredictions ends the worker with its batch, for TorchServe
        compares what it finds there with a text. Over HTTP it would make the reply a stream, so it
        must not be there; what comes over HTTP has a header at least, the length that TorchServe
        itself adds.
        """
        return {} if self._text else {"ts_stream_next": "false"}


NO_HEADERS = Headers({})


def fields(
    raw: Mapping[str, Any], nz: int, limits: Limits, headers: Headers = NO_HEADERS
) -> Mapping[str, Any]:
    """Field name -> value, from any of the ways a body arrives in.

    Args:
        raw: what TorchServe gives for one request.
        limits: ``max_body_bytes`` bounds bytes.

    Returns:
        JSON values; for raw noise the field ``noise`` with its bytes, float32 (n, nz),
        little-endian.

    Raises:
        RequestError: 400 for what is not JSON, not an object or no whole rows of noise, 413
            for a body too large, 415 for a packed one.
    """
    if "model_name" in raw:  # /invocations?model_name=dcgan: TorchServe has read it
        raw = {name: value for name, value in raw.items() if name != "model_name"}
    _check_readable(raw, headers)
    _check_size(raw.values(), limits)
    key = "data" if raw.keys() == {"data"} else "body"
    others = {name: value for name, value in raw.items() if name != key}
    for name in others:
        if name.lstrip()[:1] in ("{", "["):
            # curl -d without a header: the JSON text was taken for the name of a form field,
            # cut at the first "=" or "&".
            raise RequestError(
                Kind.INVALID_BODY, f"JSON was sent as a form; {_HINT}", seen=show(name)
            )
    body = raw.get(key)
    if isinstance(body, bytes | bytearray):
        body = _decoded(bytes(body), headers.media_type(key), nz)
    found = _object(body)
    if not others:
        return found
    for name in others:
        if found.get(name) is not None:
            raise RequestError(
                Kind.CONFLICT,
                "a field is both in the body and in the query; keep one of them",
                field=show(name)[1:-1],
                seen=show(name),
                allowed="each field once",
            )
    return {**found, **{name: form_value(name, value) for name, value in others.items()}}


def _object(body: object) -> Mapping[str, Any]:
    """Decoded JSON -> the object that it is; nothing is ``{}``."""
    if body is None:
        return {}
    if not isinstance(body, dict):
        raise RequestError(
            Kind.INVALID_BODY,
            f"the body is no JSON object; {_HINT}",
            seen=show(body),
            allowed="a JSON object",
        )
    return body


def _decoded(body: bytes, media: str, nz: int) -> object:
    """JSON under any type; raw noise only where nothing else was declared, and the bytes are no
    text."""
    row_bytes = 4 * nz
    if media in _NOISE and not _is_text(body):
        if len(body) % row_bytes == 0:
            return {"noise": body}
        raise RequestError(
            Kind.INVALID_BODY,
            "the body is neither text nor raw noise (float32, little-endian); "
            f"{_HINT}, or whole rows of {nz} float32 numbers as application/octet-stream",
            seen=f"{len(body)} bytes, {show(body[:20])}",
            allowed=f"a JSON object, or a positive multiple of {row_bytes} bytes",
        )
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8 at byte {error.start}", body) from None
    return _load(text) if text.strip() else None


def _is_text(body: bytes) -> bool:
    """Whether bytes are text in UTF-8 from end to end.

    Noise is not: it would have no zero, and its bytes above 0x7f only in the groups of UTF-8.
    """
    try:
        return not _CONTROL.search(body.decode())
    except UnicodeDecodeError:
        return False


def _load(text: str) -> object:
    """Decode JSON; every way that can fail is the client's (RFC 8259)."""
    try:
        return _JSON.decode(text)
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


_JSON = json.JSONDecoder(object_pairs_hook=_without_doubles)


def form_value(name: str, value: object) -> object:
    """A form field's text is JSON where it can be read as JSON, else a plain string."""
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        text = value.decode("utf-8-sig")
        try:
            return _JSON.decode(text)
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


def _check_readable(raw: Mapping[str, Any], headers: Headers) -> None:
    """Refuse a body that is packed, and one that TorchServe's form decoder threw away.

    ``curl -d '{"seed": 1}'`` without a content type sends a form whose only item has no "=",
    of which nothing arrives: without this check a random picture would answer it.

    Raises:
        RequestError: 415 for a content coding; 400 when a body was announced, and there is none.
    """
    coding = headers.get("content-encoding")
    if coding.strip().lower() not in ("", "identity"):
        raise RequestError(
            Kind.PACKED,
            "the body is packed, and nothing here unpacks it; send it as it is, without the header "
            "Content-Encoding",
            field="Content-Encoding",
            seen=show(coding),
            allowed="no Content-Encoding, or identity",
        )
    length = headers.get("content-length")
    announced = length not in ("", "0") or headers.get("transfer-encoding") != ""
    if announced and not raw:
        raise RequestError(
            Kind.INVALID_BODY,
            f"the body was sent as a form and holds no field; {_HINT}",
            seen=f"a form of {show(length)[1:-1] or 'some'} bytes without a name=value",
            allowed="a JSON object, or form fields as name=value",
        )


@lru_cache(maxsize=256)  # clients say the same again and again
def choose(accept: str, offered: tuple[Format, ...] = FORMATS) -> Format:
    """The form of a reply whose request names none, by its Accept header (RFC 9110, 12.5.1).

    A wildcard that takes any picture is never answered with a moving one, whatever stands beside
    it: browsers name their types, too, in every request.

    Args:
        accept: the header; empty when there is none.
        offered: what can be sent, the preferred one first.

    Raises:
        RequestError: status 406, nothing that is offered is acceptable.
    """
    parts = [part.strip() for part in accept.split(",") if part.strip()]
    if not parts:
        return offered[0]
    # Of a pattern that is there twice the larger weight counts.
    ranges = dict(sorted(map(_range, parts), key=lambda found: found[1]))
    if "*/*" in ranges or "image/*" in ranges:
        offered = tuple(form for form in offered if form not in MOVING)
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


def _range(part: str) -> tuple[str, float]:
    """Pattern and weight of a media range; ``*`` is ``*/*``, as Java has sent for years.

    A weight that is none is the least: what a client named is rather sent than refused.
    """
    pattern, *parameters = (word.strip() for word in part.lower().split(";"))
    weight = 1.0
    for parameter in parameters:
        name, _, number = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(number)
            except ValueError:
                weight = _LEAST_WEIGHT
            break
    return pattern if pattern != "*" else "*/*", weight if 0 <= weight <= 1 else _LEAST_WEIGHT


def _weight(media_type: str, ranges: Mapping[str, float]) -> float:
    """The weight of the most specific range that matches; 0 when none does."""
    patterns = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    return next((ranges[pattern] for pattern in patterns if pattern in ranges), 0.0)
