"""Calls as the tests of requests make them, of a tiny generator's archive with directions."""

import base64
from typing import Any

import jsonschema_rs
import numpy as np
import pytest

from handler.body import parse, schema
from handler.errors import RequestError
from handler.latents import Latents
from handler.request import Call, Request, draw
from handler.settings import Limits
from tests.support.directions import directions
from tests.support.random_requests import RandomRequests

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
