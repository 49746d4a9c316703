"""A picture is an address: ``/seeds/1-64.png?columns=8`` -> the fields of a POST, and how caches
keep its reply.

==========================  ========================================================
``/seed/42.png``            ``{"seed": 42}``
``/seeds/1-64.png``         ``{"seed": 1, "num_images": 64}``
``/seeds/1,5,9-12.png``     ``{"seeds": [1, 5, 9, 10, 11, 12]}``
``/walk/1-7-42.png``        ``{"walk": {"between": [1, 7, 42]}}``
``/name/alice.png``         ``{"seed": seed_of("alice")}``
``/random.png``             ``{}``
==========================  ========================================================

The ending is the ``format``. The query has the other fields, each value JSON where it reads as
JSON, as in a form; those of an object are named with a dot, ``edit.glasses=1.5``, and those of the
walk and of a moving format also without, ``steps=24&fps=12``. Before all that may stand ``/v/`` and
the version of what the picture depends on beside its fields: the first 8 digits of the weights'
SHA-256, and for an edit a hyphen and those of the directions' (``a0a2b897-4c0eb2dd``). Such an
address has the same picture for ever, or none.

An address comes in one of two headers. ``X-Picture-Address`` is what a proxy was asked for, as it
was sent. ``url_path`` is TorchServe's own, for what follows ``/predictions/dcgan/1.0/``: the path
alone, decoded, for it drops the query of that route.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from handler.errors import Kind, RequestError, show
from handler.request import SOURCES, Motion, Walk
from handler.wire import MOVING, Headers, form_value

PROXY_S = "X-Accel-Expires"
"""The header that says for how long nginx's own cache need not ask, s."""
VERSION_DIGITS = 8  # of each SHA-256
_A_YEAR_S, _SOME_MINUTES_S = 31_536_000, 300
_PROXY_S = 5  # after that the proxy asks whether the picture is still the same

_ADDRESS = re.compile(
    r"(?:v/(?P<version>[^/]*)/)?(?:(?P<kind>seeds?|walk|name)/(?P<what>.+)|random)"
    r"\.(?P<format>[A-Za-z0-9]+)",
    re.DOTALL,
)
_SOME_SEEDS = re.compile(r"([0-9]{1,16})(?:-([0-9]{1,16}))?")
_TAG = re.compile(r'(?:W/)?("[!#-~\x80-\xff]*")')
_EXAMPLES = (
    "/seed/42.png, /seeds/1-64.png, /seeds/1,5,9.png, /walk/1-7-42.png?steps=24, "
    "/name/alice.png or /random.png, all also behind /v/ and the version of the model"
)


@dataclass(frozen=True)
class Address:
    """One address that was read.

    Args:
        fields: of the POST with the same reply.
        version: of the weights, or of weights and directions, that it names; None where of none.
    """

    fields: Mapping[str, Any]
    version: str | None

    def check(self, weights_sha256: str, directions_sha256: str) -> None:
        """Raises RequestError, 404, when the address is of another version than is served."""
        digests = [weights_sha256] + [directions_sha256] * ("-" in (self.version or ""))
        served = "-".join(digest[:VERSION_DIGITS] for digest in digests)
        if self.version not in (None, served):
            raise RequestError(
                Kind.NOT_FOUND,
                "the address is of another version of weights or directions than is served; use "
                "that, or leave it out",
                field="v",
                seen=show(self.version),
                allowed=served,
            )

    def headers(self, etag: str) -> dict[str, str]:
        """What tells caches how long the reply is good.

        TorchServe replaces Cache-Control, so it stands in CDN-Cache-Control (RFC 9213), which the
        proxy gives its clients by the usual name.

        Args:
            etag: a strong one, with its quotes (RFC 9110, 8.8.3).
        """
        if all(self.fields.get(name) is None for name in SOURCES):  # a random picture
            return {"CDN-Cache-Control": "no-store", PROXY_S: "0"}
        keep, proxy_s = f"public, max-age={_SOME_MINUTES_S}", _PROXY_S
        # A version of the weights alone does not say which directions an edit goes along.
        if self.version and ("-" in self.version or not self.fields.get("edit")):
            keep, proxy_s = f"public, max-age={_A_YEAR_S}, immutable", _A_YEAR_S
        return {"ETag": etag, "CDN-Cache-Control": keep, PROXY_S: str(proxy_s)}


def read(headers: Headers, body: Mapping[str, Any], max_images: int) -> Address | None:
    """The address that a request asks for; None when it is a POST as any other.

    Args:
        body: what TorchServe gives for it; an address takes none.
        max_images: one request may ask for; more seeds are not listed.

    Raises:
        RequestError: 404 for what is no address, 400 for one that cannot be read.
    """
    sent = headers.get("x-picture-address")
    path, query = _decoded(sent) if sent else (headers.get("url_path"), [])
    if not path:
        return None
    found = _ADDRESS.fullmatch(path.removeprefix("/"))
    if found is None:
        raise RequestError(
            Kind.NOT_FOUND,
            f"no picture has that address; use one such as {_EXAMPLES}",
            seen=show(path),
            allowed=_EXAMPLES,
        )
    if any(body.values()):
        raise RequestError(
            Kind.CONFLICT,
            "an address takes no body; put the fields into its query, or POST to "
            "/predictions/dcgan",
            allowed="no body",
        )
    kind, what = found["kind"], found["what"]
    moving = found["format"] in MOVING
    fields: dict[str, Any] = {"format": {"type": found["format"]} if moving else found["format"]}
    if kind == "seed":
        fields["seed"] = what
    elif kind == "seeds":
        fields |= _seeds(what, max_images)
    elif kind == "walk":
        fields["walk"] = {"between": what.split("-")}
    elif kind == "name":
        fields["seed"] = seed_of(what)
    for name, value in query:
        if kind == "walk" and name in Walk.model_fields:
            name = f"walk.{name}"
        elif moving and name in Motion.model_fields:
            name = f"format.{name}"
        _put(fields, name, value)
    return Address(fields, found["version"])


def seed_of(name: str) -> int:
    """The seed of a name: the first 53 bits of the SHA-256 of its UTF-8 in Unicode's form NFC.

    In any language: the first 7 bytes as a big-endian integer, without its last 3 bits. "alice" is
    1542618457563584.
    """
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).digest()
    return int.from_bytes(digest[:7], "big") >> 3


def is_among(etag: str, if_none_match: str) -> bool:
    """Whether a client's copy is still good (RFC 9110, 13.1.2, weak comparison).

    Args:
        if_none_match: the header; empty when there is none.
    """
    return if_none_match.strip() == "*" or etag in _TAG.findall(if_none_match)


def _decoded(sent: str) -> tuple[str, list[tuple[str, str]]]:
    """Path and query as text.

    Args:
        sent: the target of a request in origin form (RFC 9112, 3.2.1).
    """
    try:
        if not sent.isascii() or re.search("%(?![0-9A-Fa-f]{2})", sent):
            raise ValueError
        path, _, query = sent.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
        return unquote(path, errors="strict"), pairs
    except ValueError:  # UnicodeDecodeError is one
        raise RequestError(
            Kind.INVALID_ADDRESS,
            "the address is not ASCII with other text as the %XX of its UTF-8, or its query is not "
            "name=value with & between",
            seen=show(sent),
            allowed="an address as RFC 3986 writes it",
        ) from None


def _seeds(text: str, most: int) -> dict[str, Any]:
    """Fields of a list of seeds and of ranges of them; one range alone is seed and num_images."""
    ranges = []
    for part in text.split(","):
        found = _SOME_SEEDS.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise RequestError(
                Kind.INVALID_FIELD,
                "seeds holds a part that is neither a seed nor a range of seeds; write 7 or 1-64",
                field="seeds",
                seen=show(part),
                allowed="seeds and ranges with commas between, such as 1,5,9-12",
            )
        ranges.append(range(first, last + 1))
    if len(ranges) == 1 and "-" in text:
        return {"seed": ranges[0][0], "num_images": len(ranges[0])}
    # One more than may be asked for is enough to be refused.
    return {"seeds": list(itertools.islice(itertools.chain(*ranges), most + 1))}


def _put(fields: dict[str, Any], name: str, text: str) -> None:
    """Add one field of the query, or one of an object's."""
    target, key = fields, name
    outer, dot, inner = name.partition(".")
    if dot:
        target, key = fields.setdefault(outer, {}), inner
    if not isinstance(target, dict) or key in target:
        raise RequestError(
            Kind.CONFLICT,
            "the address gives a field twice; keep one of them",
            field=show(name)[1:-1],
            seen=show(text),
            allowed="each field once, in the path or in the query",
        )
    target[key] = form_value(name, text.encode())
