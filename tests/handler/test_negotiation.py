"""Accept headers, RFC 9110 section 12.5.1."""

from __future__ import annotations

import pytest

from handler.errors import Kind, RequestError
from handler.negotiation import choose


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "png"),
        ("  ", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("application/*", "json"),
        ("application/json", "json"),
        ("Application/JSON", "json"),
        ("application/json; charset=utf-8", "json"),
        ("application/x-npy", "npy"),
        ("image/png;q=0.5, application/json;q=0.9", "json"),
        ("image/png;q=0.5,application/json;q=0.5", "png"),
        ("*/*, image/png;q=0", "json"),
        ("*/*;q=0.1, application/x-npy;q=0.2", "npy"),
        ("application/*;q=0.9, application/json;q=0.1, image/png;q=0.5", "npy"),
        ("text/html, application/xhtml+xml, image/avif, image/webp, */*;q=0.8", "png"),
        ("image/png;q=x, application/json;q=0.001", "json"),
        ("image/png;q=1.5, application/json", "json"),
        ("nonsense, application/json", "json"),
        ("image/png ; Q=0.3 , application/json;q=0.2", "png"),
        # Java's URLConnection, for 20 years
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "png"),
        ("*", "png"),
        ("*/*;q=.2", "png"),
        (",,,", "png"),
        (" , application/json,", "json"),
        ("application/json;q=0.1234", "json"),
        ("application/json;q=0.12345, image/png;q=0.12344", "json"),
        ("image/png;q=0.1;ext=1, application/json;q=0.2", "json"),
        ("image/png;v=b3;q=0.1, application/json;q=0.2", "json"),
        ("*/*;q=x", "png"),
        ("text/html, */*;q=", "png"),
        ("application/json;q=-1", "json"),
    ],
)
def test_the_best_acceptable_form(accept: str, expected: str) -> None:
    assert choose(None, {"aCCept": accept}) == expected


@pytest.mark.parametrize(
    "accept",
    [
        "image/webp",
        "*/*;q=0",
        "*;q=0.000",
        "*/*;q=.0",
        "image/png;q=0",
        "nonsense",
        "\u00e9\r\n",
        "a" * 8000,
    ],
)
def test_nothing_acceptable(accept: str) -> None:
    with pytest.raises(RequestError) as caught:
        choose(None, {"Accept": accept})
    assert caught.value.kind is Kind.NOT_ACCEPTABLE
    assert caught.value.field == "Accept"
    assert caught.value.seen.isascii()
    assert len(caught.value.seen) <= 80


def test_the_field_wins_and_a_form_field_is_no_header() -> None:
    assert choose("npy", {"Accept": "image/webp"}) == "npy"
    assert choose(None, {"Accept": {"content-type": "text/plain"}}) == "png"


def test_only_what_is_offered() -> None:
    assert choose(None, {}, offered=("json",)) == "json"
    with pytest.raises(RequestError):
        choose(None, {"Accept": "image/png"}, offered=("json",))
