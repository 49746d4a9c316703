"""Batches of good and bad requests: as many replies, each its own."""

from __future__ import annotations

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

from handler import service as module
from handler.card import Card
from handler.dcgan_handler import DcganHandler
from handler.images import Images, compose_grid
from handler.latents import from_seeds
from handler.limits import Limits
from handler.service import Reply, Service, open_service

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

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, latents: npt.NDArray[np.float32]) -> Images:
        self.calls += 1
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
        "X-Seed": "7",
        "X-Num-Images": "5",
        "X-Grid": "3x2",
        "X-Model-Version": "1.2",
        "X-Weights-SHA256": "ab" * 32,
        "X-Backend": "fake",
        "X-Device": "cpu",
    }


def test_the_png_says_how_to_make_it_again(service: Service) -> None:
    first = one(service, {"num_images": 3, "padding": 5})
    recipe = json.loads(Image.open(io.BytesIO(first.body)).info["dcgan"])
    assert (recipe["model"], recipe["version"], recipe["source"]) == ("dcgan", "1.2", "seed")
    assert recipe["weights_sha256"] == "ab" * 32
    assert first.headers["X-Seed"] == str(recipe["seeds"][0])
    again = one(service, {"seeds": recipe["seeds"], **recipe["grid"]})
    assert np.array_equal(pixels(again), pixels(first))


def test_noise_names_no_seed(service: Service) -> None:
    reply = one(service, {"noise": [0.5, 0, 0, 0]})
    assert pixels(reply)[0, 0].tolist() == [148, 128, 128]
    assert not {"X-Seed", "X-Seeds"} & set(reply.headers)
    recipe = json.loads(Image.open(io.BytesIO(reply.body)).info["dcgan"])
    assert (recipe["source"], recipe["num_images"]) == ("noise", 1)


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
    real = module.compose_grid

    def breaks_on_red(images: Images, *args: Any) -> Images:
        if args[-1] == (255, 0, 0):
            raise MemoryError
        return real(images, *args)

    monkeypatch.setattr(module, "compose_grid", breaks_on_red)
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
