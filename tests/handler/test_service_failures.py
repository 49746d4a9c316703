"""What goes wrong in a batch concerns the request that it belongs to, and is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from handler import batching, requests
from handler import replies as replies_module
from handler import service as module
from handler.pixels import Images
from handler.service import Service, open_service
from handler.settings import Limits, Pace
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


def test_a_batch_whose_replies_do_not_fit_in_one_frame_gives_up_the_longest(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe copies them all into one, where running out of memory would end the worker."""
    raws = [{"body": {"seed": s, "num_images": n}} for s, n in ((1, 1), (2, 99), (9, 1))]
    right = [one(service, raw["body"]).body for raw in raws]
    monkeypatch.setattr(module, "_has_room", lambda size: size < 2**20 + 3 * len(right[1]))
    assert [reply.status for reply in service.handle([raws[1]])] == [200]
    first, large, last = service.handle([raws[0], raws[1], raws[1]])
    assert sorted([large.status, last.status]) == [200, 507]
    assert first.body == right[0]
    monkeypatch.setattr(module, "_has_room", lambda _: False)
    assert {reply.kind for reply in service.handle(raws)} == {"out-of-memory"}


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


class Slow(Fake):
    """A second an image, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.now = 0.0
        for place in (module, batching):
            monkeypatch.setattr(place, "perf_counter", lambda: self.now)

    def __call__(self, latents: Any) -> Images:
        self.now += len(latents)
        return super().__call__(latents)


def slow_service(backend: Slow) -> Service:
    pace = Pace(batch_s=30.0, image_s=1.0)
    return Service(backend, CARD, Limits().lowered(64 * 64 * 3, pace), pace=pace)


def test_what_is_not_done_in_time_is_503_and_the_rest_is_answered(
    monkeypatch: pytest.MonkeyPatch, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Slow(monkeypatch)
    bodies = [{"seed": seed, "num_images": 8} for seed in range(12)]
    replies = slow_service(backend).handle([{"body": body} for body in bodies])
    assert [reply.status for reply in replies] == [200] * 3 + [503] * 9  # in order of arrival
    assert backend.now <= 33  # of 60, after which TorchServe kills the worker
    assert [r.body for r in replies[:3]] == [one(service, body).body for body in bodies[:3]]
    for late in replies[3:]:
        problem = json.loads(late.body)
        assert problem["type"] == "urn:dcgan:problem:overloaded"
        assert "30 s" in problem["detail"]
        assert late.headers == {"Retry-After": "30"}
    assert "9 of 12" in caplog.text


def test_the_time_of_reading_and_encoding_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = Slow(monkeypatch)

    def slowly(work: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            backend.now += 5
            return work(*args)

        return wrapped

    raws = [{"body": {"seed": 1, "num_images": 3}}] * 8
    monkeypatch.setattr(module, "processors", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(replies_module, "compose_grid", slowly(replies_module.compose_grid))
        encoded = slow_service(backend).handle(raws)
    assert [reply.status for reply in encoded] == [200] * 4 + [503] * 4  # 8 s each
    monkeypatch.setattr(module.requests, "parse", slowly(module.requests.parse))
    read = slow_service(backend).handle(raws)
    assert [reply.status for reply in read] == [503] * 8  # six were read, and time was up


def test_the_next_batch_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = slow_service(Slow(monkeypatch))
    assert one(slow, {"num_images": 15}).status == 200
    assert one(slow, {"num_images": 15}).status == 200


def test_a_request_that_takes_the_time_of_a_batch_is_refused_as_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = Slow(monkeypatch)
    slow = slow_service(backend)
    described = slow.describe()
    assert described["limits"]["max_images"] == 15
    assert described["limits"]["max_batch_seconds"] == 30
    assert described["request"]["properties"]["num_images"]["anyOf"][0]["maximum"] == 15
    reply = one(slow, {"num_images": 16})
    assert (reply.status, json.loads(reply.body)["allowed"]) == (413, "an integer 1 to 15")
    assert backend.now == 0


def test_requests_that_are_tried_alone_have_the_time_of_their_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = slow_service(Slow(monkeypatch))
    monkeypatch.setattr(slow, "_draw_all", lambda _: None)
    replies = slow.handle([{"body": {"seed": 1, "num_images": 8}}] * 5)
    assert [reply.status for reply in replies] == [200] * 3 + [503] * 2


def test_an_instance_that_is_late_makes_its_call_late(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = slow_service(Slow(monkeypatch))
    first = {"body": {"instances": [{"num_images": 7}, {"num_images": 8}]}}
    replies = slow.handle([first, first, first])
    assert [reply.status for reply in replies] == [200, 200, 503]
