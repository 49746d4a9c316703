"""The way to an address and back is none: the server reads from it what was asked."""

from __future__ import annotations

from typing import Any

import pytest

from client.address import path
from client.errors import ArgumentError
from handler import address
from handler.body import parse
from handler.settings import Limits
from handler.wire import Headers
from tests.support.directions import directions

NZ = 3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"seed": 42}, "/seed/42.png"),
        ({"seed": "42", "num_images": None}, "/seed/42.png"),
        ({"seed": 1, "num_images": 64, "columns": 8}, "/seeds/1-64.png?columns=8"),
        ({"seeds": [1, 2, 3]}, "/seeds/1,2,3.png"),
        ({"seeds": [7], "background": "#102030"}, "/seeds/7.png?background=%23102030"),
        (
            {"walk": {"between": [1, 7, 42], "steps": 24, "method": "linear"}, "padding": 0},
            "/walk/1-7-42.png?padding=0&steps=24&method=linear",
        ),
        ({"format": "json"}, "/random.json"),
        (
            {"seed": 7, "edit": {"glasses": -2}, "truncation": 0.5},
            "/seed/7.png?truncation=0.5&edit.glasses=-2",
        ),
        (
            {
                "walk": {"between": [1, 7], "steps": 5, "closed": True},
                "format": {"type": "gif", "fps": 9},
            },
            "/walk/1-7.gif?fps=9&steps=5&closed=true",
        ),
    ],
)
def test_the_server_reads_the_same_request(fields: dict[str, Any], expected: str) -> None:
    assert path(fields) == expected

    def recipe(body: Any) -> str:
        (item,) = parse({"body": body}, NZ, Limits(), directions=directions(NZ)).items
        return item.recipe if item.seeds is None or fields.keys() & set(address.SOURCES) else ""

    asked = address.read(Headers({"X-Picture-Address": path(fields)}), {}, 256)
    assert asked is not None
    assert recipe(asked.fields) == recipe(fields)
    versioned = path(fields, "0123456789abcdef")
    assert versioned == f"/v/01234567{expected}"
    of_both = path(fields, "0123456789abcdef", "fedcba9876543210")
    assert of_both == f"/v/01234567{'-fedcba98' if fields.get('edit') else ''}{expected}"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"noise": [[1.0]]}, "noise has no address"),
        ({"mix": []}, "mix has no address"),
        ({"seed": 1, "walk": {"between": [1, 2]}}, "seed and walk has no address"),
        ({"walk": {"between": [[0.5]]}}, "latents have none"),
        ({"walk": {}}, "latents have none"),
        ({"seed": 1.5}, "only seeds"),
        ({"seed": 1, "num_images": "few"}, "num_images is 'few'; allowed is a whole number"),
        ({"walk": [1, 7]}, r"walk is \[1, 7\]; allowed is an object, as {'between'"),
        ({"seed": 1, "edit": ["glasses"]}, r"edit is \['glasses'\]; allowed is an object"),
        ({"seed": 1, "format": {"fps": 9}}, "format is {'fps': 9}; allowed is a name"),
        ({"seed": 1, "columns": {1}}, "set cannot be sent as JSON"),
    ],
)
def test_what_has_no_address_or_is_no_field(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        path(fields)
