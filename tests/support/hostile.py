"""Bodies that are sent to break something, and what each must get: the one list for all tests."""

from __future__ import annotations

import gzip
import json
import random as standard
from dataclasses import dataclass
from typing import Any

import numpy as np

JSON = "application/json"
MEGABYTES = 6_000_000  # a little below max_request_size
HEADER_LINES = "x\r\nX-Injected: 1"
LONG = b'{"seed": 1}'.ljust(400)


@dataclass(frozen=True)
class Hostile:
    """One request, and the problem that it must get: its status, kind and the field it names."""

    name: str
    body: bytes | str
    status: int
    kind: str
    at: str = ""
    headers: tuple[tuple[str, str], ...] = (("Content-Type", JSON),)


def typed(content_type: str) -> tuple[tuple[str, str], ...]:
    return (("Content-Type", content_type),)


def field(name: str, value: object, at: str = "", kind: str = "invalid-field") -> Hostile:
    """A JSON body with this field alone."""
    text = json.dumps({name: value})
    return Hostile(f"{name}={json.dumps(value)[:40]}", text, 400, kind, at or name)


def many(text: str) -> str:
    """So often, with commas, that it fills a body."""
    return ",".join([text] * (MEGABYTES // (len(text) + 1)))


def nested(depth: int, start: str = "[", middle: str = "", end: str = "]") -> str:
    return start * depth + middle + end * depth


FORM, BYTES = typed("application/x-www-form-urlencoded"), typed("application/octet-stream")
HOSTILE = [
    Hostile("invalid JSON", '{"seed": 1', 400, "invalid-json"),
    Hostile("half a UTF-8 character", b'{"seed": "\xc3"}', 400, "invalid-json"),
    Hostile("a number", "17", 400, "invalid-body"),
    Hostile("a list", "[1, 2]", 400, "invalid-body"),
    Hostile("a text", '"cat"', 400, "invalid-body"),
    Hostile("JSON in a JSON text", '"{}"', 400, "invalid-body"),
    Hostile("a field twice", '{"seed": 1, "seed": 2}', 400, "invalid-json", "seed"),
    Hostile("JSON as long as noise", LONG[:399] + b"\xff", 400, "invalid-json"),
    Hostile("UTF-16 as long as noise", LONG.decode().encode("utf-16-le"), 400, "invalid-json"),
    Hostile("noise of another type", b"\x9c" * 400, 400, "invalid-json", "", typed("image/png")),
    Hostile("a packed body", gzip.compress(b"{}"), 415, "unsupported-encoding",
            "Content-Encoding", (*typed(JSON), ("Content-Encoding", "gzip"))),
    Hostile("float64 as noise", np.random.default_rng(0).standard_normal(100).tobytes(), 400,
            "invalid-field", "", BYTES),
    *(Hostile(f"raw noise of {value}", np.full((200, 100), value, "<f4").tobytes(), 400,
              "invalid-field", "noise[0][0]", BYTES)
      for value in (np.nan, np.inf, -np.inf, 3e38, -100.1)),
    Hostile("JSON without a content type, as curl -d sends it", '{"seed": 1}', 400,
            "invalid-body", "", FORM),
    Hostile("JSON as a form", '{"seed": 1, "seed": 2}&a=b', 400, "invalid-body", "", FORM),
    Hostile("binary that is neither noise nor JSON", b"\0\1\2", 400, "invalid-body", "", BYTES),
    Hostile("deep nesting as a field", f'{{"noise": {nested(50_000)}}}', 400, "invalid-json"),
    Hostile("an integer of 5,000 digits", '{"seed": ' + "9" * 5000 + "}", 400, "invalid-json"),
    Hostile("an unknown media type", '{"seed": 1}', 406, "not-acceptable", "",
            (*typed(JSON), ("Accept", "image/avif"))),
    Hostile("every type excluded", '{"seed": 1}', 406, "not-acceptable", "",
            (*typed(JSON), ("Accept", "*/*;q=0"))),
    Hostile("NaN in noise", '{"noise": [' + "NaN," * 99 + "NaN]}", 400, "invalid-field",
            "noise[0][0]"),
    Hostile("1e999 in noise", '{"noise": [' + "0," * 99 + "1e999]}", 400, "invalid-field",
            "noise[0][99]"),
    Hostile("two sources", '{"seed": 1, "seeds": [1]}', 400, "conflicting-fields", "seeds"),
    Hostile("num_images with seeds", '{"seeds": [1], "num_images": 2}', 400,
            "conflicting-fields", "num_images"),
    Hostile("more images than allowed", '{"num_images": 257}', 413, "too-large", "num_images"),
    Hostile("a reply beyond the limit",
            '{"num_images": 256, "columns": 256, "padding": 64}', 413, "too-large"),
    Hostile("the widest picture",
            '{"num_images": 256, "columns": 1, "padding": 64, "format": "png"}', 413, "too-large"),
    # What else a field may not be is in tests/handler/test_request.py.
    field("seed", -1), field("seed", "\uff11\uff12"), field("seed", HEADER_LINES),
    field("seeds", [1, None], "seeds[1]"), field("seeds", {"a": 1}),
    field("noise", [[0.0] * 99], "noise[0]"), field("noise", "not base64 \u2603"),
    field("columns", 99999999999), field("padding", 99999999999),
    field("background", HEADER_LINES), field("background", "#\uff46\uff46ffff"),
    field("format", HEADER_LINES),
    field("walk", {"between": [1, "x"], "steps": 4}, "walk.between[1]"),
    field("mix", [{"weight": 1, "seeds": [-1]}], "mix[0].seeds[0]"),
    field("mix", [{"weight": 1e308, "seeds": [1]}, {"weight": 1e308, "seeds": [1]}], "mix"),
    field("sede", 1, kind="unknown-field"),
    field("\u00fcn\u00efcode\r\n\u2603", 1, r"\xfcn\xefcode\r\n\u2603", kind="unknown-field"),
    Hostile("an error inside an instance", '{"instances": [{"seed": 1}, {"seed": -1}]}', 400,
            "invalid-field", "instances[1].seed"),
    Hostile("no instances", '{"instances": []}', 400, "invalid-field", "instances"),
    Hostile("instances in instances", '{"instances": [{"instances": [{}]}]}', 400,
            "unknown-field"),
    Hostile("an exponent beyond all", '{"seed": 1e999999999}', 400, "invalid-field"),
    Hostile("10^15 steps", '{"walk": {"between": [1, 2], "steps": 1000000000000000}}', 413,
            "too-large"),
]  # fmt: skip

BOMBS = [  # megabytes
    Hostile("nested lists", nested(1_000_000), 400, "invalid-json"),
    Hostile("nested objects", nested(1_000_000, '{"a":', "1", "}"), 400, "invalid-json"),
    Hostile("nested lists without an end", "[" * MEGABYTES, 400, "invalid-json"),
    Hostile("a number of 6,000,000 digits", f'{{"seed": {"9" * MEGABYTES}}}', 400, "invalid-json"),
    Hostile("a fraction of 6,000,000 digits", f'{{"seed": 0.{"9" * MEGABYTES}}}', 400,
            "invalid-field"),
    Hostile("a text of 6 MB", json.dumps({"seed": "9" * MEGABYTES}), 400, "invalid-field"),
    Hostile("a key of 6 MB", json.dumps({"s" * MEGABYTES: 1}), 400, "unknown-field"),
    Hostile("400,000 keys", json.dumps({f"k{i}": 1 for i in range(400_000)}), 400,
            "unknown-field"),
    Hostile("350,000 keys alike", json.dumps({f"seed{i}": 1 for i in range(350_000)}), 400,
            "unknown-field"),
    Hostile("one key 500,000 times", "{" + many('"seed":1') + "}", 400, "invalid-json"),
    Hostile("1,500,000 seeds", f'{{"seeds": [{many("123")}]}}', 413, "too-large"),
    Hostile("1,000,000 objects for seeds", f'{{"seeds": [{many("{}")}]}}', 400, "invalid-field"),
    Hostile("NaN for noise", f'{{"noise": [{many("NaN")}]}}', 400, "invalid-field"),
    Hostile("lists for noise", f'{{"noise": [{many("[]")}]}}', 400, "invalid-field"),
    Hostile("base64 of 6 MB", json.dumps({"noise": "A" * MEGABYTES}), 413, "too-large"),
    Hostile("noise of 5,000 images",
            f'{{"noise": [{",".join([str([0.123456789] * 100)] * 4500)}]}}', 413, "too-large",
            "noise"),
    Hostile("500,000 latents to walk",
            f'{{"walk": {{"between": [{many("12345")}], "steps": 2}}}}', 400, "invalid-field"),
    Hostile("200,000 terms", f'{{"mix": [{many(json.dumps({"weight": 1, "seeds": [1]}))}]}}', 400,
            "invalid-field"),
    Hostile("a term of 1,000,000 seeds",
            f'{{"mix": [{{"weight": 1, "seeds": [{many("12345")}]}}]}}', 413, "too-large"),
    Hostile("600,000 instances", f'{{"instances": [{many("{}")}]}}', 413, "too-large"),
]  # fmt: skip

FIELDS = [
    "seed", "seeds", "num_images", "noise", "walk", "mix", "truncation", "edit", "columns",
    "padding", "background", "format", "instances", "between", "steps", "weight", "body", "data",
]  # fmt: skip
TYPES = [
    JSON, f"{JSON}; charset=utf-8", "application/octet-stream", "text/plain", "image/png",
    "application/x-www-form-urlencoded", "a/b", "", "multipart/form-data; boundary=b",
]  # fmt: skip
ODD = [chr(code) for code in (0, 10, 13, 34, 92, 127, 233, 0x2028, 0xD800, 0x1F600)]
INTEGERS = [0, 1, -1, 2, 3, 256, 257, 2**31, 2**53 - 1, 2**53, -(2**63), 2**64]
FLOATS = [0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), 1.0]
TEXTS = ["", "png", "json", "npy", "#ffffff", "slerp", "1", "null", "AAAA"]


def random_value(random: standard.Random, depth: int = 0) -> Any:
    """Any JSON value, more often one that means something here."""
    kind = random.randrange(12 if depth < 4 else 8)
    if kind < 3:
        return random.choice((INTEGERS, FLOATS, TEXTS)[kind])
    if kind == 3:
        return "".join(random.choices(ODD, k=random.randrange(9)))
    if kind == 4:
        return random.choice([None, True, False])
    if kind == 5:
        return random.randrange(10)
    if kind == 6:
        return [random.gauss(0, 1) for _ in range(random.choice([1, 99, 100, 101]))]
    if kind == 7:
        return [random.randrange(9) for _ in range(random.randrange(4))]
    if kind < 10:
        return [random_value(random, depth + 1) for _ in range(random.randrange(4))]
    names = random.choices(FIELDS, k=random.randrange(1, 4))
    return {name: random_value(random, depth + 1) for name in names}


def random_body(random: standard.Random) -> bytes:
    """JSON, JSON with bytes changed, a form, a multipart form, or nothing but bytes."""
    kind = random.randrange(10)
    if kind == 0:
        return random.randbytes(random.choice([0, 1, 7, 400, 401, 4000]))
    if kind == 1:
        parts = [f"{random.choice(FIELDS)}={json.dumps(random_value(random))}" for _ in range(3)]
        return random.choice("&;=").join(parts).encode(errors="replace")
    if kind == 2:
        part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
        parts = [
            part.format(random.choice(FIELDS), json.dumps(random_value(random))) for _ in range(2)
        ]
        return ("".join(parts) + "--b--\r\n").encode(errors="replace")
    fields = {random.choice(FIELDS): random_value(random)}
    whole = random.choice([random_value(random), fields, {"seed": random.randrange(99), **fields}])
    text = bytearray(json.dumps(whole).encode())
    if kind < 6 and text:
        for _ in range(random.randrange(1, 4)):
            text[random.randrange(len(text))] = random.randrange(256)
    return bytes(text)
