"""What a request may say, in every way TorchServe can hand it over."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from handler import latents, requests
from handler.errors import Kind, RequestError
from handler.requests import GenerateRequest, draw_together
from handler.settings import Limits

NZ = 4
TOP = latents.MAX_SEED


def parse(raw: dict[str, Any], **limits: int) -> GenerateRequest:
    (item,) = requests.parse(raw, NZ, Limits(**limits)).items
    return item


def refused(raw: dict[str, Any], **limits: int) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(raw, **limits)
    return caught.value


def body(**fields: Any) -> dict[str, Any]:
    return {"body": fields}


EMPTY = [{}, {"body": {}}, {"body": None}, {"body": b""}, {"body": bytearray(b" \n")}]


def test_an_empty_json_string_is_not_nothing() -> None:
    assert refused({"body": b'""'}).kind is Kind.INVALID_BODY


@pytest.mark.parametrize("raw", EMPTY, ids=itertools.count())
def test_nothing_is_one_random_image(raw: dict[str, Any]) -> None:
    first, second = parse(raw), parse(raw)
    assert draw_together([first], NZ)[0].shape == (1, NZ)
    assert first.seeds is not None
    assert first.seeds != second.seeds  # equal once in 2^53 runs
    assert (first.source, first.columns, first.padding) == ("seed", 1, 0)
    assert first.background == (255, 255, 255)


SAME = [
    {"body": {"seed": 42, "num_images": 3}},
    {"body": {"seed": "42", "num_images": 3, "noise": None}},
    {"body": bytearray(b'{"seed": 42, "num_images": 3}')},
    {"body": b'{"seed": "42", "num_images": 3}'},
    {"body": b'\xef\xbb\xbf{"seed": 42}', "num_images": b"3"},
    {'{"seed": 42, "num_images": 3}': bytearray()},
    {"seed": bytearray(b"42"), "num_images": bytearray(b"3")},
    {"seed": "42", "num_images": 3},
    {"seeds": bytearray(b"[42, 43, 44]")},
    {"body": {"seeds": [42, "43", 44]}},
]


@pytest.mark.parametrize("raw", SAME, ids=itertools.count())
def test_every_way_in_means_the_same(raw: dict[str, Any]) -> None:
    request = parse(raw)
    assert request.seeds == (42, 43, 44)
    assert np.array_equal(draw_together([request], NZ)[0], latents.from_seeds([42, 43, 44], NZ))
    assert (request.columns, request.padding) == (2, 2)


def test_layout_fields() -> None:
    request = parse(body(seed=1, num_images=5, columns=5, padding=0, background="#0180fF"))
    assert (request.columns, request.padding, request.background) == (5, 0, (1, 128, 255))


def test_columns_never_exceed_the_images() -> None:
    assert parse(body(num_images=2, columns=9)).columns == 2


def test_a_form_takes_a_colour_as_it_is() -> None:
    assert parse({"background": bytearray(b"#102030")}).background == (16, 32, 48)


def test_noise_is_taken_row_by_row_as_float32() -> None:
    rows = [[0.1, -2, 3.5, 4], [5, 6, 7, 8]]
    request = parse(body(noise=rows))
    assert draw_together([request], NZ)[0].dtype == np.float32
    assert np.array_equal(draw_together([request], NZ)[0], np.array(rows, np.float32))
    assert (request.source, request.seeds) == ("noise", None)


def test_a_flat_list_is_one_row() -> None:
    assert np.array_equal(draw_together([parse(body(noise=[1, 2, 3, 4]))], NZ)[0], [[1, 2, 3, 4]])


def test_a_random_base_seed_leaves_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.randbelow", lambda below: below - 1)
    request = parse(body(num_images=3))
    assert request.seeds == (TOP - 2, TOP - 1, TOP)


def test_the_largest_seed() -> None:
    assert parse(body(seed=TOP)).seeds == (TOP,)
    error = refused(body(seed=TOP, num_images=2))
    assert (error.field, error.seen) == ("seed", str(TOP))


WRONG = [
    ("seed", True, "true"),
    ("seed", 1.0, "1.0"),
    ("seed", -1, "-1"),
    ("seed", TOP + 1, str(TOP + 1)),
    ("seed", 10**4000, "an integer of 13288 bits"),
    ("seed", "-1", "'-1'"),
    ("seed", "1e3", "'1e3'"),
    ("seed", "", "''"),
    ("seed", "\u0663", "'\\u0663'"),
    ("seed", float("nan"), "nan"),
    ("seed", [1], "a list of 1"),
    ("seeds", [], "a list of 0"),
    ("seeds", 5, "5"),
    ("num_images", 0, "0"),
    ("num_images", True, "true"),
    ("num_images", 2.0, "2.0"),
    ("num_images", "2", "'2'"),
    ("noise", [], "a list of 0"),
    ("noise", 5, "5"),
    ("format", "gif", "'gif'"),
    ("format", "PNG", "'PNG'"),
    ("format", True, "true"),
    ("columns", 0, "0"),
    ("columns", 257, "257"),
    ("columns", True, "true"),
    ("padding", -1, "-1"),
    ("padding", 65, "65"),
    ("padding", 1.5, "1.5"),
    ("background", "white", "'white'"),
    ("background", "#fffffff", "'#fffffff'"),
    ("background", "#ffffff\n", "'#ffffff\\n'"),
    ("background", 0, "0"),
]


@pytest.mark.parametrize(("field", "value", "seen"), WRONG, ids=itertools.count())
def test_a_wrong_value_is_a_400_that_names_it(field: str, value: object, seen: str) -> None:
    error = refused({"body": {field: value}})
    assert (error.kind, error.field, error.seen) == (Kind.INVALID_FIELD, field, seen)
    assert error.allowed in error.detail


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"seeds": [1, True]}, "seeds[1]"),
        ({"seeds": [1, 2, -3]}, "seeds[2]"),
        ({"noise": [1, 2, 3]}, "noise[0]"),
        ({"noise": [[1, 2, 3, 4], [1, 2, 3]]}, "noise[1]"),
        ({"noise": [[1, 2, 3, 4], 5]}, "noise[1]"),
        ({"noise": [[1, 2, True, 4]]}, "noise[0][2]"),
        ({"noise": [[1, 2, "3", 4]]}, "noise[0][2]"),
        ({"noise": [[1, 2, None, 4]]}, "noise[0][2]"),
        ({"noise": [[1, 2, 3, float("nan")]]}, "noise[0][3]"),
        ({"noise": [[1, 2, float("-inf"), 4]]}, "noise[0][2]"),
        ({"noise": [[1e39, 2, 3, 4]]}, "noise[0][0]"),
        ({"noise": [[1, 10**400, 3, 4]]}, "noise[0][1]"),
        ({"noise": [1, 2, 3, 1e39]}, "noise[0][3]"),
    ],
)
def test_a_wrong_item_is_named_by_its_place(fields: dict[str, Any], at: str) -> None:
    error = refused({"body": fields})
    assert (error.kind, error.field) == (Kind.INVALID_FIELD, at)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_images": 4},
        {"num_images": 10**400},
        {"seeds": [1, 2, 3, 4]},
        {"noise": [[0] * NZ] * 4},
    ],
    ids=["num_images", "huge", "seeds", "noise"],
)
def test_more_images_than_the_limit_is_a_413(fields: dict[str, Any]) -> None:
    error = refused({"body": fields}, max_images=3)
    assert (error.kind, error.field) == (Kind.TOO_LARGE, next(iter(fields)))


def test_the_limit_itself_is_fine() -> None:
    assert len(draw_together([parse(body(num_images=3), max_images=3)], NZ)[0]) == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 1, "seeds": [2]},
        {"seed": 1, "noise": [[0] * NZ]},
        {"seeds": [], "noise": []},
        {"seeds": [1], "num_images": 1},
        {"noise": [[0] * NZ], "num_images": 1},
    ],
)
def test_fields_that_do_not_go_together(fields: dict[str, Any]) -> None:
    error = refused({"body": fields})
    assert error.kind is Kind.CONFLICT
    assert all(name in error.detail for name in fields)


def test_an_unknown_field_names_the_nearest() -> None:
    error = refused(body(sede=1))
    assert (error.kind, error.field) == (Kind.UNKNOWN_FIELD, "sede")
    assert "did you mean seed" in error.detail


def test_an_unknown_field_is_shown_in_ascii_and_cut() -> None:
    error = refused({"body": {"\u00e9\r\n" * 1000: 1}})
    assert error.field.isascii()
    assert error.field.isprintable()
    assert len(error.field) <= 80


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "line 1 column 2"),
        (b'{"seed": 1,}', "line 1"),
        (b'{"\xff": 1}', "UTF-8"),
        (b"[" * 200_000, "deep"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "digits"),
    ],
    ids=["cut", "comma", "bytes", "deep", "digits"],
)
def test_a_body_that_is_not_json(text: bytes, reason: str) -> None:
    error = refused({"body": bytearray(text)})
    assert error.kind is Kind.INVALID_JSON
    assert reason in error.detail
    assert "Content-Type: application/json" in error.detail


@pytest.mark.parametrize("value", [[], [1], 5, 1.5, True, b"[]", b"3", "", '{"seed": 1}'])
def test_a_body_that_is_not_an_object(value: object) -> None:
    assert refused({"body": value}).kind is Kind.INVALID_BODY


@pytest.mark.parametrize(
    "raw",
    [
        {'{"seed": "a': bytearray(b'"}')},  # cut at "="
        {'{"seed": 1, "x": "': bytearray(), '"}': bytearray()},  # cut at "&"
    ],
)
def test_json_sent_as_a_form_and_cut_asks_for_the_header(raw: dict[str, Any]) -> None:
    error = refused(raw)
    assert error.kind is Kind.INVALID_BODY
    assert "Content-Type: application/json" in error.detail


@pytest.mark.parametrize(
    "value", [b"\xff", b"[" * 200_000, b"9" * 5000], ids=["bytes", "deep", "digits"]
)
def test_a_form_value_that_is_no_text(value: bytes) -> None:
    error = refused({"seed": bytearray(value)})
    assert (error.kind, error.field) == (Kind.INVALID_FIELD, "seed")


@pytest.mark.parametrize("raw", [{"body": b" " * 101}, {"seeds": bytearray(101)}])
def test_a_body_that_is_too_large(raw: dict[str, Any]) -> None:
    error = refused(raw, max_body_bytes=100)
    assert (error.kind, error.seen) == (Kind.TOO_LARGE, "101 bytes")
