"""Replies: pictures as PNG, JSON or npy, what they may weigh at most, and their headers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from handler import errors, png
from handler.backends import Backend
from handler.negotiation import Format
from handler.pixels import Images, compose_grid, grid_size
from handler.requests import GenerateRequest
from handler.settings import Card
from handler.sources import to_base64

_HEADER_SEEDS = 60  # of 16 digits and a comma each: a header below 1 kB
_NPY_HEADER_BYTES = 128  # NEP 1, format 1.0, for any shape of four numbers
_JSON_FRAME_BYTES = 1024  # names, model and grid of one JSON object
_JSON_SEED_BYTES = 18  # 16 digits, a comma and a blank


@dataclass(frozen=True)
class Reply:
    """What goes back to one client.

    Args:
        status: HTTP status.
        content_type: media type of the body.
        body: the bytes.
        headers: ASCII names and values, none longer than 1 kB, none from the client.
        kind: of the problem, for the metrics; empty when there is none.
    """

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = ""

    @property
    def phrase(self) -> str:
        """The fixed ASCII reason phrase of the status."""
        return errors.reason_phrase(self.status)


def problem_reply(error: errors.RequestError) -> Reply:
    """The reply to a request that cannot be answered."""
    return Reply(
        error.kind.status,
        errors.CONTENT_TYPE,
        errors.problem_document(error),
        {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {},
        error.kind.slug,
    )


class Renderer:
    """Writes pictures of one model.

    Args:
        card: the facts of the packed model.
        image_shape: (H, W, C) of one image, px.
    """

    def __init__(self, card: Card, image_shape: tuple[int, int, int]) -> None:
        self._image_shape = image_shape
        self._name = card.model
        self._facts = {"version": card.version, "weights_sha256": card.weights_sha256}

    def text(self, item: GenerateRequest) -> dict[str, str]:
        """The text of the grid's PNG: how to make it again."""
        return self._text(item.again)

    def most_bytes(self, item: GenerateRequest, form: Format, text: Mapping[str, str]) -> int:
        """Most bytes that the body can take, known before any image is.

        Args:
            text: of the grid, for ``png``.
        """
        count, (height, width, channels) = item.count, self._image_shape
        if form == "npy":
            return _NPY_HEADER_BYTES + count * height * width * channels
        if form == "png":
            rows, columns = grid_size(count, item.columns, item.padding, (height, width))
            return png.worst_case_bytes(rows, columns, channels) + png.text_bytes(text)
        # Every image has a text of the same length, but for the digits of its seed.
        longest = png.text_bytes(self._text(_alone(item, 0))) + _JSON_SEED_BYTES
        one = -(-(png.worst_case_bytes(height, width, channels) + longest) // 3) * 4
        return _JSON_FRAME_BYTES + count * (one + 4 + _JSON_SEED_BYTES)

    def grid(self, item: GenerateRequest, images: Images, text: Mapping[str, str]) -> bytes:
        """One PNG with all images, and the text of ``text``."""
        grid = compose_grid(images, item.columns, item.padding, item.background)
        return png.encode(grid, text)

    def json_object(self, item: GenerateRequest, images: Images) -> dict[str, Any]:
        """Each image as a PNG of its own in base64, and what they are."""
        encoded = [png.encode(image, self._text(_alone(item, i))) for i, image in enumerate(images)]
        return {
            "images": [base64.b64encode(data).decode("ascii") for data in encoded],
            "source": item.source,
            "seeds": item.seeds,
            "model": {"name": self._name, **self._facts},
            "grid": {
                "columns": item.columns,
                "rows": -(-len(images) // item.columns),
                "padding": item.padding,
                "background": "#" + bytes(item.background).hex(),
            },
        }

    def _text(self, again: Mapping[str, Any]) -> dict[str, str]:
        """The chunk ``dcgan``: the model, and the request that makes the picture again."""
        recipe = {"model": self._name, **self._facts, "request": again}
        return {"dcgan": json.dumps(recipe, separators=(",", ":"))}


def to_json(value: Mapping[str, Any]) -> bytes:
    """A JSON object in ASCII, without blanks."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def to_npy(images: Images) -> bytes:
    """uint8 (N, H, W, C) as a NumPy file."""
    buffer = io.BytesIO()
    np.save(buffer, images, allow_pickle=False)
    return buffer.getvalue()


def model_headers(card: Card, backend: Backend) -> dict[str, str]:
    """The headers that every picture of this worker has."""
    headers = {
        "X-Model-Version": card.version,
        "X-Weights-SHA256": card.weights_sha256,
        "X-Backend": backend.name,
        "X-Precision": backend.precision,
        "X-Device": backend.device,
    }
    return {**headers, "X-Fallback": "cpu"} if backend.fallback else headers


def item_headers(items: Sequence[GenerateRequest]) -> dict[str, str]:
    """The headers that say what was drawn; of several instances only how many images."""
    count = sum(item.count for item in items)
    if len(items) != 1:
        return {"X-Num-Images": str(count)}
    item = items[0]
    headers = {
        "X-Source": item.source,
        "X-Num-Images": str(count),
        "X-Grid": f"{item.columns}x{-(-count // item.columns)}",  # columns x rows
    }
    if item.seeds is not None and item.source == "seed":
        headers["X-Seed"] = str(item.seeds[0])
    elif item.seeds is not None:
        more = ",..." if count > _HEADER_SEEDS else ""
        headers["X-Seeds"] = ",".join(map(str, item.seeds[:_HEADER_SEEDS])) + more
    return headers


def _alone(item: GenerateRequest, i: int) -> dict[str, Any]:
    """The request that makes image i of a call alone."""
    if item.seeds is not None:
        return {"seed": item.seeds[i], "padding": 0}
    assert item.latents is not None
    return {"noise": to_base64(item.latents[i : i + 1]), "padding": 0}
