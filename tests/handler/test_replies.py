"""Replies: pictures in every form, what makes them again, headers, and how long they are."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handler.body import parse
from handler.latents import Latents, from_seeds
from handler.pixels import Images, compose_grid
from handler.replies import Renderer, deflated_share
from handler.service import Service
from handler.settings import Directions, Limits
from handler.wire import FORMATS
from tests.support.directions import directions
from tests.support.fake_service import CARD, NZ, Fake, one, pixels


class Noisy(Fake):
    """Pictures that no deflate makes shorter, of the seed alone."""

    def __call__(self, latents: Latents) -> Images:
        rngs = [np.random.default_rng(row.view(np.uint32).tolist()) for row in latents]
        return np.stack([rng.integers(0, 256, self.image_shape, np.uint8) for rng in rngs])


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


CHANGES = {"truncation": 0.5, "edit": {"glasses": 1.5, "copy": -2}}


@pytest.mark.parametrize("fields", [{}, *SOURCES], ids=str)
@pytest.mark.parametrize("changes", [{}, CHANGES], ids=["plain", "changed"])
def test_recipes_make_the_same_pictures(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    """That of a PNG, and that of each image of a JSON reply; the changes are told."""
    service = Service(Fake(), CARD, Limits(), directions=directions(NZ))
    reply = one(service, {**fields, **changes})
    told = {name: reply.headers.get(name) for name in ("X-Truncation", "X-Edit")}
    assert set(told.values()) == ({"0.5", "copy=-2.0,glasses=1.5"} if changes else {None})
    text = json.loads(Image.open(io.BytesIO(reply.body)).info["dcgan"])
    recipe = text.pop("request")
    digest = directions(NZ).sha256 if changes else None
    assert text.pop("directions_sha256", None) == digest
    assert reply.headers.get("X-Seed", str(recipe.get("seed"))) == str(recipe.get("seed"))
    assert text == {"model": "dcgan", "version": "1.2", "weights_sha256": "ab" * 32}
    assert one(service, recipe).body == reply.body
    reply = one(service, {**recipe, "format": "json"})
    document = json.loads(reply.body)
    assert reply.content_type == "application/json"
    assert set(document) == {"images", "source", "seeds", "model", "grid", *changes}
    assert document["model"] == {"name": text.pop("model"), **text}
    assert {name: document[name] for name in changes} == changes
    tiles = []
    for picture in document["images"]:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert image.size == (64, 64)
        told = json.loads(image.info["dcgan"])
        assert told.get("directions_sha256") == digest
        own = told["request"]
        assert {name: own[name] for name in changes} == changes
        assert np.array_equal(pixels(one(service, own)), np.asarray(image))
        tiles.append(np.asarray(image))
    npy = one(service, {**recipe, "format": "npy"})
    assert np.array_equal(np.load(io.BytesIO(npy.body)), tiles)


def test_an_edit_beyond_the_latents_concerns_its_request_alone() -> None:
    service = Service(Fake(), CARD, Limits(), directions=directions(NZ))
    bodies: list[dict[str, Any]] = [{"seed": 1}, {"edit": {"far": 1}}, {"edit": {"copy": 1}}]
    replies = service.handle([{"body": body} for body in bodies])
    assert [reply.status for reply in replies] == [200, 400, 200]
    assert json.loads(replies[1].body)["field"] == "edit"


def test_many_strengths_are_cut_in_the_header_and_counted_in_the_bytes() -> None:
    copy = directions(NZ).named["copy"]
    named = Directions({f"{'d' * 37}-{i:02}": copy for i in range(64)})
    body = {"edit": dict.fromkeys(named.named, -0.12345678901234566), "format": "json"}
    for limits, status in ((Limits(), 200), (Limits(max_reply_bytes=20_000), 413)):
        reply = one(Service(Fake(), CARD, limits, directions=named), body)
        assert reply.status == status
    assert one(Service(Fake(), CARD, limits), {"format": "json"}).status == 200
    header = one(Service(Fake(), CARD, Limits(), directions=named), body).headers["X-Edit"]
    assert header.endswith(",...")
    assert header.count("=") == 15
    assert len(header) <= 1024


@pytest.mark.parametrize("fields", SOURCES, ids=str)
@pytest.mark.parametrize("form", ["webp", "apng", "gif"])
def test_a_moving_reply_has_a_frame_an_image(
    service: Service, fields: dict[str, Any], form: str
) -> None:
    reply = one(service, {**fields, "format": {"type": form, "fps": 20}})
    assert reply.content_type == f"image/{form}"
    assert "X-Grid" not in reply.headers
    picture = Image.open(io.BytesIO(reply.body))
    assert picture.size == (64, 64)
    assert getattr(picture, "n_frames", 1) == int(reply.headers["X-Num-Images"])
    told = picture.info.get("dcgan") or picture.info.get("comment") or picture.info["xmp"]
    text = told if isinstance(told, str) else told.decode("ascii")
    recipe = json.loads(text[text.index("{") : text.rindex("}") + 1])["request"]
    assert one(service, recipe).body == reply.body
    still = one(service, {**recipe, "format": "npy"})
    picture.seek(getattr(picture, "n_frames", 1) - 1)
    last = np.load(io.BytesIO(still.body))[-1]
    assert np.array_equal(np.asarray(picture.convert("RGB")), last)  # of one colour


@pytest.mark.parametrize("fields", SOURCES, ids=str)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("small", [False, True])
def test_no_reply_is_longer_than_was_foreseen(
    fields: dict[str, Any], form: str, small: bool
) -> None:
    seed = {"seed": 1} if "num_images" in fields else {}
    body = {**fields, **seed, "format": form}
    size = len(one(Service(Fake(), CARD, Limits(), small_png=small), body).body)
    least = Limits(max_reply_bytes=size - 1)
    assert one(Service(Fake(), CARD, least, small_png=small), body).status == 413


def test_fast_pngs_hold_the_same_pixels_and_say_the_same() -> None:
    small, fast = (
        one(Service(Fake(), CARD, Limits(), small_png=small), {"seed": 1, "num_images": 70})
        for small in (True, False)
    )
    assert np.array_equal(pixels(small), pixels(fast))
    small_picture, fast_picture = (Image.open(io.BytesIO(reply.body)) for reply in (small, fast))
    assert small_picture.info == fast_picture.info
    assert small.headers == fast.headers
    assert len(fast.body) > pixels(fast).nbytes > len(small.body)


def test_replies_are_the_same_from_any_number_of_threads() -> None:
    bodies: list[dict[str, Any]] = [
        {"seed": 1},
        {"seed": 2, "num_images": 64},
        {"seed": -1},
        {"seed": 4, "num_images": 9, "format": "json"},
    ]
    one_thread, three = (Service(Fake(), CARD, Limits(), threads=count) for count in (1, 3))
    for batch in ([{"body": body} for body in bodies], [{"body": bodies[1]}]):
        assert three.handle(batch) == one_thread.handle(batch)


def test_one_small_picture_fits_the_first_window_without_deflating(service: Service) -> None:
    alone, two = (one(service, {"num_images": count}) for count in (1, 2))
    assert len(alone.body) > pixels(alone).nbytes
    assert len(alone.body) + sum(map(len, [*alone.headers, *alone.headers.values()])) < 14_000
    assert len(two.body) < pixels(two).nbytes


@pytest.mark.parametrize(
    ("shape", "limits", "most"),
    [
        ((64, 64, 3), Limits(), 256),
        ((256, 256, 3), Limits(), 24),
        ((256, 256, 1), Limits(), 73),
        ((256, 256, 3), Limits(max_reply_bytes=800_000), 2),  # 3 are a grid of 4 places
        ((8, 8, 3), Limits(max_reply_bytes=10_000), 5),
        ((2048, 2048, 3), Limits(), 1),
    ],
)
def test_as_many_images_as_are_described_fit_a_reply(
    shape: tuple[int, int, int], limits: Limits, most: int
) -> None:
    backend = Fake()
    backend.image_shape = shape
    renderer = Renderer(CARD, backend, small_png=True)
    assert renderer.images_in_a_reply(limits) == most

    def fits(body: dict[str, Any]) -> bool:
        found = parse({"body": body}, NZ, Limits())
        return renderer.likely_bytes(found) <= limits.max_reply_bytes

    def ways(count: int) -> list[bool]:
        instances = {"instances": [{}] * count}
        forms = [form for form in FORMATS if form != "gif"]  # noise is longer there than in JSON
        return [fits({"num_images": count, "format": form}) for form in forms] + [fits(instances)]

    assert most == 1 or all(ways(most))
    assert most in (1, 256) or not all(ways(most + 1))


def test_what_turns_out_too_long_is_refused_alone() -> None:
    """The share says that pictures deflate to half, and of some it is not so."""
    noisy = {"seeds": [7, 8]}
    long = len(one(Service(Noisy(), CARD, Limits()), noisy).body)
    service = Service(Noisy(), CARD, Limits(max_reply_bytes=long - 1), share=0.5)
    bodies = [noisy, {**noisy, "format": "json"}, {"seed": 7}]
    replies = service.handle([{"body": body} for body in bodies])
    assert [reply.status for reply in replies] == [413, 413, 200]
    for reply, field in zip(replies, ("seeds", "seeds"), strict=False):
        told = json.loads(reply.body)
        assert (told["field"], told["allowed"]) == (field, f"at most {long - 1} bytes")
    assert json.loads(replies[0].body)["seen"] == f"{long} bytes"


def test_the_share_is_what_the_pictures_of_the_model_take() -> None:
    assert deflated_share(Fake()) < 0.1
    assert deflated_share(Noisy()) == pytest.approx(1, abs=0.01)
    few, many = (
        Renderer(CARD, Fake(), True, share).images_in_a_reply(Limits(max_reply_bytes=10**6))
        for share in (1.0, 0.8)
    )
    assert 1.2 * few <= many <= few / 0.8


def test_a_reply_may_be_as_long_as_the_limit() -> None:
    body = {"seed": 1, "format": "npy"}  # its length is known to the byte
    size = len(one(Service(Fake(), CARD, Limits()), body).body)
    assert one(Service(Fake(), CARD, Limits(max_reply_bytes=size)), body).status == 200


def test_kserve_answers_each_instance_as_json(service: Service) -> None:
    instances = [{"seed": 1}, {"seeds": [2, 3], "columns": 1}]
    reply = one(service, {"instances": instances})
    answers = json.loads(reply.body)["predictions"]
    alone = [json.loads(one(service, {**i, "format": "json"}).body) for i in instances]
    assert answers == alone
    assert reply.headers["X-Num-Images"] == "3"
    refused = one(service, {"instances": instances}, {"Accept": "image/png"})
    assert refused.status == 406


def test_many_seeds_are_cut_in_the_header(service: Service) -> None:
    few, many = list(range(60)), [2**53 - 1] * 256
    assert one(service, {"seeds": few}).headers["X-Seeds"] == ",".join(map(str, few))
    header = one(service, {"seeds": many}).headers["X-Seeds"]
    assert header.endswith(",...")
    assert len(header) <= 1024
