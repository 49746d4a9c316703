"""Replies: pictures as PNG, JSON or npy, what they may weigh at most, and their headers."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from handler import errors, moving, png
from handler.backends.base import Backend
from handler.body import parse
from handler.hardware import processor_name
from handler.latents import Latents, from_seeds
from handler.pixels import Images, compose_grid, grid_size
from handler.request import Call, Request
from handler.settings import NO_DIRECTIONS, Card, Directions, Limits
from handler.wire import MEDIA_TYPES, MOVING

_LIBRARIES = ("torch", "onnxruntime-gpu", "onnxruntime", "numpy", "pydantic", "isal", "pillow")
_HEADER_SEEDS = 60  # of 16 digits and a comma each: a header below 1 kB
_HEADER_EDITS = 15  # of a name of 40 characters, = and a number of 24
_NPY_HEADER_BYTES = 128  # NEP 1, format 1.0, for any shape of four numbers
_JSON_FRAME_BYTES = 1024  # names, model and grid of one JSON object
_JSON_SEED_BYTES = 18  # 16 digits, a comma and a blank
# Pixels that leave in TCP's first window (RFC 6928: 14,600 bytes) with all headers: deflating them
# would take as long as all else of a single image, and bring it no sooner.
_FEW_BYTES = 13_000
_LONGEST = -np.finfo(np.float32).tiny  # no float32 has more digits, and rows of it go as digits


@dataclass(frozen=True)
class Reply:
    """What goes back to one client.

    Args:
        headers: ASCII names and values, none longer than 1 kB, none from the client.
        kind: of the problem, for the metrics; empty when there is none.
        of_field: the field that is to blame for it, for the log; empty when none is.
    """

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = ""
    of_field: str = ""

    @property
    def phrase(self) -> str:
        """The fixed ASCII reason phrase of the status."""
        return HTTPStatus(self.status).phrase


def problem_reply(error: errors.RequestError) -> Reply:
    """The reply to a request that cannot be answered."""
    return Reply(
        error.kind.status,
        errors.CONTENT_TYPE,
        errors.problem_document(error),
        {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {},
        error.kind.slug,
        error.field,
    )


def deflated_share(backend: Backend) -> float:
    """What the pictures of a model take as deflated PNGs, of what they take at most: the largest
    of 16. A grid takes the mean, so that one of several is likely below it."""
    images = backend(from_seeds(range(16), backend.nz))
    most = png.worst_case_bytes(*images.shape[1:])
    return max(len(png.encode(image, "", small=True)) for image in images) / most


class Renderer:
    """Writes the pictures of one worker.

    Args:
        small_png: deflate PNGs of more than a few pixels.
        share: what pixels likely take as a PNG, of what they take at most; 0 to 1.
    """

    def __init__(
        self,
        card: Card,
        backend: Backend,
        small_png: bool,
        share: float = 1.0,
        directions: Directions = NO_DIRECTIONS,
    ) -> None:
        self._image_shape, self._nz = backend.image_shape, card.nz
        self._small_png, self._share = small_png, share
        self._headers = {
            "X-Model-Version": card.version,
            "X-Weights-SHA256": card.weights_sha256,
            "X-Backend": backend.name,
            "X-Precision": backend.precision,
            "X-Device": backend.device,
        }
        if directions.named:
            self._headers["X-Directions-SHA256"] = directions.sha256
        if "fallback" in backend.warnings:
            self._headers["X-Fallback"] = "cpu"
        facts = {"version": card.version, "weights_sha256": card.weights_sha256}
        self._model = {"name": card.model, **facts}
        self._maker = to_json(
            {
                "model": self._model,
                "backend": [backend.name, backend.precision, processor_name(backend.device)],
                "png": small_png,
                "versions": versions(),
                "directions": directions.sha256,
                "code": _code_sha256(),
            }
        ).decode("ascii")
        self._head = to_json({"model": card.model, **facts}).decode("ascii")[:-1]
        self._of_edit = f',"directions_sha256":"{directions.sha256}"'

    def likely_bytes(self, call: Call) -> int:
        """What the body likely takes no more than, told before any image is there: surely where
        ``share`` is 1 and the format not a moving one."""
        return sum(map(self._likely_bytes, call.items))

    def images_in_a_reply(self, limits: Limits) -> int:
        """As many of ``limits.max_images`` as a reply likely holds, >= 1: as one PNG whose layout
        is left to the server, as JSON, also where each is an instance of its own, and as npy.
        """

        def likely_bytes(fields: Mapping[str, Any]) -> int:
            return self.likely_bytes(parse({"body": fields}, self._nz, limits))

        count = min(
            limits.max_images,
            (limits.max_reply_bytes - _NPY_HEADER_BYTES) // math.prod(self._image_shape),
            limits.max_reply_bytes // likely_bytes({"format": "json"}),
        )
        while count > 1 and likely_bytes({"num_images": count}) > limits.max_reply_bytes:
            count -= 1
        return max(count, 1)

    def _png_bytes(self, height: int, width: int) -> int:
        return math.ceil(self._share * png.worst_case_bytes(height, width, self._image_shape[2]))

    def _likely_bytes(self, item: Request) -> int:
        count: int = item.num_images
        height, width, channels = self._image_shape
        if item.format == "npy":
            return _NPY_HEADER_BYTES + count * height * width * channels
        if item.format == "png":
            rows, columns = grid_size(count, item.columns, item.padding, (height, width))
            return self._png_bytes(rows, columns) + png.text_bytes(self._text(item, item.recipe))
        if item.format in MOVING:
            text = self._text(item, item.recipe)
            once, frame = moving.likely_bytes(item.motion.type, self._image_shape, text)
            return once + count * math.ceil(frame if item.format == "gif" else self._share * frame)
        # Every image has a text of the same length, but for the digits of its seed.
        recipe = item.recipe_alone(0, np.full((1, self._nz), _LONGEST))
        longest = png.text_bytes(self._text(item, recipe)) + _JSON_SEED_BYTES
        one = -(-(self._png_bytes(height, width) + longest) // 3) * 4
        return _JSON_FRAME_BYTES + count * (one + 4 + _JSON_SEED_BYTES)

    def deflates(self, call: Call) -> bool:
        """Whether the body takes more than copying."""
        form, pixels = call.items[0].format, call.images * math.prod(self._image_shape)
        if form in ("webp", "gif"):
            return True
        return self._small_png and form != "npy" and (form != "png" or pixels > _FEW_BYTES)

    def reply(
        self,
        call: Call,
        latents: Sequence[Latents],
        images: Sequence[Images],
        run: png.Run = map,
    ) -> Reply:
        """The pictures in the form that the call asks for.

        Args:
            latents: float32 (n, nz) an item, as ``request.draw`` gives them.
            images: uint8 (n, H, W, C) an item.
            run: as ``png.encode`` takes it.
        """
        body = self._body(call, latents, images, run)
        headers = _item_headers(call) | self._headers | call.caching
        return Reply(200, MEDIA_TYPES[call.items[0].format], body, headers)

    def etag(self, item: Request) -> str:
        """A strong validator of the body (RFC 9110, 8.8.3), known before it is made.

        It differs where the request or anything of this worker does that bytes may depend on.
        """
        made_by = f"{self._maker},{item.format},{item.source},{item.recipe}"
        return f'"{hashlib.sha256(made_by.encode("ascii")).hexdigest()[:32]}"'

    def _body(
        self, call: Call, latents: Sequence[Latents], images: Sequence[Images], run: png.Run
    ) -> bytes:
        small = self.deflates(call)
        if call.kserve:
            answers = [
                self._json_object(*each, small)
                for each in zip(call.items, latents, images, strict=True)
            ]
            return to_json({"predictions": answers})
        item = call.items[0]
        if item.format == "json":
            return to_json(self._json_object(item, latents[0], images[0], small))
        if item.format == "npy":
            buffer = io.BytesIO()
            np.save(buffer, images[0], allow_pickle=False)
            return buffer.getvalue()
        text = self._text(item, item.recipe)
        if item.format in MOVING:
            motion = item.motion
            return moving.encode(motion.type, images[0], text, motion.fps, motion.loop, small, run)
        grid = compose_grid(images[0], item.columns, item.padding, item.colour)
        return png.encode(grid, text, small, run)

    def _json_object(
        self, item: Request, latents: Latents, images: Images, small: bool
    ) -> dict[str, Any]:
        """Each image as a PNG of its own in base64, and what they are."""
        encoded = [
            png.encode(image, self._text(item, item.recipe_alone(i, latents)), small)
            for i, image in enumerate(images)
        ]
        return {
            "images": [base64.b64encode(data).decode("ascii") for data in encoded],
            "source": item.source,
            "seeds": None if item.seeds is None else list(item.seeds),
            "model": self._model,
            "grid": {
                "columns": item.columns,
                "rows": -(-len(images) // item.columns),
                "padding": item.padding,
                "background": item.background,
            },
            **item.changes,
        }

    def _text(self, item: Request, recipe: str) -> str:
        """What made a picture: the model, of an edit also which directions there are, and the
        request that makes the picture once more."""
        of_edit = self._of_edit if item.edit else ""
        return f'{self._head}{of_edit},"request":{recipe}}}'


def versions() -> dict[str, str]:
    """Name -> version of Python and of the libraries that are installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@lru_cache
def _code_sha256() -> str:
    """Digest of this package's own code."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()


def to_json(value: Mapping[str, Any]) -> bytes:
    """A JSON object in ASCII, without blanks."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _item_headers(call: Call) -> dict[str, str]:
    """The headers that say what was drawn; of several instances only how many images."""
    count = call.images
    if len(call.items) != 1:
        return {"X-Num-Images": str(count)}
    item = call.items[0]
    headers = {
        "X-Source": item.source,
        "X-Num-Images": str(count),
    }
    if item.format not in MOVING:
        headers["X-Grid"] = f"{item.columns}x{-(-count // item.columns)}"  # columns x rows
    if item.truncation is not None:
        headers["X-Truncation"] = str(item.truncation)
    if item.edit:
        edit = [f"{name}={strength}" for name, strength in item.edit.items()]
        cut = ["..."] if len(edit) > _HEADER_EDITS else []
        headers["X-Edit"] = ",".join(edit[:_HEADER_EDITS] + cut)
    if item.seeds is not None and item.source == "seed":
        headers["X-Seed"] = str(item.seeds[0])
    elif item.seeds is not None:
        more = ",..." if count > _HEADER_SEEDS else ""
        headers["X-Seeds"] = ",".join(map(str, item.seeds[:_HEADER_SEEDS])) + more
    return headers
