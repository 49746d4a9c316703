"""Request headers as TorchServe passes them on: one mapping of text, with names as sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handler.errors import Kind, RequestError


def header(headers: Mapping[str, Any], name: str) -> str:
    """The values of a header, joined by commas; its name in any case, empty when there is none.

    TorchServe keeps the body's fields in the same mapping, but their values are no text.
    """
    wanted = name.lower()
    return ",".join(v for k, v in headers.items() if k.lower() == wanted and isinstance(v, str))


def check_not_dropped(raw: Mapping[str, Any], headers: Mapping[str, Any]) -> None:
    """Refuse a body that TorchServe's form decoder threw away.

    ``curl -d '{"seed": 1}'`` without a content type sends a form whose only item has no "=",
    of which nothing arrives: without this check a random picture would answer it.

    Raises:
        RequestError: a body was announced, and there is none.
    """
    length = header(headers, "Content-Length")
    announced = length not in ("", "0") or header(headers, "Transfer-Encoding") != ""
    if announced and not raw:
        raise RequestError(
            Kind.INVALID_BODY,
            "the body was sent as a form and holds no field; send a JSON object with the header "
            "Content-Type: application/json",
            seen=f"a form of {length or 'some'} bytes without a name=value",
            allowed="a JSON object, or form fields as name=value",
        )
