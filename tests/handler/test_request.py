"""A request: its fields, filled in, the latents that it stands for, and its recipe."""

import itertools
import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler import latents
from handler.body import parse
from handler.errors import Kind, RequestError
from handler.latents import MAX_SEED, from_seeds
from handler.request import Request, draw
from handler.settings import Limits
from handler.wire import MOVING, Headers
from tests.support.calls import (
    DIRECTIONS,
    NZ,
    RANDOM,
    ROW,
    a_mix,
    a_walk,
    base64_of,
    call,
    drawn,
    refused,
    request,
)

EMPTY = [
    {}, {"body": {}}, {"body": None}, {"body": b""}, {"body": bytearray(b"\xef\xbb\xbf \n")},
]  # fmt: skip


@pytest.mark.parametrize("raw", EMPTY, ids=itertools.count())
def test_nothing_is_one_random_image(raw: dict[str, Any]) -> None:
    (first,), (second,) = call(raw).items, call(raw).items
    assert drawn(first).shape == (1, NZ)
    assert first.seeds != second.seeds  # equal once in 2^53 runs
    assert (first.source, first.num_images, first.columns, first.padding) == ("seed", 1, 1, 0)
    assert first.colour == (255, 255, 255)


SAME: list[dict[str, Any]] = [
    {"body": {"seed": 42, "num_images": 3}},
    {"body": {"seed": "42", "num_images": 3, "noise": None}},
    {"body": bytearray(b'{"seed": 42, "num_images": 3}')},
    {"body": b'{"seed": "42", "num_images": 3}'},
    {"body": b'\xef\xbb\xbf{"seed": 42}', "num_images": b"3"},
    {"seed": bytearray(b"42"), "num_images": bytearray(b"3")},
    {"seed": "42", "num_images": 3},
    {"seeds": bytearray(b"[42, 43, 44]")},
    {"body": {"seeds": [42, "43", 44]}},
]


@pytest.mark.parametrize("raw", SAME, ids=itertools.count())
def test_every_way_in_means_the_same(raw: dict[str, Any]) -> None:
    (item,) = call(raw).items
    assert tuple(item.seeds or ()) == (42, 43, 44)
    assert np.array_equal(drawn(item), from_seeds([42, 43, 44], NZ))
    assert (item.num_images, item.columns, item.padding) == (3, 2, 2)


def test_layout_fields() -> None:
    item = request({"seed": 1, "num_images": 5, "columns": 5, "padding": 0,
                    "background": "#0180fF"})  # fmt: skip
    assert (item.columns, item.padding, item.colour) == (5, 0, (1, 128, 255))
    assert request({"num_images": 2, "columns": 9}).columns == 2  # never more than images
    (form,) = call({"background": bytearray(b"#102030")}).items  # a colour as it is
    assert form.colour == (16, 32, 48)


def test_noise_is_taken_row_by_row_as_float32() -> None:
    rows = [[0.1, -2, 3.5, 4], [5, 6, 7, 8]]
    item = request({"noise": rows})
    assert drawn(item).dtype == np.float32
    assert np.array_equal(drawn(item), np.array(rows, np.float32))
    assert (item.source, item.seeds, item.num_images) == ("noise", None, 2)
    assert np.array_equal(drawn(request({"noise": [1, 2, 3, 4]})), [[1, 2, 3, 4]])  # one row


def test_seeds_end_at_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(request({"seed": MAX_SEED}).seeds or ()) == [MAX_SEED]
    error = refused({"body": {"seed": MAX_SEED, "num_images": 2}})
    assert (error.field, error.seen) == ("seed", str(MAX_SEED))
    monkeypatch.setattr("secrets.randbelow", lambda below: below - 1)
    item = request({"num_images": 3})  # a random base seed leaves room
    assert list(item.seeds or ()) == [MAX_SEED - 2, MAX_SEED - 1, MAX_SEED]


def test_a_walk_goes_through_seeds_and_latents() -> None:
    item = request(a_walk(1, "2", ROW, steps=6))
    keys = np.concatenate([from_seeds([1, 2], NZ), np.array([ROW], np.float32)])
    assert np.array_equal(drawn(item), latents.walk(keys, 6, "slerp"))
    assert (item.source, item.seeds, item.columns) == ("walk", None, 3)
    assert json.loads(item.recipe) == {
        "walk": {"between": [1, 2, ROW], "steps": 6, "method": "slerp"},
        "columns": 3,
        "padding": 2,
        "background": "#ffffff",
    }


def test_a_walk_may_be_straight() -> None:
    item = request(a_walk([0] * NZ, [4] * NZ, steps=5, method="linear"))
    assert drawn(item).tolist() == [[i] * NZ for i in range(5)]


def test_a_walk_may_be_a_round() -> None:
    item = request(a_walk(1, 2, 3, steps=7, closed=True))
    keys = from_seeds([1, 2, 3, 1], NZ)
    assert np.array_equal(drawn(item), latents.walk(keys, 8, "slerp")[:-1])
    assert json.loads(item.recipe)["walk"]["closed"] is True
    assert drawn(request(a_walk(1, 2, steps=2, closed=True))).shape == (2, NZ)
    for closed in (False, None):  # not in the recipe where it was not given
        assert len(drawn(request(a_walk(1, 2, steps=3, closed=closed)))) == 3
    assert "closed" not in request(a_walk(1, 2, steps=3, closed=None)).recipe


@pytest.mark.parametrize("form", ["webp", "apng", "gif"])
def test_a_moving_format_is_a_name_or_an_object(form: str) -> None:
    named = request({"seed": 5, "format": form})
    assert (named.format, named.motion.type) == (form, form)
    assert (named.motion.fps, named.motion.loop) == (12, 0)
    told = request({"seed": 5, "format": {"type": form, "fps": 12, "loop": None}, "columns": 3})
    assert told.recipe == named.recipe
    assert json.loads(told.recipe) == {
        "seed": 5, "num_images": 1, "format": {"type": form, "fps": 12, "loop": 0},
    }  # fmt: skip
    (accepted,) = parse(
        {"body": {"seed": 5}}, NZ, Limits(), Headers({"Accept": f"image/{form}"})
    ).items
    assert accepted.recipe == named.recipe
    assert request(json.loads(request({"format": {"type": form, "fps": 2}}).recipe)).motion.fps == 2
    assert refused({"body": {"instances": [{"format": form}]}}).field == "instances[0].format"


def test_a_mix_is_the_weighted_sum_of_means() -> None:
    rows = [ROW, [0.1, 0.2, 0.3, 0.4]]
    terms = [
        {"weight": 1, "seeds": [1, "2"]},
        {"weight": -0.5, "noise": rows},
        {"weight": 2.5, "noise": base64_of(ROW), "seeds": None},
    ]
    item = request({"mix": terms})
    one, two, three = from_seeds([1, 2], NZ), np.array(rows, np.float32), np.float32([ROW])
    assert np.array_equal(drawn(item), latents.mix([(1, one), (-0.5, two), (2.5, three)]))
    assert (item.source, item.seeds, item.padding) == ("mix", None, 0)
    assert json.loads(item.recipe)["mix"] == [
        {"weight": 1, "seeds": [1, 2]},
        {"weight": -0.5, "noise": base64_of(rows)},
        {"weight": 2.5, "noise": base64_of(ROW)},
    ]


BASES: list[dict[str, Any]] = [
    {"seed": 5, "num_images": 3}, {"seeds": [7, 1]}, {"noise": [ROW]}, a_walk(1, ROW, steps=4),
    a_mix(seeds=[3]),
]  # fmt: skip


@pytest.mark.parametrize("base", BASES, ids=lambda base: next(iter(base)))
def test_latents_of_any_source_are_truncated_and_then_edited(base: dict[str, Any]) -> None:
    plain = drawn(request(base))
    short = drawn(request({**base, "truncation": 0.7}))
    assert np.array_equal(short, (0.7 * plain.astype(np.float64)).astype(np.float32))
    fields = {**base, "edit": {"glasses": 1.5, "copy": -2}, "truncation": 0.7}
    copy, glasses = np.array([0, 0, 0, 0.7], np.float32), np.array([1, 0.1, 0, 0], np.float32)
    step = -2 * copy.astype(np.float64) + 1.5 * glasses.astype(np.float64)
    moved = short.astype(np.float64) + step
    assert np.array_equal(drawn(request(fields)), moved.astype(np.float32))


def test_changes_come_as_form_fields_and_in_instances_too() -> None:
    body = {"seed": 5, "truncation": 0.5, "edit": {"glasses": 1}}
    form = {name: json.dumps(value).encode() for name, value in body.items()}
    (item,), (instance,) = call(form).items, call({"body": {"instances": [body]}}).items
    for found in (item, instance):
        assert drawn(found).tobytes() == drawn(request(body)).tobytes()
    error = refused({"body": {"instances": [{}, {"edit": {"far": 1}}]}})
    assert error.field == "instances[1].edit"


def test_a_recipe_has_the_changes_only_where_there_are_any() -> None:
    for nothing in ({"edit": {}}, {"edit": None}, {"edit": {"copy": None}}, {"truncation": None}):
        item = request({"seed": 5, **nothing})
        assert item.recipe == request({"seed": 5}).recipe
        assert item.recipe_alone(0, drawn(item)) == '{"seed":5,"padding":0}'
        assert item.changes == {}
    first = request({"seed": 5, "truncation": 1, "edit": {"glasses": 1, "copy": 0.1}})
    second = request({"edit": {"copy": 0.1, "glasses": 1.0}, "truncation": 1.0, "seed": "5"})
    assert first.recipe == second.recipe
    assert json.loads(first.recipe)["edit"] == {"copy": 0.1, "glasses": 1}
    assert json.loads(first.recipe_alone(0, drawn(first)))["truncation"] == 1


def test_an_archive_without_directions_says_so() -> None:
    with pytest.raises(RequestError, match="this archive has none") as caught:
        parse({"body": {"edit": {"glasses": 1}}}, NZ, Limits())
    assert (caught.value.kind, caught.value.field) == (Kind.UNKNOWN_FIELD, "edit.glasses")
    assert "edit" not in parse({"body": {"edit": {}}}, NZ, Limits()).items[0].recipe


ANOTHER: dict[str, dict[str, Any]] = {  # picture than that of seed 1, by each field
    "seed": {"seed": 2}, "seeds": {"seeds": [1, 3]}, "num_images": {"seed": 1, "num_images": 2},
    "noise": {"noise": ROW}, "walk": {"walk": {"between": [1, 2], "steps": 2}},
    "mix": a_mix(noise=[ROW]), "truncation": {"seed": 1, "truncation": 0.5},
    "edit": {"seed": 1, "edit": {next(iter(DIRECTIONS.named)): 1}},
    "columns": {"seed": 1, "num_images": 4, "columns": 4}, "padding": {"seed": 1, "padding": 3},
    "background": {"seed": 1, "background": "#000000"}, "format": {"seed": 1, "format": "gif"},
}  # fmt: skip


def test_every_field_is_in_the_recipe() -> None:
    """Caches tell two pictures apart by it."""
    assert list(ANOTHER) == list(Request.model_fields)
    recipes = {call({"body": body}).items[0].recipe for body in ({"seed": 1}, *ANOTHER.values())}
    assert len(recipes) == 1 + len(ANOTHER)


def test_many_mixes_are_drawn_one_after_the_other() -> None:
    """Each averages up to 1024 latents; all at once they would take hundreds of megabytes."""
    mix = {"mix": [{"weight": 1, "seeds": [1] * 256}] * 4}
    found = call({"body": {"instances": [mix] * 64}}, 100)
    tracemalloc.start()
    (latents,) = draw([found], 100)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(latents) == 64
    assert peak_bytes < 20e6


# Random requests: a recipe draws the same once more, and the schema takes what parse takes.
@settings(max_examples=150, deadline=None)
@given(body=RANDOM.bodies | st.just({}))
def test_a_recipe_draws_the_same_bits_in_the_same_grid(body: dict[str, Any]) -> None:
    first = request(body)
    second = request(json.loads(first.recipe, parse_constant=pytest.fail))
    assert drawn(second).tobytes() == drawn(first).tobytes()
    layouts = [(r.columns, r.padding, r.background) for r in (first, second)]
    assert layouts[0] == layouts[1] or first.format in MOVING
    assert list(second.seeds or ()) == list(first.seeds or ())
    assert second.recipe == first.recipe


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"seed": "5", "num_images": 2}, {"seed": 5, "num_images": 2}),
        ({"seeds": [5, 6, "7"]}, {"seed": 5, "num_images": 3}),
        ({"seeds": [9]}, {"seed": 9, "num_images": 1}),
        ({"seeds": [5, 5]}, {"seeds": [5, 5]}),
        ({"seeds": [6, "5"]}, {"seeds": [6, 5]}),
        ({"noise": ROW}, {"noise": base64_of(ROW)}),
    ],
)
def test_a_recipe_is_short(body: dict[str, Any], fields: dict[str, Any]) -> None:
    recipe = json.loads(request({**body, "background": "#AbCdEf", "columns": 8}).recipe)
    assert recipe.pop("background") == "#abcdef"
    assert recipe.pop("padding") == (0 if recipe.pop("columns") == 1 else 2)
    assert recipe == fields
