"""KServe v1 bodies: many requests in one call, each named by its place when it is wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from handler import requests
from handler.errors import Kind, RequestError
from handler.requests import Call, draw_together
from handler.settings import Limits

NZ = 4


def parse(body: dict[str, Any], **limits: int) -> Call:
    return requests.parse({"body": body}, NZ, Limits(**limits))


def refused(body: dict[str, Any], **limits: int) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(body, **limits)
    return caught.value


def test_each_instance_is_a_request_of_its_own() -> None:
    bodies: list[dict[str, Any]] = [
        {"seed": 1, "num_images": 3, "columns": 3, "format": "json"},
        {"noise": [1, 2, 3, 4], "format": None},
        {"walk": {"between": [1, 2], "steps": 4}},
    ]
    call = parse({"instances": bodies})
    assert call.kserve
    assert [item.source for item in call.items] == ["seed", "noise", "walk"]
    for item, body in zip(call.items, bodies, strict=True):
        alone = parse(body)
        assert not alone.kserve
        assert np.array_equal(draw_together([item], NZ)[0], draw_together([alone.items[0]], NZ)[0])
        assert item.again == alone.items[0].again


@pytest.mark.parametrize(
    "raw",
    [
        {"body": {"instances": [{"seed": 1}]}},
        {"body": {"instances": [{"seed": 1}], "parameters": None}},
        {"body": {"instances": [{"seed": 1}], "parameters": {}}},
        {"body": {"instances": [{"seed": 1}], "parameters": []}},
        {"body": {"instances": [{"seed": 1}], "signature_name": "serving_default"}},
        {"body": {"instances": [{"seed": 1}], "signature_name": ""}, "model_name": b"dcgan"},
        {"body": bytearray(b'{"instances": [{"seed": 1}]}')},
        {"data": b'{"instances": [{"seed": "1"}]}'},
        {"instances": bytearray(b'[{"seed": 1}]')},
    ],
)
def test_it_comes_in_every_way(raw: dict[str, Any]) -> None:
    call = requests.parse(raw, NZ, Limits())
    assert call.kserve
    assert call.items[0].seeds == (1,)


@pytest.mark.parametrize("value", [None, [], {}, "x", 5])
def test_instances_are_a_list_with_something_in_it(value: object) -> None:
    error = refused({"instances": value})
    assert (error.kind, error.field) == (Kind.INVALID_FIELD, "instances")


def test_instances_go_alone() -> None:
    error = refused({"instances": [{}], "sede\u00e9": 1})
    assert (error.kind, error.field) == (Kind.CONFLICT, "sede\\xe9")


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
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict | list | None) else "",
)
def test_a_wrong_instance_is_named_by_its_place(instance: object, kind: Kind, at: str) -> None:
    error = refused({"instances": [{"seed": 1}, {}, instance, {"seed": -5}]})
    assert (error.kind, error.field) == (kind, at)
    assert error.detail.startswith("instances[2]")
    assert error.allowed


def test_the_limit_is_for_all_instances_together() -> None:
    assert len(parse({"instances": [{"num_images": 3}, {}]}, max_images=4).items) == 2
    error = refused({"instances": [{"num_images": 3}, {}, {}]}, max_images=4)
    assert (error.kind, error.field) == (Kind.TOO_LARGE, "instances[2]")
    assert error.seen.startswith("5 images")
