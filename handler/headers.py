"""Request headers as TorchServe passes them on: one mapping of text, with names as sent.

Over gRPC there are none. Beside them the mapping holds, under the name of each field of the body,
a mapping with that field's own ``content-type``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from handler.errors import Kind, RequestError, show

NONE: Mapping[str, Any] = MappingProxyType({})


def header(headers: Mapping[str, Any], name: str) -> str:
    """The values of a header, joined by commas; its name in any case, empty when there is none."""
    wanted = name.lower()
    return ",".join(v for k, v in headers.items() if k.lower() == wanted and isinstance(v, str))


def media_type(headers: Mapping[str, Any], field: str) -> str:
    """The media type that a field of the body is declared as: lower case, without parameters;
    empty when nothing declares it."""
    own = headers.get(field)
    declared = own.get("content-type") if isinstance(own, Mapping) else None
    if declared is None:
        declared = header(headers, "Content-Type")
    return str(declared).partition(";")[0].strip().lower()


def check_readable(raw: Mapping[str, Any], headers: Mapping[str, Any]) -> None:
    """Refuse a body that is packed, and one that TorchServe's form decoder threw away.

    ``curl -d '{"seed": 1}'`` without a content type sends a form whose only item has no "=",
    of which nothing arrives: without this check a random picture would answer it.

    Raises:
        RequestError: 415 for a content coding; 400 when a body was announced, and there is none.
    """
    coding = header(headers, "Content-Encoding")
    if coding.strip().lower() not in ("", "identity"):
        raise RequestError(
            Kind.PACKED,
            "the body is packed, and nothing here unpacks it; send it as it is, without the header "
            "Content-Encoding",
            field="Content-Encoding",
            seen=show(coding),
            allowed="no Content-Encoding, or identity",
        )
    length = header(headers, "Content-Length")
    announced = length not in ("", "0") or header(headers, "Transfer-Encoding") != ""
    if announced and not raw:
        raise RequestError(
            Kind.INVALID_BODY,
            "the body was sent as a form and holds no field; send a JSON object with the header "
            "Content-Type: application/json",
            seen=f"a form of {show(length)[1:-1] or 'some'} bytes without a name=value",
            allowed="a JSON object, or form fields as name=value",
        )


def end_of_stream(headers: Mapping[str, Any]) -> dict[str, str]:
    """The header that a reply over gRPC needs: that it is the last.

    Without it a call of StreamPredictions ends the worker with its batch, for TorchServe compares
    what it finds there with a text. Over HTTP it would make the reply a stream, so it must not be
    there; what comes over HTTP has a header at least, the length that TorchServe itself adds.
    """
    over_http = any(isinstance(value, str) for value in headers.values())
    return {} if over_http else {"ts_stream_next": "false"}
