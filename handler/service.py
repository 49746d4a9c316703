"""A list of raw requests -> as many replies. Knows nothing of TorchServe's objects.

Each request stands alone: what is wrong with one of them becomes the reply to that one, and
``handle`` itself does not raise. A batch has a time: requests are answered in the order of their
arrival, in rounds, and when the time is up the rest is refused, before TorchServe kills the worker.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from handler import png, replies, requests
from handler.backends import Backend, open_backend
from handler.batching import equal_shares, generate, is_out_of_memory, rounds, seconds_per_image
from handler.errors import Kind, RequestError
from handler.hardware import processors
from handler.headers import header
from handler.latents import Latents
from handler.negotiation import FORMATS, MEDIA_TYPES, Format, choose
from handler.pixels import Images
from handler.replies import Renderer, Reply
from handler.requests import Call
from handler.settings import Card, Limits, Pace, Settings, batch_seconds
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
_FRAME_BYTES = 2**20  # what TorchServe puts around the replies of a batch, and some room
_UNHURRIED = Pace()


@dataclass(frozen=True, eq=False)
class _Job:
    """A call that can be answered, in which form, and the text of its grid's PNG."""

    call: Call
    form: Format
    text: Mapping[str, str]

    @property
    def images(self) -> int:
        return sum(item.count for item in self.call.items)


@dataclass(frozen=True)
class _Round:
    """Replies to some jobs, and how long they took, s."""

    replies: list[Reply]
    latents_s: float
    forward_s: float
    encode_s: float


class Service:
    """Answers batches of requests.

    Args:
        backend: runs the network.
        card: the facts of the packed model.
        limits: how much one request may ask for.
        observers: each is told of every batch.
        pace: how much time a batch has.
    """

    def __init__(
        self,
        backend: Backend,
        card: Card,
        limits: Limits,
        observers: Sequence[Observer] = (),
        pace: Pace = _UNHURRIED,
    ) -> None:
        self._backend, self._card, self._limits, self._pace = backend, card, limits, pace
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
        deadline = began + self._pace.batch_s
        plans = [
            _attempt(self._plan, raw, headers[i] if headers else {}, deadline)
            for i, raw in enumerate(raws)
        ]
        jobs = [plan for plan in plans if isinstance(plan, _Job)]
        planned = perf_counter()
        # A round is a tenth of the time, or one request: between them the clock is looked at.
        parts = rounds([job.images for job in jobs], self._pace.images_in(1 / 10))
        done = [self._round(jobs[part], deadline) for part in parts]
        waiting = itertools.chain.from_iterable(part.replies for part in done)
        answers = _that_fit([next(waiting) if isinstance(plan, _Job) else plan for plan in plans])
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
            latents_s=planned - began + sum(part.latents_s for part in done),
            forward_s=sum(part.forward_s for part in done),
            encode_s=sum(part.encode_s for part in done),
        )
        if late := sum(reply.kind == Kind.OVERLOADED.slug for reply in answers):
            logger.warning(
                "%d of %d requests of a batch were not answered in %g s",
                late, len(answers), self._pace.batch_s,
            )  # fmt: skip
        for observe in self._observers:
            observe(report)
        return answers

    def describe(self) -> dict[str, Any]:
        """The contract and the facts: schema, limits, model, device, versions."""
        return {
            "model": self._card.model_dump(),
            "request": requests.schema(self._card.nz, self._limits),
            "limits": {**vars(self._limits), "max_batch_seconds": self._pace.batch_s},
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

    def _plan(self, raw: Raw, headers: Raw, deadline: float) -> _Job | Reply:
        self._check_time(deadline)
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

    def _check_time(self, deadline: float) -> None:
        if perf_counter() >= deadline:
            raise self._overloaded()

    def _overloaded(self) -> RequestError:
        seconds = self._pace.batch_s
        return RequestError(
            Kind.OVERLOADED,
            f"the requests that were served together took more than {seconds:g} s, and this one "
            "was not finished by then; wait as long as Retry-After says, or ask for fewer images",
            retry_after_s=math.ceil(seconds),
        )

    def _round(self, jobs: Sequence[_Job], deadline: float) -> _Round:
        """Answer jobs whose images are made together."""
        began = perf_counter()
        latents = self._draw_all(jobs) if began < deadline else None
        drawn = perf_counter()
        pictures = self._generate(jobs, latents, deadline)
        generated = perf_counter()
        answers = self._finish_all(jobs, pictures)
        return _Round(answers, drawn - began, generated - drawn, perf_counter() - generated)

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
        self, jobs: Sequence[_Job], latents: Sequence[Latents] | None, deadline: float
    ) -> list[list[Images] | Reply]:
        """Images an item of a job; when the batch fails, each job alone: only the culprit fails."""
        try:
            if latents is not None:
                images = iter(self._forward(latents, deadline))
                own = [[next(images) for _ in job.call.items] for job in jobs]
                return [_attempt(self._complete, each) for each in own]
        except Exception:
            logger.exception("generating %d requests together failed; trying each alone", len(jobs))
        return [_attempt(self._alone, job, deadline) for job in jobs]

    def _alone(self, job: _Job, deadline: float) -> list[Images]:
        self._check_time(deadline)
        return self._complete(self._forward(self._draw(job), deadline))

    def _complete(self, images: Sequence[Images | None]) -> list[Images]:
        """The images of all items of a job; raises RequestError when the time was too short."""
        made = [each for each in images if each is not None]
        if len(made) < len(images):
            raise self._overloaded()
        return made

    def _forward(self, latents: Sequence[Latents], deadline: float) -> list[Images | None]:
        return generate(self._backend, latents, self._limits.max_batch_images, deadline)

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
    config = config or {}
    try:
        settings = Settings.from_yaml(config.get("handler") or {})
    except ValueError as error:
        raise RuntimeError(f"the handler block of model-config.yaml: {error}") from error
    card = Card.read(model_dir)
    backend = open_backend(model_dir, card, settings, gpu_id)
    image_s = seconds_per_image(backend, settings.limits.max_batch_images)
    pace = Pace(batch_seconds(config), image_s)
    limits = settings.limits.lowered(math.prod(backend.image_shape), pace)
    if limits != settings.limits:
        logger.warning("the limits are lowered to what is done in time: %s", vars(limits))
    observers: list[Observer] = [log_requests]
    if metrics is not None:
        observers.append(
            TorchServeMetrics(
                metrics, batch_size, limits.max_batch_images,
                backend.name, backend.device, backend.fallback,
            )
        )  # fmt: skip
    return Service(backend, card, limits, observers, pace)


def _images(plan: _Job | Reply) -> int:
    """Images that a plan asks for."""
    return plan.images if isinstance(plan, _Job) else 0


def _that_fit(answers: list[Reply]) -> list[Reply]:
    """The replies, the longest refused until the memory holds the rest a second time.

    TorchServe copies all replies of a batch into one bytearray. It grows by an eighth at a time,
    and old and new may be there at once; where the memory runs out then, nothing of ours can
    catch it, the worker ends, and every request of the batch gets 500.
    """
    fitting = list(answers)
    while not _has_room(sum(len(reply.body) for reply in fitting) * 9 // 4 + _FRAME_BYTES):
        longest = max(range(len(fitting)), key=lambda i: len(fitting[i].body))
        if fitting[longest].status != 200:
            break
        fitting[longest] = replies.problem_reply(_out_of_memory())
    return fitting


def _has_room(size: int) -> bool:
    """Whether so many bytes can be had now. They are not touched, so it costs microseconds."""
    try:
        np.empty(size, np.uint8)
    except MemoryError:
        return False
    return True


def _out_of_memory() -> RequestError:
    return RequestError(
        Kind.OUT_OF_MEMORY, "the memory ran out on this request; ask for fewer images"
    )


def _attempt(work: Callable[..., T], *args: Any) -> T | Reply:
    """The result of the work, or the problem reply to the one request it was for."""
    try:
        return work(*args)
    except RequestError as error:
        problem = error
    except Exception as error:
        logger.exception("a request failed")
        if is_out_of_memory(error):
            problem = _out_of_memory()
        else:
            problem = RequestError(
                Kind.INTERNAL, "the server failed on this request; try again later"
            )
    return replies.problem_reply(problem)
