"""JSON, raw noise and forms, told apart by the bytes alone."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from handler import bodies
from handler.errors import Kind, RequestError
from handler.limits import Limits

pytestmark = pytest.mark.unit

NZ = 4
ROW_BYTES = 4 * NZ


def fields(raw: dict[str, Any], **limits: int) -> dict[str, Any]:
    return dict(bodies.fields(raw, NZ, Limits(**limits)))


def refused(raw: dict[str, Any], **limits: int) -> RequestError:
    with pytest.raises(RequestError) as caught:
        fields(raw, **limits)
    return caught.value


def noise_of(body: bytes) -> bytes:
    (text,) = fields({"body": bytearray(body)}).values()
    return base64.b64decode(text)


def row_beginning_with(first: bytes) -> bytes:
    """One row of float32 whose first bytes are these; the other numbers are usual ones."""
    usual = np.array([0.5, -1.25, 0, 2], "<f4").tobytes()
    return first + usual[len(first) :]


@pytest.mark.parametrize("rows", [1, 3])
def test_whole_rows_of_bytes_are_noise(rows: int) -> None:
    body = np.arange(rows * NZ, dtype="<f4").tobytes()
    assert noise_of(body) == body


@pytest.mark.parametrize("first", [b"{", b"[", b" {", b"{}", b"[1]", b'{"a"', b"\xef\xbb\xbf{"])
def test_noise_may_begin_as_json_does(first: bytes) -> None:
    body = row_beginning_with(first)
    assert noise_of(body) == body


def test_noise_of_blanks_is_noise() -> None:
    assert noise_of(b" " * ROW_BYTES) == b" " * ROW_BYTES


@pytest.mark.parametrize("start", [b"", b" \r\n\t", b"\xef\xbb\xbf"])
def test_json_needs_no_content_type(start: bytes) -> None:
    assert fields({"body": bytearray(start + b'{"seed": 1}')}) == {"seed": 1}


def test_json_as_long_as_a_row_is_json() -> None:
    body = b'{"seed": 123456}'
    assert len(body) == ROW_BYTES
    assert fields({"body": body}) == {"seed": 123456}


def test_a_slip_in_json_as_long_as_a_row_is_no_noise() -> None:
    body = b'{"seed": 12345,}'
    assert len(body) == ROW_BYTES
    assert refused({"body": body}).kind is Kind.INVALID_JSON


@pytest.mark.parametrize("size", [1, ROW_BYTES - 1, ROW_BYTES + 4])
def test_other_bytes_name_both_ways_out(size: int) -> None:
    error = refused({"body": bytearray(b"\x80" * size)})
    assert error.kind is Kind.INVALID_BODY
    assert "application/json" in error.detail
    assert "application/octet-stream" in error.detail
    assert f"{ROW_BYTES} bytes" in error.allowed
    assert error.seen.startswith(f"{size} bytes")
    assert len(error.seen) <= 100


def test_text_is_never_noise() -> None:
    assert refused({"body": "x" * ROW_BYTES}).kind is Kind.INVALID_JSON


@pytest.mark.parametrize("key", ["body", "data"])
def test_grpc_sends_a_body_under_either_name(key: str) -> None:
    assert fields({key: b'{"seed": 1}'}) == {"seed": 1}
    assert list(fields({key: row_beginning_with(b"")})) == ["noise"]


def test_data_beside_a_field_is_a_field() -> None:
    assert set(fields({"data": b"{}", "columns": b"2"})) == {"data", "columns"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"5", 5),
        (b'"5"', "5"),
        (b"null", None),
        (b"#102030", "#102030"),
        (b"npy", "npy"),
        (b"[[1, 2]]", [[1, 2]]),
        (b'{"between": [1, 2], "steps": 3}', {"between": [1, 2], "steps": 3}),
        (b"AACAPw==", "AACAPw=="),
    ],
)
def test_a_form_value_is_json_or_text(text: bytes, value: object) -> None:
    assert fields({"x": bytearray(text)}) == {"x": value}


@pytest.mark.parametrize(
    "raw",
    [
        {"body": b'{"seed": 1, "seed": 2}'},
        {"body": '{"walk": {"steps": 2, "steps": 2}}'},
        {"walk": b'{"steps": 2, "steps": 3}'},
        {'{"seed": 1, "seed": 2}': b""},
    ],
    ids=["bytes", "nested", "form", "curl"],
)
def test_a_name_given_twice_is_refused(raw: dict[str, Any]) -> None:
    error = refused(raw)
    assert (error.kind, error.field) == (Kind.INVALID_JSON, error.seen[1:-1])
    assert error.field in ("seed", "steps")


def test_the_size_of_a_form_is_that_of_its_values() -> None:
    raw = {"a": b"1" * 40, "b": bytearray(b"1" * 40), "c": "1" * 21}
    assert refused(raw, max_body_bytes=100).kind is Kind.TOO_LARGE
    assert set(fields(raw, max_body_bytes=101)) == {"a", "b", "c"}


def test_decoded_json_is_taken_as_it_is() -> None:
    body = {"noise": [[0.5] * NZ], "format": None}
    assert fields({"body": body}) == body
    assert fields({"body": json.dumps(body)}) == body
