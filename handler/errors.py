"""What a client is told when a request cannot be answered: RFC 9457 problem documents.

``RequestError`` is the only exception that ends one request. Everything a client sent stays
in the JSON body, escaped to ASCII and cut: a header or a reason phrase with a foreign byte
or a line break would break TorchServe's frame for the whole batch.
"""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, dataclass, replace
from enum import Enum

from pydantic_core import PydanticCustomError

CONTENT_TYPE = "application/problem+json"

_SEEN_CHARS = 80


class Kind(Enum):
    """Every kind of problem: the last part of its URN, its HTTP status, its title."""

    INVALID_JSON = ("invalid-json", 400, "The body is not valid JSON")
    INVALID_BODY = ("invalid-body", 400, "The body is not an object of fields")
    INVALID_FIELD = ("invalid-field", 400, "A field has a value that is not allowed")
    UNKNOWN_FIELD = ("unknown-field", 400, "There is no such field")
    CONFLICT = ("conflicting-fields", 400, "These fields do not go together")
    INVALID_ADDRESS = ("invalid-address", 400, "The address cannot be read")
    NOT_FOUND = ("not-found", 404, "There is nothing at that address")
    NOT_ACCEPTABLE = ("not-acceptable", 406, "No reply format that the request accepts")
    TOO_LARGE = ("too-large", 413, "The request asks for more than the limits allow")
    PACKED = ("unsupported-encoding", 415, "The body has a content coding that is not taken")
    INTERNAL = ("internal", 500, "The server failed on this request")
    NOT_IMPLEMENTED = ("not-implemented", 501, "This service does not offer that")
    OVERLOADED = ("overloaded", 503, "There was more to do than can be done in time")
    OUT_OF_MEMORY = ("out-of-memory", 507, "The request alone does not fit the device's memory")

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.slug = slug
        self.type = f"urn:dcgan:problem:{slug}"
        self.status = status
        self.title = title


@dataclass(eq=False)
class RequestError(Exception):
    """One request that cannot be answered; its neighbours in the batch are not concerned.

    Args:
        kind: decides type, title and status.
        detail: what is wrong and what to do next, one ASCII sentence or two.
        field: name of the field, as in ``noise[3]``; empty when no field is to blame.
        seen: the offending value through ``show``; empty when there is none.
        allowed: what the field takes; empty when that does not apply.
        retry_after_s: the wait before the same request may do better, s; 0 when it will not.
    """

    kind: Kind
    detail: str
    _: KW_ONLY
    field: str = ""
    seen: str = ""
    allowed: str = ""
    retry_after_s: int = 0

    def __str__(self) -> str:
        return self.detail

    def within(self, place: str) -> RequestError:
        """The same of a part of the body that lies at ``place``, as in ``instances[2]``."""
        return replace(self, detail=f"{place}: {self.detail}", field=f"{place}.{self.field}")


def invalid(
    detail: str,
    *within: str | int,
    kind: Kind = Kind.INVALID_FIELD,
    seen: str = "",
    allowed: str = "",
) -> PydanticCustomError:
    """What a validator of ours raises, all its texts ASCII.

    Args:
        detail: what is wrong, in our words only.
        within: names and indices from the validator's own place to the one to blame.
        seen, allowed: where they are not the validator's input and what its field takes.
    """
    context = {"within": within, "seen": seen, "allowed": allowed}
    return PydanticCustomError(kind.name, detail, context)


def show(value: object) -> str:
    """A value from a client as printable ASCII of at most 80 characters.

    Lists and objects are named by their size only: they may be deep, and they may be huge.
    """
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, bytes | bytearray):
        text = ascii(bytes(value[: _SEEN_CHARS + 1]))[1:]
    elif isinstance(value, str):
        text = ascii(value[: _SEEN_CHARS + 1])
    elif value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, int) and value.bit_length() > 4 * _SEEN_CHARS:
        return f"an integer of {value.bit_length()} bits"  # repr() refuses the longest ones
    else:
        text = ascii(value)
    return text if len(text) <= _SEEN_CHARS else text[: _SEEN_CHARS - 3] + "..."


def problem_document(error: RequestError) -> bytes:
    """The reply's body: one JSON object in ASCII (RFC 9457, section 3).

    ``field``, ``seen`` and ``allowed`` are extension members (section 3.2), left out when
    empty.
    """
    document: dict[str, str | int] = {
        "type": error.kind.type,
        "title": error.kind.title,
        "status": error.kind.status,
        "detail": error.detail,
    }
    extensions = {"field": error.field, "seen": error.seen, "allowed": error.allowed}
    document |= {name: text for name, text in extensions.items() if text}
    return json.dumps(document).encode("ascii")
