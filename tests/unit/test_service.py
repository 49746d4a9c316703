"""Batches of good and bad requests: as many replies, each its own."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from ts.context import Context, RequestProcessor
from ts.protocol.otf_message_handler import create_predict_response

from handler import replies as replies_module
from handler import service as module
from handler.card import Card
from handler.dcgan_handler import DcganHandler
from handler.images import Images, compose_grid
from handler.latents import from_seeds
from handler.limits import Limits
from handler.replies import Reply
from handler.service import Service, open_service
from handler.telemetry import BatchReport, RequestReport

pytestmark = pytest.mark.unit

NZ = 4
FACTS = {
    "model": "dcgan",
    "version": "1.2",
    "weights_sha256": "ab" * 32,
    "nz": NZ,
    "image_size": 64,
    "channels": 3,
}
CARD = Card(**FACTS, facts={**FACTS, "trained_on": "cats"})
POISON = 666.0


class Fake:
    """Tiles of one colour, from the latent; a latent that starts with POISON breaks a batch."""

    name, device, nz, image_shape = "fake", "cpu", NZ, (64, 64, 3)
    fallback, precision = False, "float32"

    def __init__(self, fits: int = 1000) -> None:
        self.calls = 0
        self.freed = 0
        self.fits = fits  # images that the memory has room for

    def free_memory(self) -> None:
        self.freed += 1

    def __call__(self, latents: npt.NDArray[np.float32]) -> Images:
        self.calls += 1
        if len(latents) > self.fits:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if (latents[:, 0] == POISON).any():
            raise RuntimeError("a secret detail")
        levels = (latents[:, :3] * 40 + 128).clip(0, 255).astype(np.uint8)
        return np.broadcast_to(levels[:, None, None, :], (len(latents), 64, 64, 3)).copy()


@pytest.fixture
def service() -> Service:
    return Service(Fake(), CARD, Limits())


def one(service: Service, fields: dict[str, Any], headers: dict[str, Any] | None = None) -> Reply:
    (reply,) = service.handle([{"body": fields}], [headers or {}])
    return reply


def pixels(reply: Reply) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(reply.body)))


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


def test_a_batch_that_does_not_fit_is_made_in_halves(service: Service) -> None:
    backend = Fake(fits=3)
    reply = one(Service(backend, CARD, Limits()), {"seed": 1, "num_images": 20})
    assert reply.body == one(service, {"seed": 1, "num_images": 20}).body
    assert backend.freed > 0


def test_memory_that_does_not_suffice_for_one_image_is_507() -> None:
    reply = one(Service(Fake(fits=0), CARD, Limits()), {"seed": 1})
    assert (reply.status, reply.kind) == (507, "out-of-memory")
    assert b"CUDA" not in reply.body


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


@pytest.mark.parametrize("fields", [{"padding": 64}, {"columns": 1, "padding": 64}])
def test_a_reply_that_could_be_too_long_is_refused_before_any_work(
    fields: dict[str, Any],
) -> None:
    backend = Fake()
    reply = one(
        Service(backend, CARD, Limits(max_reply_bytes=3_000_000)), {"num_images": 256, **fields}
    )
    problem = json.loads(reply.body)
    assert (reply.status, problem["type"]) == (413, "urn:dcgan:problem:too-large")
    assert "3000000" in problem["allowed"]
    assert backend.calls == 0


def test_good_and_bad_side_by_side(service: Service) -> None:
    raws: list[dict[str, Any]] = [
        {"body": {"seed": 1}},
        {"body": {"seed": -1}},
        {"body": b"{"},
        {"body": {"seeds": [2, 3]}},
        {"body": {"num_images": 1000}},
        {},
    ]
    replies = service.handle(raws)
    assert [reply.status for reply in replies] == [200, 400, 400, 200, 413, 200]
    for i in (0, 3):
        assert replies[i] == service.handle([raws[i]])[0]
    for i in (1, 2, 4):
        assert replies[i].content_type == "application/problem+json"
        assert replies[i].headers == {}


def test_an_empty_batch_and_a_batch_of_bad_ones(service: Service) -> None:
    assert service.handle([]) == []
    assert [r.status for r in service.handle([{"body": 1}, {"body": 2}])] == [400, 400]


def test_only_the_culprit_fails_when_generating_fails(service: Service) -> None:
    raws = [{"body": {"seed": 1}}, {"body": {"noise": [POISON, 0, 0, 0]}}, {"body": {"seed": 2}}]
    replies = service.handle(raws)
    assert [reply.status for reply in replies] == [200, 500, 200]
    assert replies[0] == one(service, {"seed": 1})
    assert replies[2] == one(service, {"seed": 2})
    assert json.loads(replies[1].body)["type"] == "urn:dcgan:problem:internal"
    assert b"secret" not in replies[1].body


def test_only_the_culprit_fails_when_encoding_fails(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = replies_module.compose_grid

    def breaks_on_red(images: Images, *args: Any) -> Images:
        if args[-1] == (255, 0, 0):
            raise ValueError
        return real(images, *args)

    monkeypatch.setattr(replies_module, "compose_grid", breaks_on_red)
    replies = service.handle([{"body": {"background": "#ff0000"}}, {"body": {"seed": 2}}])
    assert [reply.status for reply in replies] == [500, 200]


def test_only_the_culprit_fails_when_parsing_breaks(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.requests.parse

    def breaks_on_ints(raw: Any, *args: Any) -> Any:
        return raw["body"] + 1 if raw["body"] == "bug" else real(raw, *args)

    monkeypatch.setattr(module.requests, "parse", breaks_on_ints)
    replies = service.handle([{"body": "bug"}, {"body": {"seed": 2}}])
    assert [reply.status for reply in replies] == [500, 200]


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
    ("config", "words"),
    [
        ({"handler": {"backnd": "onnx"}}, "model-config.yaml.*backnd.*backend"),
        ({"handler": [1]}, "model-config.yaml"),
        ({"handler": 3}, "model-config.yaml"),
        ({}, "card.json"),
        (None, "card.json"),
    ],
)
def test_an_archive_that_cannot_be_used(tmp_path: Path, config: Any, words: str) -> None:
    with pytest.raises(RuntimeError, match=words):  # all that TorchServe reports
        open_service(tmp_path, config, None)


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
