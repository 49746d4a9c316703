"""Batches of requests: as many replies, each its own; what goes wrong concerns its own request."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor
from ts.protocol.otf_message_handler import create_predict_response

from handler import body, request
from handler import replies as replies_module
from handler import service as module
from handler.backends import base
from handler.backends.choose import open_backend
from handler.dcgan_handler import DcganHandler
from handler.pixels import Images
from handler.request import Call
from handler.service import Service, equal_shares, open_service, rounds
from handler.settings import Card, Limits, Pace, Settings
from handler.telemetry import BatchReport, RequestReport
from handler.wire import NO_HEADERS, Headers
from tests.support import tiny_models
from tests.support.directions import directions, facts
from tests.support.fake_service import CARD, NZ, POISON, Fake, one, pixels
from tests.support.random_requests import RandomRequests


@pytest.fixture
def service() -> Service:
    return Service(Fake(), CARD, Limits())


def test_what_the_observer_is_told() -> None:
    seen: list[BatchReport] = []
    poison = [POISON] + [0] * (NZ - 1)
    replies = Service(Fake(), CARD, Limits(), [seen.append]).handle(
        [{"body": body} for body in ({"num_images": 4}, {"seed": -1}, {}, {"noise": poison})],
        [Headers({"x-request-id": "t" * 1000}), *[NO_HEADERS] * 3],
        ["a", "b", "c", "d"],
    )
    (report,) = seen
    sizes = [len(reply.body) for reply in replies]
    assert report.requests == (
        RequestReport("a", "t" * 64, 200, "none", 4, sizes[0]),
        RequestReport("b", "", 400, "invalid-field", 0, sizes[1], "seed"),
        RequestReport("c", "", 200, "none", 1, sizes[2]),
        RequestReport("d", "", 500, "internal", 0, sizes[3]),  # drawn for, and none was sent
    )
    assert report.images == 5
    assert min(report.latents_s, report.forward_s, report.encode_s) > 0


def test_a_fallback_is_told() -> None:
    backend = Fake()
    backend.warnings = {"fallback": "no driver"}
    fallen = Service(backend, CARD, Limits())
    assert one(fallen, {}).headers["X-Fallback"] == "cpu"
    assert fallen.describe()["warnings"] == {"fallback": "no driver"}


def test_a_batch_is_answered_before_a_worker_without_its_gpu_ends() -> None:
    class Lost(Fake):
        error: Exception = RuntimeError("no such operator")

        def __call__(self, latents: npt.NDArray[np.float32]) -> Images:
            if (latents[:, 0] == POISON).any():
                raise self.error
            return super().__call__(latents)

    backend, ended = Lost(), list[int]()
    service = Service(backend, CARD, Limits())
    batch = [{"body": {"noise": [POISON] + [0] * (NZ - 1)}}, {"body": {}}]
    for error, ends in (
        (RuntimeError("no such operator"), 0),
        (torch.OutOfMemoryError("CUDA out of memory"), 0),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), 1),
    ):
        backend.error = error
        assert service.handle(batch)[0].status in (500, 507)
        service.if_lost(lambda: ended.append(1))
        assert len(ended) == ends


def test_describe_and_explain_concern_one_request(service: Service) -> None:
    raws: list[dict[str, Any]] = [{}, {"body": {"seed": 1}}, {"body": {}}, {"describe": b"True"}]
    headers: list[dict[str, Any]] = [
        {"describe": "True"},
        {},
        {"explain": "True"},
        {"describe": {"content-type": "True"}},  # a form field of that name
    ]
    replies = service.handle(raws, [Headers(own) for own in headers])
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


def test_memory_that_does_not_suffice_for_one_image_is_507() -> None:
    reply = one(Service(Fake(fits=0), CARD, Limits()), {"seed": 1})
    assert (reply.status, reply.kind) == (507, "out-of-memory")
    assert b"CUDA" not in reply.body


def test_latents_that_do_not_fit_together_are_drawn_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = request.draw

    def little_memory(calls: Sequence[Call], nz: int) -> Any:
        if sum(call.images for call in calls) > 4:
            raise MemoryError("Unable to allocate 1.18 MiB")
        return draw(calls, nz)

    raws = [{"body": {"seed": 1}}, {"body": {"num_images": 5}}, {"body": {"seed": 9}}]
    right = [one(service, raw["body"]).body for raw in raws]
    monkeypatch.setattr(request, "draw", little_memory)
    first, large, last = service.handle(raws)
    assert (large.status, large.kind) == (507, "out-of-memory")
    assert [first.body, last.body] == [right[0], right[2]]


def test_a_batch_whose_replies_do_not_fit_in_one_frame_gives_up_the_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TorchServe copies them all into one, where running out of memory would end the worker."""
    service = Service(Fake(), CARD, Limits(), small_png=False)
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
def test_a_reply_that_could_be_too_long_is_refused_before_any_work(fields: dict[str, Any]) -> None:
    backend = Fake()
    reply = one(
        Service(backend, CARD, Limits(max_reply_bytes=3_000_000)), {"num_images": 256, **fields}
    )
    problem = json.loads(reply.body)
    assert (reply.status, problem["type"]) == (413, "urn:dcgan:problem:too-large")
    assert "3000000" in problem["allowed"]
    assert backend.calls == 0


def has_bug(raw: dict[str, Any], *_: object) -> bool:
    return bool(raw["body"] == "bug")


def is_red(_: Images, *layout: object) -> bool:
    return layout[-1] == (255, 0, 0)


@pytest.mark.parametrize(
    ("culprit", "place", "name", "breaks"),
    [
        ({"noise": [POISON, 0, 0, 0]}, None, "", None),  # breaks the network
        ({"background": "#ff0000"}, replies_module, "compose_grid", is_red),
        ("bug", body, "parse", has_bug),
    ],
    ids=["generating", "encoding", "parsing"],
)
def test_only_the_culprit_fails(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    culprit: object,
    place: Any,
    name: str,
    breaks: Any,
) -> None:
    if place is not None:
        real = getattr(place, name)

        def broken(*args: Any) -> Any:
            if breaks(*args):
                raise ValueError("a secret detail")
            return real(*args)

        monkeypatch.setattr(place, name, broken)
    first, bad, last = service.handle([{"body": b} for b in ({"seed": 1}, culprit, {"seed": 2})])
    assert first == one(service, {"seed": 1})
    assert last == one(service, {"seed": 2})
    assert (first.status, bad.status) == (200, 500)
    assert json.loads(bad.body)["type"] == "urn:dcgan:problem:internal"
    assert b"secret" not in bad.body


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"handler": {"backnd": "onnx"}}, "model-config.yaml.*backnd.*backend"),
        ({"handler": 3}, "model-config.yaml"),
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
        for place in (module, base):
            monkeypatch.setattr(place, "perf_counter", lambda: self.now)

    def __call__(self, latents: Any) -> Images:
        self.now += len(latents)
        return super().__call__(latents)


def slow_service(backend: Slow) -> Service:
    pace = Pace(batch_s=30.0, image_s=1.0)
    return Service(backend, CARD, Limits().lowered(256, pace), pace=pace)


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


def test_the_time_of_reading_and_encoding_counts(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(body, "parse", slowly(body.parse))
    read = slow_service(backend).handle(raws)
    assert [reply.status for reply in read] == [503] * 8  # six were read, and time was up


def test_the_time_of_drawing_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three make a round of 27 s; of the next one only the first is drawn, and none is made."""
    backend = Slow(monkeypatch)
    draw = request.draw

    def slowly(calls: Sequence[Call], nz: int) -> Any:
        for own in draw(calls, nz):
            backend.now += 8
            yield own

    monkeypatch.setattr(request, "draw", slowly)
    replies = slow_service(backend).handle([{"body": {"seed": 1}}] * 9)
    assert [reply.status for reply in replies] == [200] * 3 + [503] * 6
    assert backend.now == 3 * 8 + 3 + 8


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
    draw = request.draw

    def only_alone(calls: Sequence[Call], nz: int) -> Any:
        if len(calls) > 1:
            raise MemoryError
        return draw(calls, nz)

    monkeypatch.setattr(request, "draw", only_alone)
    for _ in range(2):  # the next batch has its own time
        replies = slow.handle([{"body": {"seed": 1, "num_images": 8}}] * 5)
        assert [reply.status for reply in replies] == [200] * 3 + [503] * 2


def test_an_instance_that_is_late_makes_its_call_late(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = slow_service(Slow(monkeypatch))
    first = {"body": {"instances": [{"num_images": 7}, {"num_images": 8}]}}
    replies = slow.handle([first, first, first])
    assert [reply.status for reply in replies] == [200, 200, 503]


@pytest.mark.parametrize(
    ("weights", "most", "together"),
    [
        ([], 4, []),
        ([9], 4, [[9]]),
        ([1, 1, 1, 1, 1], 4, [[1, 1, 1, 1], [1]]),
        ([3, 2, 2, 9, 1, 1], 4, [[3], [2, 2], [9], [1, 1]]),
        ([1, 4, 4, 1], 4, [[1], [4], [4], [1]]),
    ],
)
def test_rounds_hold_at_most_so_much(
    weights: list[int], most: int, together: list[list[int]]
) -> None:
    assert [weights[part] for part in rounds(weights, most)] == together


@pytest.mark.parametrize(
    ("weights", "parts", "shares"),
    [
        ([], 2, []),
        ([1], 2, [[1]]),
        ([1] * 5, 1, [[1] * 5]),
        ([1, 1, 1, 1], 2, [[1, 1], [1, 1]]),
        ([64, 64], 2, [[64], [64]]),
        ([1, 1, 1, 64], 2, [[1, 1, 1], [64]]),
        ([64, 1, 1, 1], 2, [[64], [1, 1, 1]]),
        ([1] * 32, 3, [[1] * 11, [1] * 10, [1] * 11]),
        ([1, 2], 16, [[1], [2]]),
    ],
)
def test_shares_are_about_equal(weights: list[int], parts: int, shares: list[list[int]]) -> None:
    assert [weights[part] for part in equal_shares(weights, parts)] == shares


# Real networks, and random requests that share a batch: each good one gets the bytes it gets alone.
REAL_LIMITS = Limits(max_images=6, max_batch_images=4)

NAMED = directions(tiny_models.NZ, "copy", "glasses")
RANDOM = RandomRequests(tiny_models.NZ, REAL_LIMITS.max_images, NAMED)
ACCEPTS = ["", "*/*", "image/png", "application/json", "application/x-npy;q=0.5, */*;q=0.1"]
# Those without a seed that are good by chance are random and so not compared.
one_of_a_batch = st.tuples(st.booleans(), RANDOM.raws, RANDOM.anything, st.sampled_from(ACCEPTS))


@pytest.fixture(scope="module", params=["torchscript", "onnx", "packed"])
def real_service(request: pytest.FixtureRequest, model_dir: Path) -> Service:
    card = Card.read(model_dir)
    chosen = Settings(backend=request.param, precision="float32", limits=REAL_LIMITS)
    backend = open_backend(model_dir, card, chosen, None)
    return Service(backend, card, REAL_LIMITS, directions=NAMED)


def test_a_service_has_the_directions_of_its_archive(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "directions.json").write_text(json.dumps(facts(tiny_models.NZ)))
    opened = open_service(tmp_path, {"handler": {"backend": "onnx"}}, None)
    described = opened.describe()
    assert described["directions"]["copy"] == {"range": (-2.5, 2), "kind": "closed-form"}
    assert set(described["request"]["$defs"]["Edit"]["properties"]) == {"copy", "far", "glasses"}
    plain, edited = (
        one(opened, {"seed": 1, "edit": edit, "format": "npy"}).body for edit in ({}, {"copy": 2})
    )
    assert plain != edited


@pytest.mark.parametrize(("png", "told"), [("fast", "stored"), ("small", "level 1")])
def test_the_setting_for_pngs_reaches_the_encoder(model_dir: Path, png: str, told: str) -> None:
    chosen = open_service(model_dir, {"handler": {"backend": "onnx", "png": png}}, None)
    (reply,) = chosen.handle([{"body": {"seed": 1, "num_images": 64}}])
    assert told in chosen.describe()["png"]
    assert (len(reply.body) > pixels(reply).nbytes) == (png == "fast")


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(one_of_a_batch, max_size=8))
def test_a_batch_is_answered_and_each_good_request_as_alone(
    real_service: Service, batch: list[tuple[bool, dict[str, Any], dict[str, Any], str]]
) -> None:
    raws = [well if is_good else ill for is_good, well, ill, _ in batch]
    headers = [{"Accept": accept} for *_, accept in batch]
    replies = real_service.handle(raws, [Headers(own) for own in headers])
    assert len(replies) == len(raws)
    for raw, own, reply, (is_good, *_) in zip(raws, headers, replies, batch, strict=True):
        texts = [reply.phrase, reply.content_type, *reply.headers, *reply.headers.values()]
        assert all(text.isascii() and text.isprintable() and len(text) <= 1024 for text in texts)
        if is_good:
            body = raw.get("body")
            kserve = isinstance(body, dict) and "instances" in body
            refused = kserve and own["Accept"] == "image/png"
            assert reply.status == (406 if refused else 200)
            assert reply == real_service.handle([raw], [Headers(own)])[0]
        assert reply.status in (200, 400, 406, 413)  # 500 would be an exception nobody foresaw
        if reply.status != 200:
            assert json.loads(reply.body)["status"] == reply.status
