"""Noise in bytes and base64, and what only looks like float32."""

import base64
import itertools
import json
from typing import Any

import numpy as np
import pytest

from handler.errors import Kind
from handler.latents import from_seeds
from handler.request import Request, draw
from tests.support.calls import (
    NZ,
    a_mix,
    base64_of,
    call,
    drawn,
    refused,
    request,
)


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
