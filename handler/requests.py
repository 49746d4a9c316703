"""One request as TorchServe gives it -> Call, or RequestError; many calls -> their latents.

The way of a request, a module a step: ``handler.bodies`` brings every way a body can arrive in
to field names and JSON values, ``handler.validation`` checks those against ``handler.fields``,
``handler.sources`` finds the latents, or the seeds from which ``draw_together`` draws those of a
whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from handler import bodies
from handler.errors import Kind, RequestError, show
from handler.fields import schema
from handler.headers import NONE
from handler.latents import Latents, from_seeds
from handler.pixels import default_columns
from handler.settings import Limits
from handler.sources import Source, check_alone, draw
from handler.validation import validate

__all__ = ["Call", "GenerateRequest", "draw_together", "parse", "schema"]

DEFAULT_PADDING_PX = 2  # between tiles; a single image has none
DEFAULT_BACKGROUND = "#ffffff"

# What other platforms send beside instances, and what of it says nothing.
ENVELOPE: dict[str, tuple[Any, ...]] = {
    "parameters": ({}, []),  # Vertex AI
    "signature_name": ("", "serving_default"),  # TensorFlow Serving
}


@dataclass(frozen=True, eq=False)
class GenerateRequest:
    """What one request asks for, checked.

    Args:
        count: images, n >= 1.
        latents: float32 (n, nz), finite; None when they are those of ``seeds``.
        source: where the latents come from; ``seed`` also when the seed was drawn here.
        seeds: the seed of each image; None when an image has none of its own.
        columns: tiles in a row, 1 to n.
        padding: px between tiles and around the grid.
        background: RGB, each 0 to 255.
        format: what the reply is to be; None leaves it to the Accept header.
        again: fields that, sent to the same model, give the same picture bit by bit; JSON
            values, ``format`` never among them.
    """

    count: int
    latents: Latents | None
    source: Source
    seeds: tuple[int, ...] | None
    columns: int
    padding: int
    background: tuple[int, int, int]
    format: Literal["png", "json", "npy"] | None
    again: Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """One HTTP or gRPC call.

    Args:
        items: what to draw; exactly one, unless ``kserve``.
        kserve: answer ``{"predictions": [...]}``, one element an item (KServe v1 protocol).
    """

    items: tuple[GenerateRequest, ...]
    kserve: bool


def parse(
    raw: Mapping[str, Any], nz: int, limits: Limits, headers: Mapping[str, Any] = NONE
) -> Call:
    """Check one call.

    Args:
        raw: what TorchServe gives for one request; see ``handler.bodies``.
        nz: length of a latent.
        limits: how much a call may ask for.
        headers: of the same request; over gRPC there are none.

    Raises:
        RequestError: status 400, 413 when it asks for more than the limits allow, or 415.
    """
    body = bodies.fields(raw, nz, limits, headers)
    if "instances" in body:
        return Call(_instances(body, nz, limits), kserve=True)
    return Call((_request(body, nz, limits),), kserve=False)


def draw_together(items: Sequence[GenerateRequest], nz: int) -> list[Latents]:
    """The latents of each request, float32 (n, nz); all seeds of a batch in one draw.

    A latent depends on nothing but its seed, so it is the same as drawn alone.
    """
    seeds = [seed for item in items if item.latents is None for seed in item.seeds or ()]
    drawn = from_seeds(seeds, nz) if seeds else None
    latents, used = [], 0
    for item in items:
        if item.latents is not None:
            latents.append(item.latents)
        else:
            assert drawn is not None
            latents.append(drawn[used : used + item.count])
            used += item.count
    return latents


def _request(given: Mapping[str, Any], nz: int, limits: Limits) -> GenerateRequest:
    check_alone(given)
    body = validate(given, nz, limits)
    drawn = draw(body, given, nz)
    rows = drawn.seeds if drawn.latents is None else drawn.latents
    assert rows is not None
    count = len(rows)
    columns = min(body.get("columns", default_columns(count)), count)
    padding = body.get("padding", DEFAULT_PADDING_PX if count > 1 else 0)
    background = body.get("background", DEFAULT_BACKGROUND).lower()
    red, green, blue = bytes.fromhex(background[1:])
    layout = {"columns": columns, "padding": padding, "background": background}
    return GenerateRequest(
        count=count,
        latents=drawn.latents,
        source=drawn.source,
        seeds=drawn.seeds,
        columns=columns,
        padding=padding,
        background=(red, green, blue),
        format=body.get("format"),
        again={**drawn.again, **layout},
    )


def _instances(body: Mapping[str, Any], nz: int, limits: Limits) -> tuple[GenerateRequest, ...]:
    """The requests of a KServe v1 body ``{"instances": [{...}, ...]}``."""
    others = [
        name
        for name, value in body.items()
        if name != "instances" and value is not None and value not in ENVELOPE.get(name, ())
    ]
    if others:
        raise RequestError(
            Kind.CONFLICT,
            "instances goes alone; move the other fields into the instances",
            field=show(others[0])[1:-1],
            seen=show(others[0]),
            allowed="instances, an empty parameters, and the signature_name serving_default",
        )
    given = body["instances"]
    allowed = f"a list of 1 to {limits.max_images} objects with the fields of a request"
    if not isinstance(given, list) or not given:
        raise RequestError(
            Kind.INVALID_FIELD,
            f"instances is not a list with something in it; use {allowed}",
            field="instances",
            seen=show(given),
            allowed=allowed,
        )
    items: list[GenerateRequest] = []
    images = 0
    for i, instance in enumerate(given):
        items.append(_instance(instance, f"instances[{i}]", nz, limits))
        images += items[-1].count
        if images > limits.max_images:  # before the rest is drawn
            raise RequestError(
                Kind.TOO_LARGE,
                "the instances together ask for too many images; send them in several calls",
                field=f"instances[{i}]",
                seen=f"{images} images or more",
                allowed=f"at most {limits.max_images} images in all instances",
            )
    return tuple(items)


def _instance(given: object, at: str, nz: int, limits: Limits) -> GenerateRequest:
    if not isinstance(given, dict):
        allowed = "an object with the fields of a request"
        raise RequestError(
            Kind.INVALID_FIELD,
            f"{at} is not an object; use {allowed}",
            field=at,
            seen=show(given),
            allowed=allowed,
        )
    try:
        item = _request(given, nz, limits)
        if item.format not in (None, "json"):
            allowed = "json, or no format at all"
            raise RequestError(
                Kind.INVALID_FIELD,
                f"format cannot be that among instances; use {allowed}",
                field="format",
                seen=show(item.format),
                allowed=allowed,
            )
    except RequestError as error:
        raise RequestError(
            error.kind,
            f"{at}: {error.detail}",
            field=f"{at}.{error.field}",
            seen=error.seen,
            allowed=error.allowed,
        ) from None
    return item
