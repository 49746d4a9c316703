"""Walks, mixes and noise in base64, from the request to the latents."""

from __future__ import annotations

import base64
import itertools
import time
from typing import Any

import numpy as np
import pytest

from handler import latents as arithmetic
from handler import requests
from handler.errors import Kind, RequestError
from handler.latents import MAX_SEED, from_seeds
from handler.requests import GenerateRequest, draw_together
from handler.settings import Limits

NZ = 4
ROW = [1.0, -2.0, 0.5, 3.0]
NAN, INF = float("nan"), float("inf")


def parse(fields: dict[str, Any], **limits: int) -> GenerateRequest:
    (item,) = requests.parse({"body": fields}, NZ, Limits(**limits)).items
    return item


def refused(fields: dict[str, Any], **limits: int) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(fields, **limits)
    return caught.value


def base64_of(rows: Any) -> str:
    return base64.b64encode(np.asarray(rows, "<f4").tobytes()).decode()


def a_walk(*between: Any, steps: Any = 3, **more: Any) -> dict[str, Any]:
    return {"walk": {"between": list(between), "steps": steps, **more}}


def a_mix(**term: Any) -> dict[str, Any]:
    return {"mix": [{"weight": 1, "seeds": [1]}, {"weight": 1, **term}]}


def test_a_walk_goes_through_seeds_and_latents() -> None:
    request = parse(a_walk(1, "2", ROW, steps=6))
    keys = np.concatenate([from_seeds([1, 2], NZ), np.array([ROW], np.float32)])
    assert np.array_equal(draw_together([request], NZ)[0], arithmetic.walk(keys, 6, "slerp"))
    assert (request.source, request.seeds, request.columns) == ("walk", None, 3)
    assert request.again == {
        "walk": {"between": [1, 2, ROW], "steps": 6, "method": "slerp"},
        "columns": 3,
        "padding": 2,
        "background": "#ffffff",
    }


def test_a_walk_may_be_straight() -> None:
    request = parse(a_walk([0] * NZ, [4] * NZ, steps=5, method="linear"))
    assert draw_together([request], NZ)[0].tolist() == [[i] * NZ for i in range(5)]


def test_a_mix_is_the_weighted_sum_of_means() -> None:
    rows = [ROW, [0.1, 0.2, 0.3, 0.4]]
    terms = [
        {"weight": 1, "seeds": [1, "2"]},
        {"weight": -0.5, "noise": rows},
        {"weight": 2.5, "noise": base64_of(ROW), "seeds": None},
    ]
    request = parse({"mix": terms})
    one, two, three = from_seeds([1, 2], NZ), np.array(rows, np.float32), np.float32([ROW])
    assert np.array_equal(
        draw_together([request], NZ)[0], arithmetic.mix([(1, one), (-0.5, two), (2.5, three)])
    )
    assert (request.source, request.seeds, request.padding) == ("mix", None, 0)
    assert request.again["mix"] == [
        {"weight": 1, "seeds": [1, 2]},
        {"weight": -0.5, "noise": rows},
        {"weight": 2.5, "noise": base64_of(ROW)},
    ]


def test_noise_in_base64_is_little_endian_float32() -> None:
    rows = from_seeds([7, 8], NZ)
    rows[0, 0] = -0.0
    request = parse({"noise": base64_of(rows)})
    assert draw_together([request], NZ)[0].tobytes() == rows.tobytes()
    assert draw_together([request], NZ)[0].dtype == np.float32
    assert request.source == "noise"
    assert request.again["noise"] == base64_of(rows)


@pytest.mark.parametrize("size", [1, 15, 17, 20])
def test_base64_holds_whole_rows(size: int) -> None:
    error = refused({"noise": base64.b64encode(bytes(size)).decode()})
    assert (error.kind, error.field, error.seen) == (Kind.INVALID_FIELD, "noise", f"{size} bytes")
    assert "16 bytes" in error.allowed


@pytest.mark.parametrize(
    "text",
    ["", "=", "AAAA=", "A" * 22, "A" * 21 + "=", "A" * 22 + "==\n", "A" * 20 + "-_==", "\u00e9",
     "\ud800", " " + "A" * 22 + "=="],
    ids=itertools.count(),
)  # fmt: skip
def test_base64_is_strict(text: str) -> None:
    error = refused({"noise": text})
    assert (error.kind, error.field) == (Kind.INVALID_FIELD, "noise")


@pytest.mark.parametrize(("value", "seen"), [(NAN, "nan"), (INF, "inf"), (-INF, "-inf")])
def test_numbers_in_base64_are_finite(value: float, seen: str) -> None:
    error = refused({"noise": base64_of([ROW, [0, 0, value, 0]])})
    assert (error.kind, error.field, error.seen) == (Kind.INVALID_FIELD, "noise[1][2]", seen)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("A" * 12 + "\n" + "A" * 10 + "==", "lines"), ("A" * 22 + "==\r\n", "lines"),
     ("A" * 20 + "-_==", "base64url"), ("A" * 10 + " " + "A" * 11 + "==", "%2B")],
    ids=itertools.count(),
)  # fmt: skip
def test_why_it_is_no_base64(text: str, hint: str) -> None:
    assert hint in refused({"noise": text}).detail


NORMAL = np.random.default_rng(0).standard_normal(6400)
OTHER_TYPES = {
    "float16": NORMAL.astype("<f2"), "bfloat16": (NORMAL.astype("<f4").view("<u4") >> 16)
    .astype("<u2"), "big-endian": NORMAL.astype(">f4"), "big-endian float16": NORMAL.astype(">f2"),
    "float64": NORMAL, "float32 as float64": NORMAL.astype("<f4").astype("<f8"),
    "uint8": (NORMAL * 40 + 128).astype("u1"), "int8": (NORMAL * 40).astype("i1"),
    "int32": NORMAL.astype("<i4"), "int64": NORMAL.astype("<i8"),
}  # fmt: skip


def sent_as(data: bytes, way: str) -> dict[str, Any]:
    text = base64.b64encode(data).decode()
    return {
        "raw": {"body": data},
        "noise": {"body": {"noise": text}},
        "mix": {"body": {"mix": [{"weight": 0, "seeds": [1]}, {"weight": 1, "noise": text}]}},
    }[way]


@pytest.mark.parametrize("way", ["raw", "noise", "mix"])
@pytest.mark.parametrize("dtype", OTHER_TYPES)
def test_noise_of_another_type_is_told(dtype: str, way: str) -> None:
    """200 numbers, so that two of four, two and one byte are a row of float32."""
    data = OTHER_TYPES[dtype][:400].tobytes()
    with pytest.raises(RequestError) as caught:
        requests.parse(sent_as(data, way), 100, Limits())
    error = caught.value
    assert error.kind is Kind.INVALID_FIELD
    assert error.field.startswith("mix[1].noise" if way == "mix" else "noise")
    assert "<f4" in error.detail
    assert "float32" in error.allowed


@pytest.mark.parametrize("way", ["raw", "noise", "mix"])
@pytest.mark.parametrize(
    "numbers",
    [NORMAL, NORMAL.astype("f2"), np.round(NORMAL, 1), NORMAL * 8, np.full(6400, 0.3),
     np.zeros(6400), np.arange(6400) / 64, np.linspace(-3, 3, 6400), NORMAL.astype("i4"),
     np.clip(NORMAL, -1, 1)],
    ids=itertools.count(),
)  # fmt: skip
def test_float32_of_any_origin_is_taken(numbers: Any, way: str) -> None:
    data = numbers.astype("<f4").tobytes()
    (item,) = requests.parse(sent_as(data, way), 100, Limits()).items
    (drawn,) = draw_together([item], 100)
    if way != "mix":
        assert drawn.tobytes() == data


@pytest.mark.parametrize("way", ["noise", "mix"])
def test_a_npy_file_is_no_noise(way: str) -> None:
    with pytest.raises(RequestError) as caught:
        requests.parse(sent_as(b"\x93NUMPY" + bytes(394), way), 100, Limits())
    assert "a .npy file" in caught.value.detail


WRONG = [
    ({"walk": 5}, "walk", "5"),
    ({"walk": []}, "walk", "a list of 0"),
    ({"walk": {"steps": 3}}, "walk.between", "an object of 1"),
    ({"walk": {"between": [1, 2]}}, "walk.steps", "an object of 1"),
    (a_walk(), "walk.between", "a list of 0"),
    (a_walk(1), "walk.between", "a list of 1"),
    (a_walk(*range(65), steps=65), "walk.between", "a list of 65"),
    ({"walk": {"between": "12", "steps": 3}}, "walk.between", "'12'"),
    (a_walk(1, 2, 3, True), "walk.between[3]", "true"),
    (a_walk(1, None), "walk.between[1]", "null"),
    (a_walk(1, 2.0), "walk.between[1]", "2.0"),
    (a_walk(1, -1), "walk.between[1]", "-1"),
    (a_walk(1, MAX_SEED + 1), "walk.between[1]", str(MAX_SEED + 1)),
    (a_walk(1, 10**5000), "walk.between[1]", "an integer of 16610 bits"),
    (a_walk(1, "\u0663"), "walk.between[1]", "'\\u0663'"),
    (a_walk(1, "2\r\n"), "walk.between[1]", "'2\\r\\n'"),
    (a_walk(1, "\ud800"), "walk.between[1]", "'\\ud800'"),
    (a_walk(1, {}), "walk.between[1]", "an object of 0"),
    (a_walk(1, []), "walk.between[1]", "a list of 0"),
    (a_walk(1, [1, 2, 3]), "walk.between[1]", "a list of 3"),
    (a_walk(1, [1, 2, 3, NAN]), "walk.between[1][3]", "nan"),
    (a_walk(1, [1, INF, 3, 4]), "walk.between[1][1]", "inf"),
    (a_walk(1, [1, 2, 1e39, 4]), "walk.between[1][2]", "1e+39"),
    (a_walk(1, [1, 2, 10**400, 4]), "walk.between[1][2]", "an integer of 1329 bits"),
    (a_walk(1, [1, 2, False, 4]), "walk.between[1][2]", "false"),
    (a_walk(1, [1, 2, "3", 4]), "walk.between[1][2]", "'3'"),
    (a_walk(1, [1, 2, [[[[]]]], 4]), "walk.between[1][2]", "a list of 1"),
    (a_walk(1, 2, steps=1), "walk.steps", "1"),
    (a_walk(1, 2, steps=True), "walk.steps", "true"),
    (a_walk(1, 2, steps=3.0), "walk.steps", "3.0"),
    (a_walk(1, 2, steps="3"), "walk.steps", "'3'"),
    (a_walk(1, 2, 3, 4), "walk.steps", "3"),
    (a_walk(1, 2, method="cubic"), "walk.method", "'cubic'"),
    (a_walk(1, 2, method=1), "walk.method", "1"),
    (a_walk([20, 0, 0, 0], [-10, 0.01, 0, 0]), "walk", "an object of 2"),
    (a_walk(1, [1, 100.1, 3, 4]), "walk.between[1][1]", "100.1"),
    ({"noise": [1, 2, -101, 4]}, "noise[0][2]", "-101"),
    (a_mix(noise=[ROW, [1, 2, 3, 666]]), "mix[1].noise[1][3]", "666"),
    ({"mix": {}}, "mix", "an object of 0"),
    ({"mix": []}, "mix", "a list of 0"),
    ({"mix": [{"weight": 1, "seeds": [1]}] * 65}, "mix", "a list of 65"),
    ({"mix": [1]}, "mix[0]", "1"),
    ({"mix": [[]]}, "mix[0]", "a list of 0"),
    ({"mix": [{"seeds": [1]}]}, "mix[0].weight", "an object of 1"),
    (a_mix(weight=None, seeds=[1]), "mix[1].weight", "an object of 1"),
    (a_mix(weight=NAN, seeds=[1]), "mix[1].weight", "nan"),
    (a_mix(weight=INF, seeds=[1]), "mix[1].weight", "inf"),
    (a_mix(weight=True, seeds=[1]), "mix[1].weight", "true"),
    (a_mix(weight="1", seeds=[1]), "mix[1].weight", "'1'"),
    (a_mix(weight=10**400, seeds=[1]), "mix[1].weight", "an integer of 1329 bits"),
    (a_mix(seeds=[]), "mix[1].seeds", "a list of 0"),
    (a_mix(seeds=1), "mix[1].seeds", "1"),
    (a_mix(seeds=[1, -1]), "mix[1].seeds[1]", "-1"),
    (a_mix(noise=[]), "mix[1].noise", "a list of 0"),
    (a_mix(noise="AAAA"), "mix[1].noise", "3 bytes"),
    (a_mix(noise=[ROW, [1, 2, 3, NAN]]), "mix[1].noise[1][3]", "nan"),
    (a_mix(weight=1e39, noise=[ROW]), "mix", "a list of 2"),
    (a_mix(weight=36, noise=[ROW]), "mix", "a list of 2"),
    ({"mix": [{"weight": 1e308, "noise": [90] * NZ}]}, "mix", "a list of 1"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "at", "seen"), WRONG, ids=itertools.count())
def test_a_wrong_place_is_named(fields: dict[str, Any], at: str, seen: str) -> None:
    error = refused(fields)
    assert (error.kind, error.field, error.seen) == (Kind.INVALID_FIELD, at, seen)
    assert error.detail.startswith(at)
    assert error.allowed


def test_the_steps_allowed_depend_on_the_latents() -> None:
    assert refused(a_walk(1, 2, 3, 4)).allowed == "an integer 4 to 256"


@pytest.mark.parametrize(
    ("term", "kind"),
    [
        ({}, Kind.INVALID_FIELD),
        ({"seeds": None}, Kind.INVALID_FIELD),
        ({"seeds": [1], "noise": [ROW]}, Kind.CONFLICT),
    ],
)
def test_a_term_has_one_source(term: dict[str, Any], kind: Kind) -> None:
    error = refused(a_mix(**term))
    assert (error.kind, error.field) == (kind, "mix[1]")
    assert "exactly one of seeds and noise" in error.allowed


@pytest.mark.parametrize(
    ("fields", "at", "hint"),
    [
        (a_walk(1, 2, stepz=4), "walk.stepz", "did you mean steps"),
        (a_walk(1, 2, stepz=None), "walk.stepz", "did you mean steps"),
        (a_mix(seed=4), "mix[1].seed", "did you mean seeds"),
        (a_walk(1, 2, **{"\r\n\u00e9": 1}), "walk.\\r\\n\\xe9", "remove it"),
        (a_walk(1, 2, **{"\ud800": 1}), "walk.\\ud800", "remove it"),
        (a_walk(1, 2, **{"<row>": 1}), "walk.<row>", "remove it"),
        ({"sede": None}, "sede", "did you mean seed"),
    ],
    ids=itertools.count(),
)
def test_an_unknown_name_inside_is_refused(fields: dict[str, Any], at: str, hint: str) -> None:
    error = refused(fields)
    assert (error.kind, error.field) == (Kind.UNKNOWN_FIELD, at)
    assert hint in error.detail


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        (a_walk(1, 2, steps=4), "walk.steps"),
        (a_walk(1, 2, steps=10**400), "walk.steps"),
        (a_mix(seeds=[1] * 4), "mix[1].seeds"),
        (a_mix(noise=[ROW] * 4), "mix[1].noise"),
        ({"noise": base64_of([ROW] * 4)}, "noise"),
    ],
    ids=itertools.count(),
)
def test_more_images_than_the_limit_is_a_413(fields: dict[str, Any], at: str) -> None:
    error = refused(fields, max_images=3)
    assert (error.kind, error.field) == (Kind.TOO_LARGE, at)


def test_a_mix_has_a_limit_of_its_own() -> None:
    terms = [{"weight": 1, "seeds": [1] * 256}] * 4
    assert len(draw_together([parse({"mix": terms})], NZ)[0]) == 1
    error = refused({"mix": [*terms, {"weight": 1, "seeds": [1]}]})
    assert (error.kind, error.field, error.seen) == (Kind.TOO_LARGE, "mix", "1025 latents")


@pytest.mark.parametrize(
    "fields",
    [
        {**a_walk(1, 2), "seed": 1},
        {**a_walk(1, 2), **a_mix(seeds=[1])},
        {**a_mix(seeds=[1]), "noise": [ROW]},
        {**a_walk(1, 2), "num_images": 3},
        {**a_mix(seeds=[1]), "num_images": 1},
    ],
    ids=itertools.count(),
)
def test_sources_go_alone(fields: dict[str, Any]) -> None:
    error = refused(fields)
    assert error.kind is Kind.CONFLICT
    assert all(name in error.detail for name in fields)


@pytest.mark.parametrize("value", [None, "png", "json", "npy"])
def test_the_format_is_passed_on_and_never_repeated(value: str | None) -> None:
    request = parse({"seed": 1, "format": value})
    assert request.format == value
    assert "format" not in request.again


def test_of_many_unknown_names_only_the_first_costs_time() -> None:
    fields = a_walk(1, 2, **{f"n{i}": 1 for i in range(300_000)})
    start = time.process_time()
    assert refused(fields).field == "walk.n0"
    assert time.process_time() - start < 0.5
