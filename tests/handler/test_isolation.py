"""Whatever requests share a batch, each good one gets the very bytes it gets alone."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.fold import fold_batchnorm
from export.onnx import export_onnx
from export.torchscript import export_torchscript
from handler.backends import open_backend
from handler.latents import MAX_SEED
from handler.service import Service
from handler.settings import Card, Limits, Settings
from training.networks import new_generator

NZ = 8
LIMITS = Limits(max_images=6, max_batch_images=4)

seeds = st.integers(0, MAX_SEED - 5)
numbers = st.floats(-4, 4, width=32)
# None opposite to another: the arc between such may swing out beyond the largest latent.
keys = seeds | st.lists(st.floats(0, 4, width=32), min_size=NZ, max_size=NZ)


def to_base64(values: list[float]) -> str:
    """The whole rows in a list of numbers, as base64 of float32."""
    rows = np.array(values[: len(values) // NZ * NZ], "<f4")
    return base64.b64encode(rows.tobytes()).decode("ascii")


layout = st.fixed_dictionaries(
    {},
    optional={
        "columns": st.integers(1, 6),
        "padding": st.integers(0, 3),
        "background": st.from_regex(r"#[0-9a-f]{6}", fullmatch=True),
        "format": st.sampled_from(["png", "json", "npy"]),
    },
)
sources = st.one_of(
    st.fixed_dictionaries({"seed": seeds, "num_images": st.integers(1, 6)}),
    st.fixed_dictionaries({"seeds": st.lists(seeds, min_size=1, max_size=6)}),
    st.fixed_dictionaries(
        {"noise": st.lists(st.lists(numbers, min_size=NZ, max_size=NZ), min_size=1, max_size=6)}
    ),
    st.fixed_dictionaries(
        {"noise": st.lists(numbers, min_size=NZ, max_size=3 * NZ).map(to_base64)}
    ),
    st.fixed_dictionaries(
        {
            "walk": st.fixed_dictionaries(
                {
                    "between": st.lists(keys, min_size=2, max_size=3),
                    "steps": st.integers(3, 6),
                    "method": st.sampled_from(["slerp", "linear", None]),
                }
            )
        }
    ),
    st.fixed_dictionaries(
        {
            "mix": st.lists(
                st.fixed_dictionaries(
                    {"weight": numbers, "seeds": st.lists(seeds, min_size=1, max_size=3)}
                ),
                min_size=1,
                max_size=3,
            )
        }
    ),
)


def few_images(body: dict[str, Any]) -> bool:
    """All instances together within the limit, counted as the documentation says."""
    return sum(map(count_images, body["instances"])) <= LIMITS.max_images


def count_images(request: dict[str, Any]) -> int:
    if "walk" in request:
        return int(request["walk"]["steps"])
    if isinstance(request.get("noise"), str):
        return len(base64.b64decode(request["noise"])) // (4 * NZ)
    if "mix" in request:
        return 1
    return len(request.get("seeds") or request.get("noise") or range(request["num_images"]))


fields = st.builds(lambda source, extra: {**source, **extra}, sources, layout)
instances = st.lists(fields, min_size=1, max_size=2).map(
    lambda found: {"instances": [{**one, "format": "json"} for one in found]}
)
good = st.one_of(
    instances.filter(few_images).map(lambda value: {"body": value}),
    fields.map(lambda value: {"body": value}),
    fields.map(lambda value: {"body": bytearray(json.dumps(value), "ascii")}),
    fields.map(lambda value: {json.dumps(value): bytearray()}),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    ["seed", "seeds", "num_images", "noise", "walk", "mix", "instances", "columns", "format", "x"]
)
accepts = st.sampled_from(
    ["", "*/*", "image/png", "application/json", "application/x-npy;q=0.5, */*;q=0.1"]
)
# Mostly bad; those without a seed that are good by chance are random and so not compared.
arbitrary = st.one_of(
    json_values.map(lambda value: {"body": value}),
    st.binary(max_size=40).map(lambda value: {"body": bytearray(value)}),
    st.dictionaries(names, json_values, max_size=3).map(lambda value: {"body": value}),
    st.dictionaries(st.text(), st.binary(max_size=9).map(bytearray), max_size=3),
)


@pytest.fixture(scope="module", params=["torchscript", "onnx", "packed"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Service:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    network = new_generator(nz=NZ, ngf=4, channels=3, image_size=32)
    with torch.inference_mode():
        network(torch.randn(16, NZ))
    network = fold_batchnorm(network.eval())
    export_torchscript(network, folder / "generator.pt")
    export_onnx(network, folder / "generator.onnx")
    card = Card(
        model="dcgan", version="1", weights_sha256="0" * 64, nz=NZ, image_size=32, channels=3
    )
    chosen = Settings(backend=request.param, precision="float32", limits=LIMITS)
    return Service(open_backend(folder, card, chosen, None), card, LIMITS)


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(st.tuples(st.booleans(), good, arbitrary, accepts), min_size=1, max_size=8))
def test_each_good_request_gets_the_bytes_it_gets_alone(
    service: Service, batch: list[tuple[bool, dict[str, Any], dict[str, Any], str]]
) -> None:
    raws = [well if is_good else ill for is_good, well, ill, _ in batch]
    headers = [{"Accept": accept} for *_, accept in batch]
    replies = service.handle(raws, headers)
    assert len(replies) == len(raws)
    for raw, own, reply, (is_good, *_) in zip(raws, headers, replies, batch, strict=True):
        if is_good:
            body = raw.get("body")
            kserve = isinstance(body, dict) and "instances" in body
            refused = kserve and own["Accept"] == "image/png"
            assert reply.status == (406 if refused else 200)
            assert reply == service.handle([raw], [own])[0]


@settings(max_examples=200, deadline=None)
@given(raw=arbitrary)
def test_anything_gets_a_reply_that_torchserve_can_send(
    service: Service, raw: dict[str, Any]
) -> None:
    (reply,) = service.handle([raw])
    assert reply.status in (200, 400, 406, 413)  # 500 would be an exception nobody foresaw
    texts = [reply.phrase, reply.content_type, *reply.headers, *reply.headers.values()]
    assert all(text.isascii() and text.isprintable() and len(text) <= 1024 for text in texts)
    if reply.status != 200:
        assert json.loads(reply.body)["status"] == reply.status
