"""Problem documents: complete, ASCII, bounded, whatever the client sent."""

from __future__ import annotations

import itertools
import json

import pytest

from handler.errors import Kind, RequestError, problem_document, reason_phrase, show


def test_a_problem_has_the_members_of_rfc_9457_and_ours() -> None:
    error = RequestError(
        Kind.INVALID_FIELD, "too low", field="seed", seen="-1", allowed="0 or more"
    )
    assert json.loads(problem_document(error)) == {
        "type": "urn:dcgan:problem:invalid-field",
        "title": "A field has a value that is not allowed",
        "status": 400,
        "detail": "too low",
        "field": "seed",
        "seen": "-1",
        "allowed": "0 or more",
    }


def test_empty_members_are_left_out() -> None:
    document = json.loads(problem_document(RequestError(Kind.INTERNAL, "sorry")))
    assert set(document) == {"type", "title", "status", "detail"}


def test_types_are_unique() -> None:
    assert len({kind.type for kind in Kind}) == len(Kind)


@pytest.mark.parametrize(
    ("kind", "slug", "phrase"),
    [
        (Kind.NOT_ACCEPTABLE, "not-acceptable", "Not Acceptable"),
        (Kind.TOO_LARGE, "too-large", "Request Entity Too Large"),
        (Kind.OVERLOADED, "overloaded", "Service Unavailable"),
        (Kind.OUT_OF_MEMORY, "out-of-memory", "Insufficient Storage"),
    ],
)
def test_a_kind_has_a_name_and_a_phrase(kind: Kind, slug: str, phrase: str) -> None:
    assert kind.type == f"urn:dcgan:problem:{slug}"
    assert reason_phrase(kind.status) == phrase


@pytest.mark.parametrize("kind", Kind)
def test_reason_phrases_are_plain_ascii(kind: Kind) -> None:
    phrase = reason_phrase(kind.status)
    assert phrase.replace(" ", "").isascii()
    assert phrase.replace(" ", "").isalpha()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (1.5, "1.5"),
        (7, "7"),
        (float("nan"), "nan"),
        ("é\r\n", "'\\xe9\\r\\n'"),
        (bytearray(b"\xff"), "'\\xff'"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "an object of 1"),
        (10**5000, "an integer of 16610 bits"),
    ],
    ids=itertools.count(),
)
def test_show(value: object, text: str) -> None:
    assert show(value) == text


@pytest.mark.parametrize(
    "value",
    ["\U0001f600" * 10**6, b"\x00" * 10**6, [[]] * 9, 10**300],
    ids=["str", "bytes", "list", "int"],
)
def test_what_is_shown_is_short_printable_ascii(value: object) -> None:
    text = show(value)
    assert len(text) <= 80
    assert text.isascii()
    assert text.isprintable()
