"""Batches of requests: as many replies, each its own."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from ts.context import Context, RequestProcessor
from ts.protocol.otf_message_handler import create_predict_response

from handler.dcgan_handler import DcganHandler
from handler.latents import from_seeds
from handler.pixels import compose_grid
from handler.service import Service
from handler.settings import Limits
from handler.telemetry import BatchReport, RequestReport
from tests.support.fake_service import CARD, NZ, Fake, one, pixels


@pytest.fixture
def service() -> Service:
    return Service(Fake(), CARD, Limits())


def test_a_grid(service: Service) -> None:
    reply = one(service, {"seed": 7, "num_images": 5, "columns": 3, "background": "#0a0b0c"})
    assert (reply.status, reply.phrase, reply.content_type) == (200, "OK", "image/png")
    tiles = Fake()(from_seeds([7, 8, 9, 10, 11], NZ))
    assert np.array_equal(pixels(reply), compose_grid(tiles, 3, 2, (10, 11, 12)))
    assert reply.headers == {
        "X-Source": "seed",
        "X-Seed": "7",
        "X-Num-Images": "5",
        "X-Grid": "3x2",
        "X-Model-Version": "1.2",
        "X-Weights-SHA256": "ab" * 32,
        "X-Backend": "fake",
        "X-Precision": "float32",
        "X-Device": "cpu",
    }


SOURCES: list[dict[str, Any]] = [
    {"num_images": 3, "padding": 5},
    {"seeds": [3, 1, 4], "columns": 2, "background": "#102030"},
    {"noise": [[0.5, 0, 0, 0], [-1.25, 0.1, 2, 0]]},
    {"walk": {"between": [1, [0.5, 0, 0, 0.25], 3], "steps": 5}},
    {"mix": [{"weight": 0.5, "seeds": [1, 2]}, {"weight": -1, "noise": [[1, 2, 3, 4]]}]},
]


@pytest.mark.parametrize("fields", SOURCES, ids=str)
def test_the_png_says_how_to_make_it_again(service: Service, fields: dict[str, Any]) -> None:
    first = one(service, fields)
    text = json.loads(Image.open(io.BytesIO(first.body)).info["dcgan"])
    assert (text["model"], text["version"]) == ("dcgan", "1.2")
    assert text["weights_sha256"] == "ab" * 32
    again = one(service, text["request"])
    assert again.body == first.body


@pytest.mark.parametrize("fields", SOURCES, ids=str)
def test_each_image_of_a_json_reply_says_how_to_make_it_again(
    service: Service, fields: dict[str, Any]
) -> None:
    reply = one(service, {**fields, "format": "json"})
    document = json.loads(reply.body)
    assert reply.content_type == "application/json"
    assert set(document) == {"images", "source", "seeds", "model", "grid"}
    assert document["model"] == {
        "name": "dcgan", "version": "1.2", "weights_sha256": "ab" * 32,
    }  # fmt: skip
    for text in document["images"]:
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        assert image.size == (64, 64)
        alone = one(service, json.loads(image.info["dcgan"])["request"])
        assert np.array_equal(pixels(alone), np.asarray(image))


@pytest.mark.parametrize("fields", SOURCES, ids=str)
@pytest.mark.parametrize("form", ["png", "json", "npy"])
def test_no_reply_is_longer_than_was_foreseen(fields: dict[str, Any], form: str) -> None:
    body = {**fields, "format": form}
    size = len(one(Service(Fake(), CARD, Limits()), body).body)
    least = Limits(max_reply_bytes=size - 1)
    assert one(Service(Fake(), CARD, least), body).status == 413


def test_npy_is_what_the_network_gave(service: Service) -> None:
    reply = one(service, {"seeds": [5, 6]}, {"accept": "application/x-npy"})
    assert reply.content_type == "application/x-npy"
    images = np.load(io.BytesIO(reply.body))
    assert images.dtype == np.uint8
    assert np.array_equal(images, Fake()(from_seeds([5, 6], NZ)))


def test_kserve_answers_each_instance_as_json(service: Service) -> None:
    instances = [{"seed": 1}, {"seeds": [2, 3], "columns": 1}]
    reply = one(service, {"instances": instances})
    answers = json.loads(reply.body)["predictions"]
    alone = [json.loads(one(service, {**i, "format": "json"}).body) for i in instances]
    assert answers == alone
    assert reply.headers["X-Num-Images"] == "3"
    refused = one(service, {"instances": instances}, {"Accept": "image/png"})
    assert refused.status == 406


def test_a_form_that_torchserve_dropped_is_no_random_picture(service: Service) -> None:
    (reply,) = service.handle([{}], [{"content-length": "11"}])
    assert reply.status == 400
    assert "Content-Type: application/json" in json.loads(reply.body)["detail"]
    assert service.handle([{}], [{"Content-Length": "0"}])[0].status == 200


def test_what_the_observer_is_told() -> None:
    seen: list[BatchReport] = []
    replies = Service(Fake(), CARD, Limits(), [seen.append]).handle(
        [{"body": {"num_images": 4}}, {"body": {"seed": -1}}, {"body": {}}],
        [{"x-request-id": "t" * 1000}, {}, {}],
        ["a", "b", "c"],
    )
    (report,) = seen
    sizes = [len(reply.body) for reply in replies]
    assert report.requests == (
        RequestReport("a", "t" * 64, 200, "none", 4, sizes[0]),
        RequestReport("b", "", 400, "invalid-field", 0, sizes[1]),
        RequestReport("c", "", 200, "none", 1, sizes[2]),
    )
    assert report.images == 5
    assert min(report.latents_s, report.forward_s, report.encode_s) > 0


def test_a_fallback_is_told() -> None:
    backend = Fake()
    backend.fallback = True
    fallen = Service(backend, CARD, Limits())
    assert one(fallen, {}).headers["X-Fallback"] == "cpu"
    assert fallen.describe()["fallback"] is True


def test_many_seeds_are_cut_in_the_header(service: Service) -> None:
    few, many = list(range(60)), [2**53 - 1] * 256
    assert one(service, {"seeds": few}).headers["X-Seeds"] == ",".join(map(str, few))
    header = one(service, {"seeds": many}).headers["X-Seeds"]
    assert header.endswith(",...")
    assert len(header) <= 1024


def test_the_largest_default_grid_is_served(service: Service) -> None:
    reply = one(service, {"seed": 1, "num_images": 256})
    assert reply.status == 200
    assert pixels(reply).shape == (1058, 1058, 3)
    assert reply.headers["X-Grid"] == "16x16"


def test_describe_and_explain_concern_one_request(service: Service) -> None:
    raws: list[dict[str, Any]] = [{}, {"body": {"seed": 1}}, {"body": {}}, {"describe": b"True"}]
    headers: list[dict[str, Any]] = [
        {"describe": "True"},
        {},
        {"explain": "True"},
        {"describe": {"content-type": "True"}},  # a form field of that name
    ]
    replies = service.handle(raws, headers)
    assert [reply.status for reply in replies] == [200, 200, 501, 400]
    assert replies[0].content_type == "application/json"
    assert replies[1].content_type == "image/png"
    described = json.loads(replies[0].body)
    assert described == json.loads(json.dumps(service.describe()))


def test_what_describe_tells(service: Service) -> None:
    described = service.describe()
    assert described["model"]["trained_on"] == "cats"
    assert described["limits"]["max_images"] == 256
    assert (described["backend"], described["device"]) == ("fake", "cpu")
    assert "level 1" in described["png"]
    assert {"python", "torch", "numpy"} <= set(described["versions"])
    assert "seed" in described["request"]["properties"]


def test_what_a_client_sends_reaches_no_header(service: Service) -> None:
    evil = "\u00e9\r\nX-Evil: 1"
    for fields in ({evil: 1}, {"seed": evil}, {"background": evil}):
        reply = one(service, fields, {evil: evil})
        assert reply.headers == {}
        assert reply.body.isascii()


@pytest.mark.parametrize(
    ("headers", "ends"),
    [
        ({}, "false"),
        ({"body": {"content-type": None}, "content-length": {"content-type": None}}, "false"),
        ({"content-length": "0"}, None),
        ({"body": {"content-type": None}, "Content-Length": "10"}, None),
    ],
)
def test_what_came_over_grpc_is_told_that_no_more_follows(
    service: Service, headers: dict[str, Any], ends: str | None
) -> None:
    """Else TorchServe's thread breaks on a StreamPredictions; over HTTP it would be a stream."""
    entry = DcganHandler()
    entry.service = service
    context = Context("dcgan", ".", None, 1, None, "0.12.0")
    context.request_processor = [RequestProcessor(headers)]
    entry.handle([{"body": {"seed": 1}}], context)
    assert context.get_response_headers(0).get("ts_stream_next") == ends


def test_the_entry_in_torchserves_own_frame(service: Service) -> None:
    """TorchServe encodes status, phrase and headers of each reply without a complaint."""
    entry = DcganHandler()
    entry.service = service
    context = Context("dcgan", ".", None, 3, None, "0.12.0")
    context.request_processor = [
        RequestProcessor(headers)
        for headers in ({}, {"describe": "True"}, {"body": {"content-type": "text/plain"}})
    ]
    bodies = entry.handle([{"body": {"seed": 1}}, {}, {"body": "caf\u00e9"}], context)
    assert len(bodies) == 3
    assert [context.get_response_status(i) for i in range(3)] == [
        (200, "OK"),
        (200, "OK"),
        (400, "Bad Request"),
    ]
    assert context.get_response_headers(0)["X-Seed"] == "1"
    assert context.get_response_content_type(1) == "application/json"
    frame = create_predict_response(
        bodies, {0: "a", 1: "b", 2: "c"}, "Prediction success", 200, context=context
    )
    assert all(body in frame for body in bodies)
