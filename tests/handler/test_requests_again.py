"""Random requests: ``again`` draws the same once more, and the schema takes what parse takes."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from handler import requests
from handler.errors import RequestError
from handler.latents import MAX_SEED
from handler.requests import GenerateRequest, draw_together
from handler.settings import Limits

NZ = 3
LIMITS = Limits(max_images=8, max_padding_px=9)
SCHEMA = requests.schema(NZ, LIMITS)
VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)


def one_of_few(value: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(value, min_size=1, max_size=8)


numbers = st.floats(-5, 5, allow_subnormal=True) | st.integers(-5, 5)
seeds = st.integers(0, MAX_SEED - 8) | st.integers(0, 9).map(str)
rows = st.lists(numbers, min_size=NZ, max_size=NZ)
packed = one_of_few(rows).map(
    lambda value: base64.b64encode(np.array(value, "<f4").tobytes()).decode()
)
noise = one_of_few(rows) | rows | packed
between = st.lists(seeds | rows, min_size=2, max_size=5)
terms = st.one_of(
    st.fixed_dictionaries({"weight": st.floats(-2, 2), "seeds": one_of_few(seeds)}),
    st.fixed_dictionaries({"weight": st.integers(-3, 3), "noise": noise}),
)
sources = st.one_of(
    st.fixed_dictionaries({}, optional={"seed": seeds, "num_images": st.integers(1, 8)}),
    st.fixed_dictionaries({"seeds": one_of_few(seeds)}),
    st.fixed_dictionaries({"noise": noise}),
    st.fixed_dictionaries(
        {
            "walk": st.fixed_dictionaries(
                {"between": between, "steps": st.integers(5, 8)},
                optional={"method": st.sampled_from(["slerp", "linear", None])},
            )
        }
    ),
    st.fixed_dictionaries({"mix": st.lists(terms, min_size=1, max_size=4)}),
)
layouts = st.fixed_dictionaries(
    {},
    optional={
        "columns": st.integers(1, 8) | st.none(),
        "padding": st.integers(0, 9) | st.none(),
        "background": st.from_regex("#[0-9a-fA-F]{6}", fullmatch=True) | st.none(),
        "format": st.sampled_from(["png", "json", "npy", None]),
    },
)
good = st.builds(lambda source, layout: {**source, **layout}, sources, layouts)
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | seeds,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
doubtful = st.builds(
    lambda body, name, value: {**body, name: value},
    good,
    st.sampled_from(sorted(SCHEMA["properties"])),
    junk | between | noise | terms | st.lists(terms, max_size=2),
)


def parse(body: object) -> GenerateRequest:
    (item,) = requests.parse({"body": body}, NZ, LIMITS).items
    return item


@settings(max_examples=150, deadline=None)
@given(body=good)
def test_again_draws_the_same_bits_in_the_same_grid(body: dict[str, Any]) -> None:
    try:
        first = parse(body)
    except RequestError:
        if "walk" in body:  # nearly opposite ends: the arc between them swings far out
            reject()
        raise
    second = parse(json.loads(json.dumps(first.again, allow_nan=False)))
    assert draw_together([second], NZ)[0].tobytes() == draw_together([first], NZ)[0].tobytes()
    layouts = [(r.columns, r.padding, r.background) for r in (first, second)]
    assert layouts[0] == layouts[1]
    assert second.seeds == first.seeds
    assert second.again == first.again
    assert second.format is None


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"seed": "5", "num_images": 2}, {"seed": 5, "num_images": 2}),
        ({"seeds": [5, 6, "7"]}, {"seed": 5, "num_images": 3}),
        ({"seeds": [9]}, {"seed": 9, "num_images": 1}),
        ({"seeds": [5, 5]}, {"seeds": [5, 5]}),
        ({"seeds": [6, "5"]}, {"seeds": [6, 5]}),
        ({"noise": [0, 1, -2]}, {"noise": "AAAAAAAAgD8AAADA"}),
    ],
)
def test_again_is_short(body: dict[str, Any], fields: dict[str, Any]) -> None:
    again = dict(parse({**body, "background": "#AbCdEf", "columns": 8}).again)
    assert again.pop("background") == "#abcdef"
    assert again.pop("padding") == (0 if again.pop("columns") == 1 else 2)
    assert again == fields


def test_the_schema_is_valid_and_carries_every_field_and_limit() -> None:
    assert jsonschema_rs.meta.is_valid(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(SCHEMA["properties"]) == [
        "seed", "seeds", "num_images", "noise", "walk", "mix", "columns", "padding", "background",
        "format",
    ]  # fmt: skip
    assert all(part["description"] for part in SCHEMA["properties"].values())


@settings(max_examples=150, deadline=None)
@given(body=good | doubtful)
def test_the_schema_takes_what_parse_takes(body: dict[str, Any]) -> None:
    try:
        parse(body)
    except RequestError:
        return
    VALIDATOR.validate(body)


anything = st.one_of(
    junk.map(lambda value: {"body": value}),
    st.binary(max_size=30).map(lambda value: {"body": bytearray(value)}),
    st.dictionaries(st.text(max_size=9), st.binary(max_size=9), max_size=3),
    doubtful.map(lambda value: {"body": json.dumps(value).encode()}),
    st.lists(doubtful | junk, max_size=3).map(lambda value: {"body": {"instances": value}}),
    st.dictionaries(
        st.sampled_from(sorted(SCHEMA["properties"])), st.binary(max_size=9) | st.text(), max_size=2
    ),
)


@settings(max_examples=300, deadline=None)
@given(raw=anything)
def test_anything_is_a_call_or_a_refusal_in_ascii(raw: dict[str, Any]) -> None:
    try:
        call = requests.parse(raw, NZ, LIMITS)
    except RequestError as error:
        texts = [error.detail, error.field, error.seen, error.allowed]
        assert all(text.isascii() and len(text) < 500 for text in texts)
        assert all(text.isprintable() for text in texts)
    else:
        assert 1 <= sum(item.count for item in call.items) <= LIMITS.max_images
        assert all(np.isfinite(draw_together([item], NZ)[0]).all() for item in call.items)


AT_THE_EDGE = [
    ({"seed": MAX_SEED}, {"seed": MAX_SEED + 1}),
    ({"seed": "1"}, {"seed": "-1"}),
    ({"seeds": [1] * 8}, {"seeds": [1] * 9}),
    ({"seeds": [1]}, {"seeds": []}),
    ({"num_images": 8}, {"num_images": 9}),
    ({"num_images": 1}, {"num_images": 0}),
    ({"noise": [[0] * NZ] * 8}, {"noise": [[0] * NZ] * 9}),
    ({"noise": [0] * NZ}, {"noise": [0] * (NZ + 1)}),
    ({"noise": "A" * 16}, {"noise": "A" * 12}),
    ({"noise": "A" * 128}, {"noise": "A" * 132}),
    ({"noise": "A" * 16}, {"noise": "-" * 16}),
    ({"noise": [100] * NZ}, {"noise": [100.001] * NZ}),
    ({"noise": [-100] * NZ}, {"noise": [-100.001] * NZ}),
    (
        {"walk": {"between": [1, [100] * NZ], "steps": 8}},
        {"walk": {"between": [1, [101] * NZ], "steps": 8}},
    ),
    ({"mix": [{"weight": 1, "noise": [100] * NZ}]}, {"mix": [{"weight": 1, "noise": [101] * NZ}]}),
    ({"walk": {"between": [1, [0] * NZ], "steps": 8}}, {"walk": {"between": [1, 2], "steps": 9}}),
    ({"walk": {"between": [1, 2], "steps": 2}}, {"walk": {"between": [1], "steps": 2}}),
    ({"walk": {"between": [1, 2], "steps": 2}}, {"walk": {"between": [1, 2]}}),
    ({"mix": [{"weight": 1, "seeds": [1]}] * 64}, {"mix": [{"weight": 1, "seeds": [1]}] * 65}),
    ({"mix": [{"weight": 1, "noise": [0] * NZ}]}, {"mix": [{"noise": [0] * NZ}]}),
    ({"columns": 8}, {"columns": 9}),
    ({"padding": 9}, {"padding": 10}),
    ({"background": "#aBc012"}, {"background": "#abc0123"}),
    ({"format": "npy"}, {"format": "gif"}),
    ({"seed": None}, {"sede": None}),
]


@pytest.mark.parametrize(("inside", "outside"), AT_THE_EDGE)
def test_the_schema_ends_where_parse_ends(inside: dict[str, Any], outside: dict[str, Any]) -> None:
    parse(inside)
    assert VALIDATOR.is_valid(inside)
    with pytest.raises(RequestError):
        parse(outside)
    assert not VALIDATOR.is_valid(outside)
