"""What a request may say, in every way it can come, and the latents that it stands for."""

import base64
import itertools
import json
import time
import tracemalloc
from typing import Any

import jsonschema_rs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler import latents
from handler.errors import Kind, RequestError
from handler.latents import MAX_SEED, Latents, from_seeds
from handler.request import Call, Request, draw, parse, schema
from handler.settings import Limits
from handler.wire import MOVING, Headers
from tests.support.directions import directions
from tests.support.random_requests import FIELDS, RandomRequests

NZ = 4
ROW = [1.0, -2.0, 0.5, 3.0]
NAN, INF = float("nan"), float("inf")


DIRECTIONS = directions(NZ)
SCHEMA = schema(NZ, Limits(), DIRECTIONS)
VALIDATOR = jsonschema_rs.Draft202012Validator(SCHEMA)
RANDOM = RandomRequests(NZ, 8, directions(NZ, "copy"))


def call(raw: dict[str, Any], nz: int = NZ, **limits: int) -> Call:
    return parse(raw, nz, Limits(**limits), directions=DIRECTIONS)


def request(fields: object, **limits: int) -> Request:
    (item,) = call({"body": fields}, **limits).items
    return item


def drawn(item: Request) -> Latents:
    (rows,) = all_latents(Call([item], kserve=False), NZ)
    return rows


def all_latents(found: Call, nz: int) -> list[Latents]:
    (own,) = draw([found], nz)
    return found.changed(own, DIRECTIONS)


def refused(raw: dict[str, Any], nz: int = NZ, **limits: int) -> RequestError:
    """The refusal of what may be seen as late as the latents are drawn."""
    with pytest.raises(RequestError) as caught:
        all_latents(call(raw, nz, **limits), nz)
    return caught.value


def base64_of(rows: Any) -> str:
    return base64.b64encode(np.asarray(rows, "<f4").tobytes()).decode()


def a_walk(*between: Any, steps: Any = 3, **more: Any) -> dict[str, Any]:
    return {"walk": {"between": list(between), "steps": steps, **more}}


def a_mix(**term: Any) -> dict[str, Any]:
    return {"mix": [{"weight": 1, "seeds": [1]}, {"weight": 1, **term}]}


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


def test_noise_in_base64_is_little_endian_float32() -> None:
    rows = from_seeds([7, 8], NZ)
    rows[0, 0] = -0.0
    item = request({"noise": base64_of(rows)})
    assert drawn(item).tobytes() == rows.tobytes()
    assert drawn(item).dtype == np.float32
    assert item.source == "noise"
    assert json.loads(item.recipe)["noise"] == base64_of(rows)


@pytest.mark.parametrize("size", [0, 1, 15, 17, 20])
def test_base64_holds_whole_rows(size: int) -> None:
    error = refused({"body": {"noise": base64.b64encode(bytes(size)).decode()}})
    assert (error.kind, error.field, error.seen) == (Kind.INVALID_FIELD, "noise", f"{size} bytes")
    assert "16 bytes" in error.allowed


@pytest.mark.parametrize(
    "text",
    ["A" * 12 + "\n" + "A" * 10 + "==", "A" * 22 + "==\r\n", "A" * 20 + "-_==", " " + "A" * 22,
     "data:application/octet-stream;base64," + "A" * 22 + "==", "A" * 22, "A" * 22 + "=",
     "A" * 21 + "==", "A" * 22 + "!=", "=", "\u00e9", "\ud800"],
    ids=itertools.count(),
)  # fmt: skip
def test_base64_is_strict(text: str) -> None:
    error = refused({"body": {"noise": text}})
    assert (error.kind, error.field) == (Kind.INVALID_FIELD, "noise")
    assert "base64" in error.allowed


NORMAL = np.random.default_rng(0).standard_normal(6400)
OTHER_TYPES = {
    "float16": NORMAL.astype("<f2"), "bfloat16": (NORMAL.astype("<f4").view("<u4") >> 16)
    .astype("<u2"), "big-endian": NORMAL.astype(">f4"), "big-endian float16": NORMAL.astype(">f2"),
    "float64": NORMAL, "float32 as float64": NORMAL.astype("<f4").astype("<f8"),
    "uint8": (NORMAL * 40 + 128).astype("u1"), "int8": (NORMAL * 40).astype("i1"),
    "int32": NORMAL.astype("<i4"), "int64": NORMAL.astype("<i8"),
    "float64 of ones": np.ones(400), "float64 of float16": NORMAL.astype("<f2").astype("<f8"),
    "float64 of whole numbers": np.round(NORMAL), "int32 0 to 4": np.arange(400, dtype="<i4") % 5,
    "int16 0 to 4": np.arange(400, dtype="<i2") % 5, "booleans": NORMAL > 0,
    "int64 0 to 4": np.arange(400, dtype="<i8") % 5,
    "JSON in UTF-16": np.frombuffer('{"seed": 1}'.ljust(200).encode("utf-16-le"), "u1"),
}  # fmt: skip


def sent_as(data: bytes, way: str) -> dict[str, Any]:
    text = base64.b64encode(data).decode()
    return {
        "raw": {"body": data},
        "noise": {"body": {"noise": text}},
        "mix": {"body": a_mix(noise=text)},
    }[way]


@pytest.mark.parametrize("way", ["raw", "noise", "mix"])
@pytest.mark.parametrize("dtype", OTHER_TYPES)
def test_noise_of_another_type_is_told(dtype: str, way: str) -> None:
    """200 numbers, so that two of four, two and one byte are a row of float32."""
    data = OTHER_TYPES[dtype][:400].tobytes()
    error = refused(sent_as(data, way), 100)
    assert error.kind is Kind.INVALID_FIELD
    assert error.field.startswith("mix[1].noise" if way == "mix" else "noise")
    assert "<f4" in error.detail
    assert "float32" in error.allowed


@pytest.mark.parametrize("way", ["raw", "noise", "mix"])
@pytest.mark.parametrize(
    "numbers",
    [NORMAL, NORMAL.astype("f2"), np.round(NORMAL, 1), NORMAL * 8, np.full(6400, 0.3),
     np.zeros(6400), np.arange(6400) / 64, np.linspace(-3, 3, 6400), NORMAL.astype("i4"),
     np.clip(NORMAL, -1, 1), np.eye(64, 100), np.round(NORMAL), NORMAL * 1e-25],
    ids=itertools.count(),
)  # fmt: skip
def test_float32_of_any_origin_is_taken(numbers: Any, way: str) -> None:
    data = numbers.astype("<f4").tobytes()
    ((rows,),) = draw([call(sent_as(data, way), 100)], 100)
    if way != "mix":
        assert rows.tobytes() == data


@pytest.mark.parametrize("row", [[0, 1.5] * 50, [1e-35] + [0] * 99, [-1.1754944e-38] * 100])
def test_numbers_whose_bytes_would_be_refused_are_numbers_in_the_recipe(row: list[float]) -> None:
    item = request_of(row)
    rows = np.array([row], np.float32)
    for recipe in (item.recipe, item.recipe_alone(0, rows)):
        assert drawn(request_of(json.loads(recipe)["noise"])).tobytes() == rows.tobytes()


def request_of(noise: object) -> Request:
    (item,) = call({"body": {"noise": noise}}, 100).items
    return item


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
