"""A list of raw requests -> as many replies. Knows nothing of TorchServe's objects.

Each request stands alone: what is wrong with one of them becomes the reply to that one, and
``handle`` itself does not raise.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from handler import errors, png, requests
from handler.backends import Backend, open_backend
from handler.batching import generate
from handler.card import Card
from handler.errors import Kind, RequestError
from handler.images import Images, compose_grid, grid_size
from handler.limits import Limits, Settings, processors
from handler.requests import GenerateRequest

logger = logging.getLogger(__name__)

Raw = Mapping[str, Any]
T = TypeVar("T")

_HEADER_SEEDS = 60  # of 16 digits and a comma each: a header below 1 kB
_LIBRARIES = ("torch", "onnxruntime-gpu", "onnxruntime", "numpy", "pydantic", "isal")


@dataclass(frozen=True)
class Reply:
    """What goes back to one client.

    Args:
        status: HTTP status.
        content_type: media type of the body.
        body: the bytes.
        headers: ASCII names and values, none longer than 1 kB, none from the client.
    """

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def phrase(self) -> str:
        """The fixed ASCII reason phrase of the status."""
        return errors.reason_phrase(self.status)


@dataclass(frozen=True, eq=False)
class _Job:
    """A request that can be answered, with the text of its PNG."""

    request: GenerateRequest
    text: dict[str, str]


class Service:
    """Answers batches of requests.

    Args:
        backend: runs the network.
        card: the facts of the packed model.
        limits: how much one request may ask for.
    """

    def __init__(self, backend: Backend, card: Card, limits: Limits) -> None:
        self._backend, self._card, self._limits = backend, card, limits
        self._encoders = ThreadPoolExecutor(processors(), "encode")

    def handle(self, raws: Sequence[Raw], headers: Sequence[Raw] = ()) -> list[Reply]:
        """Answer every request of a batch.

        Args:
            raws: one mapping a request, as ``handler.requests.parse`` takes it.
            headers: the request headers, one mapping a request; none at all if left out.

        Returns:
            One reply a request, in the same order.
        """
        plans = [
            _attempt(self._plan, raw, headers[i] if headers else {}) for i, raw in enumerate(raws)
        ]
        jobs = [plan for plan in plans if isinstance(plan, _Job)]
        pictures = self._generate(jobs)
        rendered = iter(self._encoders.map(self._finish, jobs, pictures))
        return [next(rendered) if isinstance(plan, _Job) else plan for plan in plans]

    def describe(self) -> dict[str, Any]:
        """The contract and the facts: schema, limits, model, device, versions."""
        return {
            "model": dict(self._card.facts),
            "request": requests.schema(self._card.nz, self._limits),
            "limits": vars(self._limits),
            "backend": self._backend.name,
            "device": self._backend.device,
            "png": png.COMPRESSOR,
            "versions": {"python": platform.python_version(), **_versions()},
        }

    def _plan(self, raw: Raw, headers: Raw) -> _Job | Reply:
        # TorchServe marks its describe and explain calls with these headers. A client can
        # send them too, in a batch with others: hence a reply to this request only.
        if headers.get("explain") == "True":
            raise RequestError(
                Kind.NOT_IMPLEMENTED, "there are no explanations; call /predictions instead"
            )
        if headers.get("describe") == "True":
            return Reply(200, "application/json", json.dumps(self.describe()).encode("ascii"))
        job = self._job(requests.parse(raw, self._card.nz, self._limits))
        self._check_reply_size(job)
        return job

    def _job(self, request: GenerateRequest) -> _Job:
        card = self._card
        recipe: dict[str, Any] = {
            "model": card.model,
            "version": card.version,
            "weights_sha256": card.weights_sha256,
            "source": request.source,
            "num_images": len(request.latents),
            "grid": {
                "columns": request.columns,
                "padding": request.padding,
                "background": "#" + bytes(request.background).hex(),
            },
        }
        if request.seeds is not None:
            recipe["seeds"] = request.seeds
        return _Job(request, {"dcgan": json.dumps(recipe, separators=(",", ":"))})

    def _check_reply_size(self, job: _Job) -> None:
        """Refuse before any work: TorchServe kills the worker over a reply that is too long."""
        request = job.request
        tile_height, tile_width, channels = self._backend.image_shape
        height, width = grid_size(
            len(request.latents), request.columns, request.padding, (tile_height, tile_width)
        )
        size = png.worst_case_bytes(height, width, channels) + png.text_bytes(job.text)
        if size > self._limits.max_reply_bytes:
            raise RequestError(
                Kind.TOO_LARGE,
                f"the grid of {width}x{height} px could take {size} bytes; ask for fewer images, "
                "lower padding, or choose columns that leave fewer cells empty",
                field="columns" if request.columns * 4 < len(request.latents) else "num_images",
                seen=f"{size} bytes",
                allowed=f"at most {self._limits.max_reply_bytes} bytes",
            )

    def _generate(self, jobs: Sequence[_Job]) -> list[Images | Reply]:
        """Images a job; when the batch fails, each job alone, so that only the culprit fails."""
        latents = [job.request.latents for job in jobs]
        most = self._limits.max_batch_images
        try:
            return list(generate(self._backend, latents, most))
        except Exception:
            logger.exception("generating %d requests together failed; trying each alone", len(jobs))
        return [_attempt(lambda rows: generate(self._backend, [rows], most)[0], r) for r in latents]

    def _finish(self, job: _Job, images: Images | Reply) -> Reply:
        return images if isinstance(images, Reply) else _attempt(self._render, job, images)

    def _render(self, job: _Job, images: Images) -> Reply:
        request = job.request
        grid = compose_grid(images, request.columns, request.padding, request.background)
        return Reply(200, "image/png", png.encode(grid, job.text), self._headers(request))

    def _headers(self, request: GenerateRequest) -> dict[str, str]:
        count = len(request.latents)
        headers = {
            "X-Num-Images": str(count),
            "X-Grid": f"{request.columns}x{-(-count // request.columns)}",  # columns x rows
            "X-Model-Version": self._card.version,
            "X-Weights-SHA256": self._card.weights_sha256,
            "X-Backend": self._backend.name,
            "X-Device": self._backend.device,
        }
        if request.seeds is not None and request.source == "seed":
            headers["X-Seed"] = str(request.seeds[0])
        elif request.seeds is not None:
            more = ",..." if count > _HEADER_SEEDS else ""
            headers["X-Seeds"] = ",".join(map(str, request.seeds[:_HEADER_SEEDS])) + more
        return headers


def open_service(model_dir: Path, config: Mapping[str, Any] | None, gpu_id: int | None) -> Service:
    """A warm Service from an extracted archive.

    Args:
        model_dir: the folder with ``card.json`` and the model files.
        config: model-config.yaml, of which the ``handler`` block is ours; may be missing.
        gpu_id: index of the GPU; None for the CPU.

    Raises:
        RuntimeError: one sentence on what is wrong with the archive, its settings or the GPU.
    """
    try:
        settings = Settings.from_yaml((config or {}).get("handler") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise RuntimeError(f"the handler block of model-config.yaml: {error}") from error
    card = Card.read(model_dir)
    return Service(open_backend(model_dir, card, settings, gpu_id), card, settings.limits)


def _attempt(work: Callable[..., T], *args: Any) -> T | Reply:
    """The result of the work, or the problem reply to the one request it was for."""
    try:
        return work(*args)
    except RequestError as error:
        problem = error
    except Exception:
        logger.exception("a request failed")
        problem = RequestError(Kind.INTERNAL, "the server failed on this request; try again later")
    return Reply(problem.kind.status, errors.CONTENT_TYPE, errors.problem_document(problem))


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
