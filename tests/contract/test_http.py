"""The HTTP contract, first slice, from outside."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import requests
from PIL import Image

from deploy.server import Server


def post(server: Server, body: object) -> requests.Response:
    return requests.post(server.predict_url, json=body, timeout=60)


def test_a_grid_of_64(server: Server) -> None:
    reply = post(server, {"seed": 1, "num_images": 64})
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "image/png"
    assert reply.headers["x-seed"] == "1"
    image = Image.open(io.BytesIO(reply.content))
    assert image.size == (530, 530)
    tiles = {
        image.crop((2 + 66 * (i % 8), 2 + 66 * (i // 8), 66 + 66 * (i % 8), 66 + 66 * (i // 8)))
        .tobytes()
        for i in range(64)
    }  # fmt: skip
    assert len(tiles) == 64


def test_a_random_image_tells_the_seed_that_makes_it_again(server: Server) -> None:
    random = post(server, {})
    again = post(server, {"seed": int(random.headers["x-seed"])})
    assert random.status_code == again.status_code == 200
    pixels = [Image.open(io.BytesIO(r.content)).tobytes() for r in (random, again)]
    assert pixels[0] == pixels[1]


def test_bad_requests_beside_good_ones_harm_none(server: Server) -> None:
    good = [{"seed": s} for s in range(12)]
    bad: list[object] = [{"seed": -1}, {"sede": 1}, {"noise": [[1.0]]}, {"num_images": 0}] * 3
    alone = [post(server, body).content for body in good]
    mixed = [body for pair in zip(good, bad, strict=True) for body in pair]
    with ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda body: post(server, body), mixed))
    assert [r.content for r in replies[0::2]] == alone
    for reply in replies[1::2]:
        assert reply.status_code == 400
        assert reply.headers["content-type"].startswith("application/problem+json")
        assert {"type", "title", "status", "detail", "field"} <= reply.json().keys()


def test_describe(server: Server) -> None:
    described = requests.get(server.describe_url, params={"customized": "true"}, timeout=30).json()
    facts = described[0]["customizedMetadata"]
    assert facts["model"]["nz"] == 100
    assert "seed" in facts["request"]["properties"]
    assert facts["device"]
