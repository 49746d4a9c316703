"""What can go wrong::

ClientError
  ArgumentError    nothing was asked: an address, a file or a value that cannot be used
  NotReachable     no connection, or no answer in time
  Problem          the server answered with an error
    BadRequest     400: ``field`` names what to change
    NotAcceptable  406
    TooLarge       413
    Unavailable    429, 503: still so after the last retry
    ServerFailed   any other 5xx

A plain ``Problem`` is any other status: 404 for a model that is not there, 302 and its like.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import Response

_SHOWN_CHARS = 200


class ClientError(Exception):
    """Any failure of a call. Its text is one line that a terminal can show: what a server sent as
    control characters is told as escapes."""

    def __str__(self) -> str:
        return _printable(super().__str__())


class ArgumentError(ClientError, ValueError):
    """What was given cannot be used; the message says what can."""


class NotReachable(ClientError):  # noqa: N818, reads as what it is
    """No connection to the server, or no answer in time."""


@dataclass(eq=False)
class Problem(ClientError):  # noqa: N818, the RFC's word
    """An error that the server told (RFC 9457 problem document, or TorchServe's own JSON).

    Args:
        type: URN of the kind of problem, or TorchServe's name of it; empty when unknown.
        detail: what is wrong and what to do.
        title: the kind of problem in words; empty when unknown.
        field: name of the field to blame, as in ``walk.between[3]``; empty when there is none.
        seen, allowed: the offending value and what the field takes; empty when not told.
    """

    status: int
    type: str
    detail: str
    title: str = ""
    field: str = ""
    seen: str = ""
    allowed: str = ""

    def __str__(self) -> str:
        where = f" ({self.field})" if self.field else ""
        return _printable(f"{self.status}{where}: {self.detail}")


class BadRequest(Problem):
    """400."""


class NotAcceptable(Problem):
    """406."""


class TooLarge(Problem):
    """413."""


class Unavailable(Problem):
    """429 or 503."""


class ServerFailed(Problem):
    """Any other 5xx."""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_CLASSES = {400: BadRequest, 406: NotAcceptable, 413: TooLarge, 429: Unavailable, 503: Unavailable}


def from_reply(reply: Response, proxy: str = "", tries: int = 1) -> Problem:
    """The exception for a reply that is no success, whatever wrote its body.

    Args:
        proxy: what the request went through; named where the reply may be its own.
        tries: how often the same was asked.
    """
    found: dict[str, Any] = {}
    with suppress(ValueError):
        decoded = json.loads(reply.content)
        found = decoded if isinstance(decoded, dict) else {}
    text = reply.content[:_SHOWN_CHARS].decode("utf-8", "replace").strip()
    detail = found.get("detail") or found.get("message") or text or reply.reason or "no explanation"
    if proxy and not str(found.get("type")).startswith("urn:dcgan:"):
        detail = f"{detail} (through the proxy {proxy} of the environment)"
    if tries > 1:
        detail = f"{detail} (asked {tries} times)"
    parts = {name: str(found.get(name, "")) for name in ("title", "field", "seen", "allowed")}
    status = reply.status_code
    kind: type[Problem] = _CLASSES.get(status, ServerFailed if status >= 500 else Problem)
    return kind(status, str(found.get("type", "")), str(detail), **parts)
