"""A body: what is refused, where, and in which words; the schema; instances."""

import itertools
import json
import time
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings

from handler.body import parse, schema
from handler.errors import Kind, RequestError
from handler.latents import MAX_SEED
from handler.settings import Limits
from handler.wire import Headers
from tests.support.calls import (
    DIRECTIONS,
    INF,
    NAN,
    NZ,
    RANDOM,
    ROW,
    SCHEMA,
    VALIDATOR,
    a_mix,
    a_walk,
    all_latents,
    base64_of,
    call,
    drawn,
    refused,
    request,
)
from tests.support.random_requests import FIELDS

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"seed": True}, "seed", "true"), ({"seed": -1}, "seed", "-1"),
    ({"seed": MAX_SEED + 1}, "seed", str(MAX_SEED + 1)),
    ({"seed": 10**4000}, "seed", "an integer of 13288 bits"),
    ({"seed": "-1"}, "seed", "'-1'"), ({"seed": "\u0663"}, "seed", "'\\u0663'"),
    ({"seed": NAN}, "seed", "nan"), ({"seed": [1]}, "seed", "a list of 1"),
    ({"seeds": []}, "seeds", "a list of 0"), ({"seeds": 5}, "seeds", "5"),
    ({"seeds": [1, True]}, "seeds[1]", "true"), ({"seeds": [1, 2, -3]}, "seeds[2]", "-3"),
    ({"num_images": 0}, "num_images", "0"), ({"num_images": True}, "num_images", "true"),
    ({"num_images": "2"}, "num_images", "'2'"),
    ({"noise": []}, "noise", "a list of 0"), ({"noise": 5}, "noise", "5"),
    ({"noise": [1, 2, 3]}, "noise[0]", "a list of 3"),
    ({"noise": [[1, 2, 3, 4], [1, 2, 3]]}, "noise[1]", "a list of 3"),
    ({"noise": [[1, 2, 3, 4], 5]}, "noise[1]", "5"),
    ({"noise": [[1, 2, True, 4]]}, "noise[0][2]", "true"),
    ({"noise": [[1, 2, None, 4]]}, "noise[0][2]", "null"),
    ({"noise": [[1, 2, 3, NAN]]}, "noise[0][3]", "nan"),
    ({"noise": [[1, 2, -INF, 4]]}, "noise[0][2]", "-inf"),
    ({"noise": [[1e39, 2, 3, 4]]}, "noise[0][0]", "1e+39"),
    ({"noise": [[1, 10**400, 3, 4]]}, "noise[0][1]", "an integer of 1329 bits"),
    ({"format": "jpg"}, "format", "'jpg'"), ({"format": []}, "format", "a list of 0"),
    ({"format": {}}, "format.type", "an object of 0"),
    ({"format": {"type": "png"}}, "format.type", "'png'"),
    ({"format": {"type": "gif", "fps": 0.09}}, "format.fps", "0.09"),
    ({"format": {"type": "gif", "fps": 51}}, "format.fps", "51"),
    ({"format": {"type": "gif", "fps": True}}, "format.fps", "true"),
    ({"format": {"type": "gif", "loop": -1}}, "format.loop", "-1"),
    ({"format": {"type": "gif", "loop": 65536}}, "format.loop", "65536"),
    (a_walk(1, 2, closed=1), "walk.closed", "1"),
    ({"format": True}, "format", "true"),
    ({"truncation": 0}, "truncation", "0"), ({"truncation": 1.01}, "truncation", "1.01"),
    ({"truncation": NAN}, "truncation", "nan"), ({"truncation": True}, "truncation", "true"),
    ({"edit": 1}, "edit", "1"), ({"edit": ["glasses"]}, "edit", "a list of 1"),
    ({"edit": {"glasses": 3.01}}, "edit.glasses", "3.01"),
    ({"edit": {"copy": -2.6}}, "edit.copy", "-2.6"),
    ({"edit": {"copy": True}}, "edit.copy", "true"), ({"edit": {"far": INF}}, "edit.far", "inf"),
    ({"columns": 0}, "columns", "0"), ({"columns": 257}, "columns", "257"),
    ({"columns": True}, "columns", "true"),
    ({"padding": -1}, "padding", "-1"), ({"padding": 65}, "padding", "65"),
    ({"padding": 1.5}, "padding", "1.5"),
    ({"background": "white"}, "background", "'white'"),
    ({"background": "#ffffff\n"}, "background", "'#ffffff\\n'"),
    ({"background": 0}, "background", "0"),
    ({"walk": 5}, "walk", "5"),
    ({"walk": {"steps": 3}}, "walk.between", "an object of 1"),
    ({"walk": {"between": [1, 2]}}, "walk.steps", "an object of 1"),
    (a_walk(1), "walk.between", "a list of 1"),
    (a_walk(*range(65), steps=65), "walk.between", "a list of 65"),
    ({"walk": {"between": "12", "steps": 3}}, "walk.between", "'12'"),
    (a_walk(1, 2, 3, True), "walk.between[3]", "true"),
    (a_walk(1, None), "walk.between[1]", "null"),
    (a_walk(1, MAX_SEED + 1), "walk.between[1]", str(MAX_SEED + 1)),
    (a_walk(1, {}), "walk.between[1]", "an object of 0"),
    (a_walk(1, []), "walk.between[1]", "a list of 0"),
    (a_walk(1, [1, 2, 3]), "walk.between[1]", "a list of 3"),
    (a_walk(1, [1, 2, 3, NAN]), "walk.between[1][3]", "nan"),
    (a_walk(1, 2, steps=1), "walk.steps", "1"),
    (a_walk(1, 2, steps=True), "walk.steps", "true"),
    (a_walk(1, 2, method="cubic"), "walk.method", "'cubic'"),
    (a_walk(1, [1, 100.1, 3, 4]), "walk.between[1][1]", "100.1"),
    ({"noise": [1, 2, -101, 4]}, "noise[0][2]", "-101"),
    (a_mix(noise=[ROW, [1, 2, 3, 666]]), "mix[1].noise[1][3]", "666"),
    ({"mix": {}}, "mix", "an object of 0"),
    ({"mix": []}, "mix", "a list of 0"),
    ({"mix": [{"weight": 1, "seeds": [1]}] * 65}, "mix", "a list of 65"),
    ({"mix": [1]}, "mix[0]", "1"),
    ({"mix": [{"seeds": [1]}]}, "mix[0].weight", "an object of 1"),
    (a_mix(weight=None, seeds=[1]), "mix[1].weight", "an object of 1"),
    (a_mix(weight=INF, seeds=[1]), "mix[1].weight", "inf"),
    (a_mix(weight=True, seeds=[1]), "mix[1].weight", "true"),
    (a_mix(seeds=[1, -1]), "mix[1].seeds[1]", "-1"),
    (a_mix(noise="AAAA"), "mix[1].noise", "3 bytes"),
]  # fmt: skip


WRONG_THOUGH_THE_SCHEMA_CANNOT_SAY_SO: list[tuple[dict[str, Any], str, str]] = [
    (a_walk(1, 10**5000), "walk.between[1]", "an integer of 16610 bits"),
    ({"seed": 1.0}, "seed", "1.0"),
    ({"num_images": 2.0}, "num_images", "2.0"),
    ({"format": {"type": "gif", "loop": 1.0}}, "format.loop", "1.0"),
    ({"edit": {"far": 2e-36}}, "edit", "an object of 1"),
    ({"edit": {"far": 1e10}}, "edit", "an object of 1"),
    (a_walk(1, 2.0), "walk.between[1]", "2.0"),
    (a_walk(1, 2, steps=3.0), "walk.steps", "3.0"),
    (a_walk(1, 2, 3, 4), "walk.steps", "3"),
    (a_walk([20, 0, 0, 0], [-10, 0.01, 0, 0]), "walk", "an object of 2"),
    (a_mix(weight=10**400, seeds=[1]), "mix[1].weight", "an integer of 1329 bits"),
    (a_mix(weight=1e39, noise=[ROW]), "mix", "a list of 2"),
    (a_mix(weight=36, noise=[ROW]), "mix", "a list of 2"),
    ({"mix": [{"weight": 1e308, "noise": [90] * NZ}]}, "mix", "a list of 1"),
]


@pytest.mark.parametrize(
    ("fields", "at", "seen", "by_schema"),
    [*((*row, True) for row in WRONG),
     *((*row, False) for row in WRONG_THOUGH_THE_SCHEMA_CANNOT_SAY_SO)],
    ids=itertools.count(),
)  # fmt: skip
def test_a_wrong_place_is_a_400_that_names_it(
    fields: dict[str, Any], at: str, seen: str, by_schema: bool
) -> None:
    error = refused({"body": fields})
    assert (error.kind, error.field, error.seen) == (Kind.INVALID_FIELD, at, seen)
    assert error.detail.startswith(at)
    assert error.allowed
    assert error.allowed in error.detail or at in ("walk", "mix", "edit")
    assert VALIDATOR.is_valid(fields) is not by_schema


AT_THE_EDGE: list[dict[str, Any]] = [
    {"seed": MAX_SEED}, {"seed": "1"}, {"seeds": [1] * 256}, {"seeds": [1]}, {"num_images": 256},
    {"num_images": 1}, {"noise": [[0] * NZ] * 256}, {"noise": [0] * NZ},
    {"noise": base64_of([ROW] * 256)}, {"noise": [100] * NZ}, {"noise": [-100] * NZ},
    a_walk(1, [100] * NZ, steps=256), a_walk(1, 2, steps=2), a_walk(1, 2, steps=2, closed=True),
    {"mix": [{"weight": 1, "noise": [100] * NZ}]}, {"mix": [{"weight": 1, "seeds": [1]}] * 64},
    {"truncation": 1}, {"truncation": 1e-9}, {"edit": {"glasses": -3, "copy": 2}},
    {"edit": {"copy": None}}, {"edit": {}}, {"columns": 256}, {"padding": 64},
    {"background": "#aBc012"}, {"format": "npy"}, {"format": {"type": "webp"}}, {"seed": None},
    {"format": {"type": "gif", "fps": 50, "loop": None}}, {"format": {"type": "gif", "fps": 0.1}},
    {"format": {"type": "gif", "loop": 65535}},
]  # fmt: skip


@pytest.mark.parametrize("fields", AT_THE_EDGE, ids=itertools.count())
def test_what_is_just_allowed_is_so_in_the_schema_too(fields: dict[str, Any]) -> None:
    drawn(request(fields))
    assert VALIDATOR.is_valid(fields)


def test_the_steps_allowed_depend_on_the_latents() -> None:
    assert refused({"body": a_walk(1, 2, 3, 4)}).allowed == "an integer 4 to 256"


@pytest.mark.parametrize(
    ("term", "kind"),
    [({}, Kind.INVALID_FIELD), ({"seeds": None}, Kind.INVALID_FIELD),
     ({"seeds": [1], "noise": [ROW]}, Kind.CONFLICT)],
)  # fmt: skip
def test_a_term_has_one_source(term: dict[str, Any], kind: Kind) -> None:
    error = refused({"body": a_mix(**term)})
    assert (error.kind, error.field) == (kind, "mix[1]")
    assert "exactly one of seeds and noise" in error.allowed


@pytest.mark.parametrize(
    ("fields", "at", "hint"),
    [
        ({"sede": 1}, "sede", "did you mean seed"),
        ({"sede": None}, "sede", "did you mean seed"),
        (a_walk(1, 2, stepz=4), "walk.stepz", "did you mean steps"),
        (a_walk(1, 2, stepz=None), "walk.stepz", "did you mean steps"),
        (a_mix(seed=4), "mix[1].seed", "did you mean seeds"),
        ({"edit": {"glases": 1}}, "edit.glases", "did you mean glasses"),
        ({"edit": {"spectacles": None}}, "edit.spectacles", "use copy, far, glasses"),
        (a_walk(1, 2, **{"\r\n\u00e9": 1}), "walk.\\r\\n\\xe9", "remove it"),
        (a_walk(1, 2, **{"\ud800": 1}), "walk.\\ud800", "remove it"),
        (a_walk(1, 2, **{"<row>": 1}), "walk.<row>", "remove it"),
    ],
    ids=itertools.count(),
)
def test_an_unknown_name_is_refused(fields: dict[str, Any], at: str, hint: str) -> None:
    error = refused({"body": fields})
    assert (error.kind, error.field) == (Kind.UNKNOWN_FIELD, at)
    assert hint in error.detail
    assert at.endswith("ud800") or not VALIDATOR.is_valid(fields)


def test_of_many_unknown_names_only_the_first_costs_time() -> None:
    fields = a_walk(1, 2, **{f"n{i}": 1 for i in range(300_000)})
    start = time.process_time()
    assert refused({"body": fields}).field == "walk.n0"
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"num_images": 4}, "num_images"),
        ({"num_images": 10**400}, "num_images"),
        ({"seeds": [1, 2, 3, 4]}, "seeds"),
        ({"noise": [[0] * NZ] * 4}, "noise"),
        ({"noise": base64_of([ROW] * 4)}, "noise"),
        (a_walk(1, 2, steps=4), "walk.steps"),
        (a_walk(1, 2, steps=10**400), "walk.steps"),
        (a_mix(seeds=[1] * 4), "mix[1].seeds"),
        (a_mix(noise=[ROW] * 4), "mix[1].noise"),
        (a_mix(noise=base64_of([ROW] * 4)), "mix[1].noise"),
    ],
    ids=itertools.count(),
)
def test_more_images_than_the_limit_is_a_413(fields: dict[str, Any], at: str) -> None:
    error = refused({"body": fields}, max_images=3)
    assert (error.kind, error.field) == (Kind.TOO_LARGE, at)
    assert request({"num_images": 3}, max_images=3).num_images == 3  # the limit itself
    less = jsonschema_rs.Draft202012Validator(schema(NZ, Limits(max_images=3), DIRECTIONS))
    assert not less.is_valid(fields)


def test_a_mix_has_a_limit_of_its_own() -> None:
    terms = [{"weight": 1, "seeds": [1] * 256}] * 4
    assert len(drawn(request({"mix": terms}))) == 1
    error = refused({"body": {"mix": [*terms, {"weight": 1, "seeds": [1]}]}})
    assert (error.kind, error.field, error.seen) == (Kind.TOO_LARGE, "mix", "1025 latents")


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1, "seeds": [2]},
        {"seed": 1, "noise": [[0] * NZ]},
        {"seeds": [], "noise": []},
        {"seeds": [1], "num_images": 1},
        {"noise": [[0] * NZ], "num_images": 1},
        {**a_walk(1, 2), "seed": 1},
        {**a_walk(1, 2), **a_mix(seeds=[1])},
        {**a_mix(seeds=[1]), "noise": [ROW]},
        {**a_walk(1, 2), "num_images": 3},
        {**a_mix(seeds=[1]), "num_images": 1},
    ],
    ids=itertools.count(),
)
def test_sources_go_alone(fields: dict[str, Any]) -> None:
    error = refused({"body": fields})
    assert error.kind is Kind.CONFLICT
    assert all(name in error.detail for name in fields)


@pytest.mark.parametrize("value", [None, "png", "json", "npy"])
def test_the_format_is_the_field_else_by_the_header_and_never_in_the_recipe(
    value: str | None,
) -> None:
    headers = Headers({"Accept": "application/x-npy"})
    (item,) = parse({"body": {"seed": 1, "format": value}}, NZ, Limits(), headers).items
    assert item.format == (value or "npy")
    assert "format" not in item.recipe
    assert request({"format": value}).format == (value or "png")


def test_each_instance_is_a_request_of_its_own() -> None:
    bodies: list[dict[str, Any]] = [
        {"seed": 1, "num_images": 3, "columns": 3, "format": "json"},
        {"noise": [1, 2, 3, 4], "format": None},
        a_walk(1, 2, steps=4),
    ]
    found = call({"body": {"instances": bodies}})
    assert found.kserve
    assert [item.source for item in found.items] == ["seed", "noise", "walk"]
    for item, body in zip(found.items, bodies, strict=True):
        assert not call({"body": body}).kserve
        assert np.array_equal(drawn(item), drawn(request(body)))
        assert (item.recipe, item.format) == (request(body).recipe, "json")


@pytest.mark.parametrize(
    "raw",
    [
        {"body": {"instances": [{"seed": 1}]}},
        {"body": {"instances": [{"seed": 1}], "parameters": []}},
        {"body": {"instances": [{"seed": 1}], "signature_name": "serving_default"}},
        {"body": {"instances": [{"seed": 1}], "signature_name": ""}, "model_name": b"dcgan"},
        {"data": b'{"instances": [{"seed": "1"}]}'},
        {"instances": bytearray(b'[{"seed": 1}]')},
    ],
)
def test_it_comes_in_every_way(raw: dict[str, Any]) -> None:
    found = call(raw)
    assert found.kserve
    assert list(found.items[0].seeds or ()) == [1]


@pytest.mark.parametrize("value", [None, [], {}, "x", 5])
def test_instances_are_a_list_with_something_in_it(value: object) -> None:
    error = refused({"body": {"instances": value}})
    assert (error.kind, error.field) == (Kind.INVALID_FIELD, "instances")


def test_instances_go_alone() -> None:
    error = refused({"body": {"instances": [{}], "sede\u00e9": 1}})
    assert (error.kind, error.field) == (Kind.CONFLICT, "sede\\xe9")


def test_parameters_are_fields_of_each_instance() -> None:
    bodies: list[dict[str, Any]] = [{"seed": 1, "columns": None}, {"seeds": [2, 9]}]
    shared = {"truncation": 0.5, "columns": 2, "format": None, "seeds": None}
    found = call({"body": {"instances": bodies, "parameters": shared}})
    assert [item.recipe for item in found.items] == [
        request({**body, "truncation": 0.5, "columns": 2}).recipe for body in bodies
    ]
    seeds = call({"body": {"instances": [{}, {"padding": 3}], "parameters": {"seed": 7}}}).items
    assert [(list(item.seeds or ()), item.padding) for item in seeds] == [([7], 0), ([7], 3)]


@pytest.mark.parametrize(
    ("shared", "kind", "at"),
    [
        ("x", Kind.INVALID_FIELD, "parameters"),
        ([1], Kind.INVALID_FIELD, "parameters"),
        ({"columns": 1}, Kind.CONFLICT, "parameters.columns"),
        ({"num_images": 2}, Kind.CONFLICT, "parameters.num_images"),
        ({"seed": 1}, Kind.CONFLICT, "instances[1].seeds"),
        ({"paddin\u00e9": 1}, Kind.UNKNOWN_FIELD, "parameters.paddin\\xe9"),
        ({"parameters": {}}, Kind.UNKNOWN_FIELD, "parameters.parameters"),
        ({"truncation": 2}, Kind.INVALID_FIELD, "parameters.truncation"),
        ({"edit": {"far": "1"}}, Kind.INVALID_FIELD, "parameters.edit.far"),
        ({"format": "png"}, Kind.INVALID_FIELD, "parameters.format"),
        ({"walk": {"between": [1, 2], "steps": 257}}, Kind.TOO_LARGE, "parameters.walk.steps"),
        ({"background": "#" * 4_000_000}, Kind.TOO_LARGE, "parameters"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_parameters_are_named(shared: object, kind: Kind, at: str) -> None:
    body = {"instances": [{}, {"seeds": [1], "columns": 1}], "parameters": shared}
    error = refused({"body": body})
    assert (error.kind, error.field) == (kind, at)
    assert error.detail.startswith(at)
    assert error.allowed


def test_parameters_in_the_place_of_a_request_are_no_field() -> None:
    error = refused({"body": {"parameters": {"seed": 1}, "inputs": []}})
    assert (error.kind, error.field) == (Kind.UNKNOWN_FIELD, "parameters")
    assert "remove it; use seed, seeds" in error.detail


@pytest.mark.parametrize(
    ("instance", "kind", "at"),
    [
        (5, Kind.INVALID_FIELD, "instances[2]"),
        ([], Kind.INVALID_FIELD, "instances[2]"),
        (None, Kind.INVALID_FIELD, "instances[2]"),
        ({"seed": -1}, Kind.INVALID_FIELD, "instances[2].seed"),
        ({"sede": 1}, Kind.UNKNOWN_FIELD, "instances[2].sede"),
        ({"instances": []}, Kind.UNKNOWN_FIELD, "instances[2].instances"),
        ({"seed": 1, "seeds": [1]}, Kind.CONFLICT, "instances[2].seeds"),
        ({"noise": [[1, 2, "x", 4]]}, Kind.INVALID_FIELD, "instances[2].noise[0][2]"),
        ({"seed": 2**53 - 1, "num_images": 2}, Kind.INVALID_FIELD, "instances[2].seed"),
        ({"num_images": 257}, Kind.TOO_LARGE, "instances[2].num_images"),
        ({"format": "png"}, Kind.INVALID_FIELD, "instances[2].format"),
        ({"format": "npy"}, Kind.INVALID_FIELD, "instances[2].format"),
        (a_walk([20, 0, 0, 0], [-10, 0.01, 0, 0]), Kind.INVALID_FIELD, "instances[2].walk"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict | list | None) else "",
)
def test_a_wrong_instance_is_named_by_its_place(instance: object, kind: Kind, at: str) -> None:
    # What concerns instances together, or is known only of their latents, is looked at last.
    more = [] if at.endswith((".walk", ".format")) else [{"seed": -5}]
    error = refused({"body": {"instances": [{"seed": 1}, {}, instance, *more]}})
    assert (error.kind, error.field) == (kind, at)
    assert error.detail.startswith("instances[2]")
    assert error.allowed


def test_the_limit_is_for_all_instances_together() -> None:
    assert len(call({"body": {"instances": [{"num_images": 3}, {}]}}, max_images=4).items) == 2
    error = refused({"body": {"instances": [{"num_images": 3}, {}, {}]}}, max_images=4)
    assert (error.kind, error.field) == (Kind.TOO_LARGE, "instances[2]")
    assert error.seen.startswith("5 images")


def test_the_schema_is_valid_and_carries_every_field_and_limit() -> None:
    assert jsonschema_rs.meta.is_valid(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(SCHEMA["properties"]) == FIELDS
    assert all(part["description"] for part in SCHEMA["properties"].values())


@settings(max_examples=150, deadline=None)
@given(body=RANDOM.bodies | RANDOM.doubtful)
def test_the_schema_takes_what_parse_takes(body: dict[str, Any]) -> None:
    try:
        drawn(request(body))
    except RequestError:
        return
    VALIDATOR.validate(body)


@settings(max_examples=300, deadline=None)
@given(raw=RANDOM.anything)
def test_anything_is_a_call_or_a_refusal_in_ascii(raw: dict[str, Any]) -> None:
    try:
        found = call(raw)
        latents = all_latents(found, NZ)
    except RequestError as error:
        texts = [error.detail, error.field, error.seen, error.allowed]
        assert all(text.isascii() and len(text) < 500 for text in texts)
        assert all(text.isprintable() for text in texts)
    else:
        assert 1 <= found.images <= 256
        assert [len(rows) for rows in latents] == [item.num_images for item in found.items]
        assert all(np.isfinite(rows).all() for rows in latents)
