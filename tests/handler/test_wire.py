"""Bodies: JSON, raw noise and forms, told apart by what was declared, else by the bytes alone.
Accept headers: RFC 9110, section 12.5.1.
"""

import gzip
import itertools
import json
from typing import Any

import numpy as np
import pytest

from handler import wire
from handler.errors import Kind, RequestError
from handler.settings import Limits
from handler.wire import Headers, choose

NZ = 4
ROW_BYTES = 4 * NZ
OCTETS = "application/octet-stream"
JSON_TYPES = ["application/json", "APPLICATION/JSON; charset=utf-8", "text/json", "text/plain",
              "application/vnd.x+json", "image/png", "a/b"]  # fmt: skip


def fields(raw: dict[str, Any], headers: dict[str, Any] | None = None, **limits: int) -> Any:
    return dict(wire.fields(raw, NZ, Limits(**limits), Headers(headers or {})))


def refused(
    raw: dict[str, Any], headers: dict[str, Any] | None = None, **limits: int
) -> RequestError:
    with pytest.raises(RequestError) as caught:
        fields(raw, headers, **limits)
    return caught.value


def noise_of(body: bytes) -> object:
    found = fields({"body": bytearray(body)})
    assert found == fields({"body": body}, {"content-TYPE": OCTETS})
    assert list(found) == ["noise"]
    return found["noise"]


def declared(media: str) -> list[dict[str, Any]]:
    """A content type as a client's header, and as TorchServe tells that of the field."""
    return [{"Content-Type": media}, {"content-type": "x", "body": {"content-type": media}}]


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


TEXTS = [
    (b'{"seed": 1,}    ', "line 1 column"),
    (b'{"s\xc3\xabed": 1,}   ', "line 1 column"),
    ("\u65e5\u672c\u8a9e\r\n\t\n\n\n\n".encode(), "Expecting value"),
]
OTHER_BYTES = [
    ('{"seed": 1}     '.encode("utf-16-le"), "line 1 column"),
    ('{"s\xebed": 1}     '.encode("latin-1"), "not UTF-8 at byte 3"),
    (gzip.compress(b'{"seed": 1}' * 9, mtime=0)[:32], "not UTF-8 at byte 1"),
    (np.full(NZ, 0.5, "<f4").tobytes(), "Expecting value"),
]


@pytest.mark.parametrize(
    ("media", "body", "reason"),
    [
        *((media, *text) for text in TEXTS for media in ("", OCTETS, *JSON_TYPES)),
        *((media, *other) for other in OTHER_BYTES for media in JSON_TYPES),
    ],
    ids=itertools.count(),
)
def test_what_is_declared_json_or_is_text_is_never_noise(
    media: str, body: bytes, reason: str
) -> None:
    assert len(body) % ROW_BYTES == 0
    for headers in declared(media):
        error = refused({"body": body}, headers)
        assert error.kind is Kind.INVALID_JSON
        assert reason in error.detail


@pytest.mark.parametrize("media", ["", OCTETS, *JSON_TYPES])
@pytest.mark.parametrize(
    "mark", [b"", b"\xef\xbb\xbf", b" \r\n\t"], ids=["plain", "mark", "blanks"]
)
def test_utf_8_is_the_same_under_every_type(media: str, mark: bytes) -> None:
    for headers in declared(media):
        assert fields({"body": mark + b'{"background": "\xc3\xab"}'}, headers) == {
            "background": "\u00eb"
        }
        twice = refused({"body": mark + b'{"seed": 1, "seed": 2}'}, headers)
        assert (twice.kind, twice.field) == (Kind.INVALID_JSON, "seed")


@pytest.mark.parametrize("media", ["", OCTETS, "application/json", "text/plain"])
@pytest.mark.parametrize(
    ("body", "words"),
    [(b"17", "17"), (b'"cat"', "cat"), (b"[1, 2]", "list"), (b'"{\\"seed\\": 1}"', "seed"),
     (b"true", "true"), (b"NaN", "nan"), (b"1e999", "inf")],
)  # fmt: skip
def test_json_that_is_no_object_is_called_so(media: str, body: bytes, words: str) -> None:
    """Nor is JSON in a JSON string read a second time."""
    error = refused({"body": body}, {"Content-Type": media})
    assert error.kind is Kind.INVALID_BODY
    assert "is no JSON object" in error.detail
    assert words in error.detail + error.seen


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP, identity", "aws-chunked"])
def test_a_packed_body_is_a_415(coding: str) -> None:
    for raw in ({"body": gzip.compress(b"{}")}, {}, {"seed": b"1"}):
        error = refused(raw, {"content-encoding": coding, "Content-Length": "9"})
        assert (error.kind, error.kind.status) == (Kind.PACKED, 415)
        assert (error.field, error.seen) == ("Content-Encoding", f"'{coding}'")
    assert fields({"body": b'{"seed": 1}'}, {"Content-Encoding": " Identity"}) == {"seed": 1}


@pytest.mark.parametrize("size", [1, ROW_BYTES - 1, ROW_BYTES + 4])
def test_other_bytes_name_both_ways_out(size: int) -> None:
    error = refused({"body": bytearray(b"\x80" * size)})
    assert error.kind is Kind.INVALID_BODY
    assert "application/json" in error.detail
    assert "application/octet-stream" in error.detail
    assert f"{ROW_BYTES} bytes" in error.allowed
    assert error.seen.startswith(f"{size} bytes")
    assert len(error.seen) <= 100


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"model_name": b"dcgan", "body": b'{"seed": 1}'}, {"seed": 1}),
        ({"model_name": b"dcgan", "body": b""}, {}),
        ({"model_name": b"dcgan", "seed": b"1"}, {"seed": 1}),
        ({"seed": b"1", "body": b""}, {"seed": 1}),
        ({"columns": b"2", "body": b'{"seed": 1, "columns": null}'}, {"seed": 1, "columns": 2}),
        ({"columns": b"2", "body": bytes(ROW_BYTES)}, {"columns": 2, "noise": bytes(ROW_BYTES)}),
    ],
)
def test_a_query_beside_the_body(raw: dict[str, Any], expected: dict[str, Any]) -> None:
    assert fields(raw) == expected


def test_a_query_and_a_body_that_both_have_a_field() -> None:
    error = refused({"seed": b"1", "body": b'{"seed": 2}'})
    assert (error.kind, error.field) == (Kind.CONFLICT, "seed")


@pytest.mark.parametrize("raw", [{}, {"model_name": b"dcgan"}])
def test_a_form_that_torchserve_dropped_is_no_random_picture(raw: dict[str, Any]) -> None:
    error = refused(raw, {"content-length": "9"})
    assert error.kind is Kind.INVALID_BODY
    assert "Content-Type: application/json" in error.detail
    assert fields(raw, {"Content-Length": "0"}) == {}


@pytest.mark.parametrize("key", ["body", "data"])
def test_grpc_sends_a_body_under_either_name(key: str) -> None:
    assert fields({key: b'{"seed": 1}'}) == {"seed": 1}
    assert list(fields({key: row_beginning_with(b"")})) == ["noise"]


@pytest.mark.parametrize("own", ["", OCTETS])
def test_a_form_says_of_each_field_what_it_is(own: str) -> None:
    body = row_beginning_with(b"")
    headers = {"Content-Type": "multipart/form-data; boundary=x", "data": {"content-type": own}}
    assert fields({"data": body}, headers) == {"noise": body}


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
        {"body": b'{"walk": {"steps": 2, "steps": 2}}'},
        {"walk": b'{"steps": 2, "steps": 3}'},
    ],
    ids=["bytes", "nested", "form"],
)
def test_a_name_given_twice_is_refused(raw: dict[str, Any]) -> None:
    error = refused(raw)
    assert (error.kind, error.field) == (Kind.INVALID_JSON, error.seen[1:-1])
    assert error.field in ("seed", "steps")


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
    error = refused({"body": bytearray(text)}, {"Content-Type": "application/json"})
    assert error.kind is Kind.INVALID_JSON
    assert reason in error.detail
    assert "Content-Type: application/json" in error.detail


@pytest.mark.parametrize(
    "raw",
    [
        {'{"seed": 1}': bytearray()},
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


def test_the_size_of_a_form_is_that_of_its_values() -> None:
    raw = {"a": b"1" * 40, "b": bytearray(b"1" * 40), "c": b"1" * 21}
    assert refused(raw, max_body_bytes=100).kind is Kind.TOO_LARGE
    assert set(fields(raw, max_body_bytes=101)) == {"a", "b", "c"}
    for body in ({"body": b" " * 101}, {"seeds": bytearray(101)}):
        error = refused(body, max_body_bytes=100)
        assert (error.kind, error.seen) == (Kind.TOO_LARGE, "101 bytes")


def test_decoded_json_is_taken_as_it_is() -> None:
    body = {"noise": [[0.5] * NZ], "format": None}
    assert fields({"body": body}) == body
    assert fields({"body": json.dumps(body).encode()}) == body


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "png"), ("  ", "png"), ("*/*", "png"), ("image/*", "png"), ("application/*", "json"),
        ("application/json", "json"), ("Application/JSON", "json"),
        ("application/json; charset=utf-8", "json"), ("application/x-npy", "npy"),
        ("image/png;q=0.5, application/json;q=0.9", "json"),
        ("image/png;q=0.5,application/json;q=0.5", "png"), ("*/*, image/png;q=0", "json"),
        ("*/*;q=0.1, application/x-npy;q=0.2", "npy"),
        ("application/*;q=0.9, application/json;q=0.1, image/png;q=0.5", "npy"),
        ("text/html, application/xhtml+xml, image/avif, image/webp, */*;q=0.8", "png"),
        ("image/png;q=x, application/json;q=0.001", "json"),
        ("image/png;q=1.5, application/json", "json"), ("nonsense, application/json", "json"),
        ("image/png ; Q=0.3 , application/json;q=0.2", "png"),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "png"), ("*", "png"),
        ("*/*;q=.2", "png"), (",,,", "png"), (" , application/json,", "json"),
        ("application/json;q=0.1234", "json"),
        ("application/json;q=0.12345, image/png;q=0.12344", "json"),
        ("image/png;q=0.1;ext=1, application/json;q=0.2", "json"),
        ("image/png;v=b3;q=0.1, application/json;q=0.2", "json"), ("*/*;q=x", "png"),
        ("text/html, */*;q=", "png"), ("application/json;q=-1", "json"), ("image/webp", "webp"),
        ("image/apng", "apng"), ("image/gif", "gif"), ("image/webp, image/png;q=0.9", "webp"),
        ("image/gif;q=0.5, image/png", "png"), ("image/gif, image/webp;q=0.5, text/*", "gif"),
        ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", "png"),
        ("text/html,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8", "png"),
        ("image/webp, image/*;q=0.1", "png"),
    ],
)  # fmt: skip
def test_the_best_acceptable_form(accept: str, expected: str) -> None:
    """That with image/jpeg is what Java's URLConnection has sent for 20 years."""
    assert choose(accept) == expected


@pytest.mark.parametrize(
    "accept",
    [
        "image/avif", "*/*;q=0", "*;q=0.000", "*/*;q=.0", "image/png;q=0", "nonsense", "\u00e9\r\n",
        "a" * 8000,
    ],
)  # fmt: skip
def test_nothing_acceptable(accept: str) -> None:
    with pytest.raises(RequestError) as caught:
        choose(accept)
    assert caught.value.kind is Kind.NOT_ACCEPTABLE
    assert caught.value.field == "Accept"
    assert caught.value.seen.isascii()
    assert len(caught.value.seen) <= 80


def test_a_header_that_comes_twice_says_both() -> None:
    headers = Headers({"Accept": "image/png;q=0.1", "aCCept": "application/json"})
    assert headers.get("accept") == "image/png;q=0.1,application/json"


def test_a_form_field_is_no_header() -> None:
    assert Headers({"Accept": {"content-type": "text/plain"}}).get("accept") == ""


def test_only_what_is_offered() -> None:
    assert choose("", offered=("json",)) == "json"
    with pytest.raises(RequestError):
        choose("image/png", offered=("json",))
