"""A list of raw requests -> as many replies. Knows nothing of TorchServe's objects.

Each request stands alone: what is wrong with one of them becomes the reply to that one, and
``handle`` itself does not raise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from handler import png, replies, requests
from handler.backends import Backend, Latents, open_backend
from handler.batching import equal_shares, generate, is_out_of_memory
from handler.card import Card
from handler.errors import Kind, RequestError
from handler.headers import header
from handler.images import Images
from handler.limits import Limits, Settings, processors
from handler.negotiation import FORMATS, MEDIA_TYPES, Format, choose
from handler.replies import Renderer, Reply
from handler.requests import Call
from handler.telemetry import (
    BatchReport,
    Observer,
    RequestReport,
    TorchServeMetrics,
    log_requests,
)
from handler.versions import versions

logger = logging.getLogger(__name__)

Raw = Mapping[str, Any]
T = TypeVar("T")

_CLIENT_ID_CHARS = 64


@dataclass(frozen=True, eq=False)
class _Job:
    """A call that can be answered, in which form, and the text of its grid's PNG."""

    call: Call
    form: Format
    text: Mapping[str, str]

    @property
    def images(self) -> int:
        return sum(item.count for item in self.call.items)


class Service:
    """Answers batches of requests.

    Args:
        backend: runs the network.
        card: the facts of the packed model.
        limits: how much one request may ask for.
        observers: each is told of every batch.
    """

    def __init__(
        self, backend: Backend, card: Card, limits: Limits, observers: Sequence[Observer] = ()
    ) -> None:
        self._backend, self._card, self._limits = backend, card, limits
        self._renderer = Renderer(card, backend.image_shape)
        self._threads = processors()
        self._encoders = ThreadPoolExecutor(self._threads, "encode")
        self._observers = observers

    def handle(
        self, raws: Sequence[Raw], headers: Sequence[Raw] = (), ids: Sequence[str] = ()
    ) -> list[Reply]:
        """Answer every request of a batch.

        Args:
            raws: one mapping a request, as ``handler.requests.parse`` takes it.
            headers: the request headers, one mapping a request; none at all if left out.
            ids: what the observers call the requests; empty texts if left out.

        Returns:
            One reply a request, in the same order.
        """
        began = perf_counter()
        plans = [
            _attempt(self._plan, raw, headers[i] if headers else {}) for i, raw in enumerate(raws)
        ]
        jobs = [plan for plan in plans if isinstance(plan, _Job)]
        latents = self._draw_all(jobs)
        planned = perf_counter()
        pictures = self._generate(jobs, latents)
        generated = perf_counter()
        waiting = iter(self._finish_all(jobs, pictures))
        answers = [next(waiting) if isinstance(plan, _Job) else plan for plan in plans]
        ended = perf_counter()
        report = BatchReport(
            tuple(
                RequestReport(
                    id=ids[i] if ids else "",
                    client_id=header(headers[i], "X-Request-Id")[:_CLIENT_ID_CHARS]
                    if headers
                    else "",
                    status=reply.status,
                    kind=reply.kind or "none",
                    images=_images(plan) if reply.status == 200 else 0,
                    size_bytes=len(reply.body),
                )
                for i, (plan, reply) in enumerate(zip(plans, answers, strict=True))
            ),
            latents_s=planned - began,
            forward_s=generated - planned,
            encode_s=ended - generated,
        )
        for observe in self._observers:
            observe(report)
        return answers

    def describe(self) -> dict[str, Any]:
        """The contract and the facts: schema, limits, model, device, versions."""
        return {
            "model": dict(self._card.facts),
            "request": requests.schema(self._card.nz, self._limits),
            "limits": vars(self._limits),
            "formats": {form: MEDIA_TYPES[form] for form in FORMATS},
            "errors": [
                {"type": kind.type, "status": kind.status, "title": kind.title} for kind in Kind
            ],
            "backend": self._backend.name,
            "device": self._backend.device,
            "precision": self._backend.precision,
            "fallback": self._backend.fallback,
            "png": png.COMPRESSOR,
            "versions": versions(),
        }

    def _plan(self, raw: Raw, headers: Raw) -> _Job | Reply:
        # TorchServe marks its describe and explain calls with these headers. A client can
        # send them too, in a batch with others: hence a reply to this request only.
        if headers.get("explain") == "True":
            raise RequestError(
                Kind.NOT_IMPLEMENTED, "there are no explanations; call /predictions instead"
            )
        if headers.get("describe") == "True":
            return Reply(200, "application/json", replies.to_json(self.describe()))
        call = requests.parse(raw, self._card.nz, self._limits, headers)
        if call.kserve:
            form = choose(None, headers, offered=("json",))
        else:
            form = choose(call.items[0].format, headers)
        text = self._renderer.text(call.items[0]) if form == "png" else {}
        self._check_reply_size(call, form, text)
        return _Job(call, form, text)

    def _check_reply_size(self, call: Call, form: Format, text: Mapping[str, str]) -> None:
        """Refuse before any work: TorchServe kills the worker over a reply that is too long."""
        size = sum(self._renderer.most_bytes(item, form, text) for item in call.items)
        if size <= self._limits.max_reply_bytes:
            return
        item = call.items[0]
        narrow = form == "png" and item.columns * 4 < item.count
        source = "num_images" if item.source == "seed" else item.source
        raise RequestError(
            Kind.TOO_LARGE,
            f"the reply could take {size} bytes; ask for fewer images"
            + (", lower padding, or choose more columns" if form == "png" else ""),
            field="instances" if call.kserve else "columns" if narrow else source,
            seen=f"{size} bytes",
            allowed=f"at most {self._limits.max_reply_bytes} bytes",
        )

    def _draw_all(self, jobs: Sequence[_Job]) -> list[Latents] | None:
        """Latents of every item; None when the memory does not hold them all at once."""
        try:
            return self._draw(*jobs)
        except Exception:
            logger.exception("drawing for %d requests together failed", len(jobs))
            return None

    def _draw(self, *jobs: _Job) -> list[Latents]:
        items = [item for job in jobs for item in job.call.items]
        return requests.draw_together(items, self._card.nz)

    def _generate(
        self, jobs: Sequence[_Job], latents: Sequence[Latents] | None
    ) -> list[list[Images] | Reply]:
        """Images an item of a job; when the batch fails, each job alone: only the culprit fails."""
        try:
            if latents is not None:
                images = iter(self._forward(latents))
                return [[next(images) for _ in job.call.items] for job in jobs]
        except Exception:
            logger.exception("generating %d requests together failed; trying each alone", len(jobs))
        return [_attempt(lambda job: self._forward(self._draw(job)), job) for job in jobs]

    def _forward(self, latents: Sequence[Latents]) -> list[Images]:
        return generate(self._backend, latents, self._limits.max_batch_images)

    def _finish_all(
        self, jobs: Sequence[_Job], pictures: Sequence[list[Images] | Reply]
    ) -> list[Reply]:
        """Encode in parallel, each thread a share of about equally many images.

        With one task a request, handing over would cost more than a single image's encoding.
        """

        def finish(part: slice) -> list[Reply]:
            return list(map(self._finish, jobs[part], pictures[part]))

        parts = equal_shares([job.images for job in jobs], self._threads)
        return [reply for replies in self._encoders.map(finish, parts) for reply in replies]

    def _finish(self, job: _Job, images: list[Images] | Reply) -> Reply:
        return images if isinstance(images, Reply) else _attempt(self._render, job, images)

    def _render(self, job: _Job, images: list[Images]) -> Reply:
        items = job.call.items
        if job.call.kserve:
            answers = map(self._renderer.json_object, items, images)
            body = replies.to_json({"predictions": list(answers)})
        elif job.form == "png":
            body = self._renderer.grid(items[0], images[0], job.text)
        elif job.form == "json":
            body = replies.to_json(self._renderer.json_object(items[0], images[0]))
        else:
            body = replies.to_npy(images[0])
        headers = replies.item_headers(items) | replies.model_headers(self._card, self._backend)
        return Reply(200, MEDIA_TYPES[job.form], body, headers)


def open_service(
    model_dir: Path,
    config: Mapping[str, Any] | None,
    gpu_id: int | None,
    metrics: Any = None,
    batch_size: int = 1,
) -> Service:
    """A warm Service from an extracted archive.

    Args:
        model_dir: the folder with ``card.json`` and the model files.
        config: model-config.yaml, of which the ``handler`` block is ours; may be missing.
        gpu_id: index of the GPU; None for the CPU.
        metrics: ``context.metrics`` of TorchServe; None keeps no metrics.
        batch_size: requests that fill a batch.

    Raises:
        RuntimeError: one sentence on what is wrong with the archive, its settings or the GPU.
    """
    try:
        settings = Settings.from_yaml((config or {}).get("handler") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise RuntimeError(f"the handler block of model-config.yaml: {error}") from error
    card = Card.read(model_dir)
    backend = open_backend(model_dir, card, settings, gpu_id)
    observers: list[Observer] = [log_requests]
    if metrics is not None:
        observers.append(
            TorchServeMetrics(
                metrics, batch_size, settings.limits.max_batch_images,
                backend.name, backend.device, backend.fallback,
            )
        )  # fmt: skip
    return Service(backend, card, settings.limits, observers)


def _images(plan: _Job | Reply) -> int:
    """Images that a plan asks for."""
    return plan.images if isinstance(plan, _Job) else 0


def _attempt(work: Callable[..., T], *args: Any) -> T | Reply:
    """The result of the work, or the problem reply to the one request it was for."""
    try:
        return work(*args)
    except RequestError as error:
        problem = error
    except Exception as error:
        logger.exception("a request failed")
        if is_out_of_memory(error):
            problem = RequestError(
                Kind.OUT_OF_MEMORY, "the memory ran out on this request; ask for fewer images"
            )
        else:
            problem = RequestError(
                Kind.INTERNAL, "the server failed on this request; try again later"
            )
    return replies.problem_reply(problem)
