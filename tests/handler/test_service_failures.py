"""What goes wrong in a batch concerns the request that it belongs to, and is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from handler import replies as replies_module
from handler import requests
from handler import service as module
from handler.images import Images
from handler.limits import Limits
from handler.service import Service, open_service
from tests.support.fake_service import CARD, POISON, Fake, one


@pytest.fixture
def service() -> Service:
    return Service(Fake(), CARD, Limits())


def test_a_batch_that_does_not_fit_is_made_in_halves(service: Service) -> None:
    backend = Fake(fits=3)
    reply = one(Service(backend, CARD, Limits()), {"seed": 1, "num_images": 20})
    assert reply.body == one(service, {"seed": 1, "num_images": 20}).body
    assert backend.freed > 0


def test_memory_that_does_not_suffice_for_one_image_is_507() -> None:
    reply = one(Service(Fake(fits=0), CARD, Limits()), {"seed": 1})
    assert (reply.status, reply.kind) == (507, "out-of-memory")
    assert b"CUDA" not in reply.body


def test_latents_that_do_not_fit_together_are_drawn_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = requests.draw_together

    def little_memory(items: Sequence[Any], nz: int) -> Any:
        if sum(item.count for item in items) > 4:
            raise MemoryError("Unable to allocate 1.18 MiB")
        return draw(items, nz)

    raws = [{"body": {"seed": 1}}, {"body": {"num_images": 5}}, {"body": {"seed": 9}}]
    right = [one(service, raw["body"]).body for raw in raws]
    monkeypatch.setattr(requests, "draw_together", little_memory)
    first, large, last = service.handle(raws)
    assert (large.status, large.kind) == (507, "out-of-memory")
    assert [first.body, last.body] == [right[0], right[2]]


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
