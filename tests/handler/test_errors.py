"""Problem documents: complete, ASCII, bounded, whatever the client sent."""

import itertools
import json
import re

import pytest

from handler.errors import Kind, RequestError, problem_document, show
from handler.replies import problem_reply


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


def test_types_are_unique_and_reason_phrases_plain_ascii() -> None:
    """What the types are says handler/openapi.yaml."""
    assert len({kind.type for kind in Kind}) == len(Kind)
    phrases = {kind: problem_reply(RequestError(kind, "no")).phrase for kind in Kind}
    assert all(re.fullmatch("[A-Za-z ]+", phrase) for phrase in phrases.values())
    assert phrases[Kind.OUT_OF_MEMORY] == "Insufficient Storage"


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
