"""A list of raw requests -> as many replies. Knows nothing of TorchServe's objects.

Each request stands alone: what is wrong with one of them becomes the reply to that one, and
``handle`` itself does not raise. Calls go through three stages, latents, images and PNGs, and a
stage does the work of all of them at once. Where one has failed, its Reply takes its place.

A batch has a time: requests are answered in the order of their arrival, in rounds, and when the
time is up the rest is refused, before TorchServe kills the worker.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from handler import address, body, png, replies, request
from handler.backends import choose
from handler.backends.base import Backend, generate, seconds_per_image
from handler.errors import Kind, RequestError
from handler.hardware import is_lost, is_out_of_memory, processors
from handler.latents import Latents
from handler.pixels import Images
from handler.replies import Renderer, Reply
from handler.request import Call
from handler.settings import (
    NO_DIRECTIONS,
    Card,
    Directions,
    Limits,
    Pace,
    Settings,
    batch_seconds,
    server_limits,
)
from handler.telemetry import (
    BatchReport,
    Observer,
    RequestReport,
    TorchServeMetrics,
    log_requests,
)
from handler.wire import FORMATS, MEDIA_TYPES, NO_HEADERS, Headers

logger = logging.getLogger(__name__)

Raw = Mapping[str, Any]
A = TypeVar("A")
B = TypeVar("B")

_CLIENT_ID_CHARS = 64
_FRAME_BYTES = 2**20  # what TorchServe puts around the replies of a batch, and some room
_IMAGES_A_THREAD = 4  # at least, that are worth the waking of one
_UNHURRIED = Pace()


@dataclass(frozen=True)
class _Round:
    """Replies to some calls, and how long they took, s."""

    replies: list[Reply]
    latents_s: float
    forward_s: float
    encode_s: float


class Service:
    """Answers batches of requests.

    Args:
        threads: that encode; 0 is one a processor.
        small_png: deflate PNGs of more than a few pixels.
        share: as ``Renderer`` takes it.
    """

    def __init__(
        self,
        backend: Backend,
        card: Card,
        limits: Limits,
        observers: Sequence[Observer] = (),
        pace: Pace = _UNHURRIED,
        threads: int = 0,
        small_png: bool = True,
        share: float = 1.0,
        directions: Directions = NO_DIRECTIONS,
    ) -> None:
        self._backend, self._card, self._limits, self._pace = backend, card, limits, pace
        self._renderer = Renderer(card, backend, small_png, share, directions)
        self._small_png, self._directions = small_png, directions
        body.models(card.nz, limits, directions)  # made once, and not on a client's time
        self._threads = threads or processors()
        self._lost = False
        self._encoders = ThreadPoolExecutor(self._threads, "encode")
        self._observers = observers

    def handle(
        self, raws: Sequence[Raw], headers: Sequence[Headers] = (), ids: Sequence[str] = ()
    ) -> list[Reply]:
        """Answer every request of a batch.

        Args:
            raws: one mapping a request, as ``handler.body.parse`` takes it.
            headers: the request headers, one mapping a request; none at all if left out.
            ids: what the observers call the requests; empty texts if left out.

        Returns:
            One reply a request, in the same order.
        """
        began = perf_counter()
        deadline = began + self._pace.batch_s
        headers, ids = headers or [NO_HEADERS] * len(raws), ids or [""] * len(raws)
        plans = [
            _attempt(self._plan, raw, own, deadline) for raw, own in zip(raws, headers, strict=True)
        ]
        calls = [plan for plan in plans if isinstance(plan, Call)]
        planned = perf_counter()
        # A round is a tenth of the time, or one request: between them the clock is looked at.
        parts = rounds([call.images for call in calls], self._pace.images_in(1 / 10))
        done = [self._round(calls[part], deadline) for part in parts]
        waiting = itertools.chain.from_iterable(part.replies for part in done)
        answers = _that_fit([next(waiting) if isinstance(plan, Call) else plan for plan in plans])
        report = BatchReport(
            tuple(
                RequestReport(
                    id=id_,
                    client_id=own.get("x-request-id")[:_CLIENT_ID_CHARS],
                    status=reply.status,
                    kind=reply.kind or "none",
                    images=plan.images if isinstance(plan, Call) and reply.status == 200 else 0,
                    size_bytes=len(reply.body),
                    field=reply.of_field,
                )
                for id_, own, plan, reply in zip(ids, headers, plans, answers, strict=True)
            ),
            latents_s=planned - began + sum(part.latents_s for part in done),
            forward_s=sum(part.forward_s for part in done),
            encode_s=sum(part.encode_s for part in done),
        )
        if late := sum(reply.kind == Kind.OVERLOADED.slug for reply in answers):
            words = "%d of %d requests of a batch were not answered in %g s"
            logger.warning(words, late, len(answers), self._pace.batch_s)
        for observe in self._observers:
            observe(report)
        return answers

    def if_lost(self, end: Callable[[], object]) -> None:
        """Call ``end`` if the GPU is lost to this process: every further request would fail."""
        if self._lost:
            logger.error("the GPU is lost to this process, which ends after this batch")
            end()

    def describe(self) -> dict[str, Any]:
        """The contract and the facts: schema, limits, model, device, versions."""
        return {
            "model": self._card.model_dump(),
            "request": body.schema(self._card.nz, self._limits, self._directions),
            "directions": self._directions.describe(),
            "limits": {**vars(self._limits), "max_batch_seconds": self._pace.batch_s},
            "formats": {form: MEDIA_TYPES[form] for form in FORMATS},
            "errors": [
                {"type": kind.type, "status": kind.status, "title": kind.title} for kind in Kind
            ],
            "backend": self._backend.name,
            "device": self._backend.device,
            "precision": self._backend.precision,
            "warnings": self._backend.warnings,
            "png": png.method(self._small_png),
            "versions": replies.versions(),
        }

    def _plan(self, raw: Raw, headers: Headers, deadline: float) -> Call | Reply:
        """A call that can be answered; or the answer, where it takes no images."""
        self._check_time(deadline)
        # TorchServe marks its describe and explain calls with these headers. A client can
        # send them too, in a batch with others: hence a reply to this request only.
        if headers.get("explain") == "True":
            raise RequestError(
                Kind.NOT_IMPLEMENTED, "there are no explanations; call /predictions instead"
            )
        if headers.get("describe") == "True":
            return Reply(200, "application/json", replies.to_json(self.describe()))
        asked = address.read(headers, raw, self._limits.max_images)
        if asked is not None:
            asked.check(self._card.weights_sha256, self._directions.sha256)
            raw = {"body": asked.fields}
        call = body.parse(raw, self._card.nz, self._limits, headers, self._directions)
        self._check_reply_size(call, self._renderer.likely_bytes(call))  # before any work
        if asked is None:
            return call
        etag = self._renderer.etag(call.items[0])
        caching = asked.headers(etag)
        if "ETag" not in caching or not address.is_among(etag, headers.get("if-none-match")):
            return replace(call, caching=caching)
        del caching[address.PROXY_S]  # nginx would keep the 304 and give it to all
        return Reply(304, MEDIA_TYPES[call.items[0].format], b"", caching)

    def _check_reply_size(self, call: Call, size: int) -> None:
        """TorchServe kills the worker over a reply that is too long."""
        if size <= self._limits.max_reply_bytes:
            return
        item = call.items[0]
        is_grid = item.format == "png"
        narrow = is_grid and item.columns * 4 < item.num_images
        source = "num_images" if item.source == "seed" else item.source
        raise RequestError(
            Kind.TOO_LARGE,
            f"the reply would take {size} bytes; ask for fewer images"
            + (", lower padding, or choose more columns" if is_grid else ""),
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

    def _round(self, calls: Sequence[Call], deadline: float) -> _Round:
        """Answer calls whose images are made together."""
        began = perf_counter()
        latents = _isolated(lambda calls: self._draw(calls, deadline), calls)
        changed = [
            own if isinstance(own, Reply) else _attempt(call.changed, own, self._directions)
            for call, own in zip(calls, latents, strict=True)
        ]
        drawn = perf_counter()
        images = _isolated(lambda latents: self._generate(latents, deadline), changed)
        generated = perf_counter()
        answers = self._finish(calls, latents, images)
        return _Round(answers, drawn - began, generated - drawn, perf_counter() - generated)

    def _draw(self, calls: Sequence[Call], deadline: float) -> list[list[Latents]]:
        """The latents of each item of each call."""
        drawn = []
        self._check_time(deadline)
        for own in request.draw(calls, self._card.nz):
            drawn.append(own)
            self._check_time(deadline)  # many mixes take seconds
        return drawn

    def _generate(
        self, latents: Sequence[Sequence[Latents]], deadline: float
    ) -> list[list[Images] | Reply]:
        """The images of each item of each call."""
        flat = list(itertools.chain.from_iterable(latents))
        try:
            images = iter(generate(self._backend, flat, self._limits.max_batch_images, deadline))
        except Exception as error:
            self._lost = self._lost or is_lost(error)
            raise
        return [_attempt(self._in_time, [next(images) for _ in own]) for own in latents]

    def _in_time(self, images: Sequence[Images | None]) -> list[Images]:
        """The images of all items of a call, none of which may be missing."""
        made = [each for each in images if each is not None]
        if len(made) < len(images):
            raise self._overloaded()
        return made

    def _finish(
        self,
        calls: Sequence[Call],
        latents: Sequence[list[Latents] | Reply],
        images: Sequence[list[Images] | Reply],
    ) -> list[Reply]:
        """Encode; where pixels are deflated in parallel, each thread a share of about equally many
        images, or segments of a grid that is alone.

        A thread gets several images: handing over costs more than the encoding of one.
        """
        deflated = sum(call.images for call in calls if self._renderer.deflates(call))
        threads = min(self._threads, deflated // _IMAGES_A_THREAD)
        parts = equal_shares([call.images for call in calls], max(threads, 1))
        # Threads that wait for others of their own pool could wait for ever.
        run = self._encoders.map if threads > len(parts) == 1 else map

        def finish(part: slice) -> list[Reply]:
            return [
                made if isinstance(made, Reply) else _attempt(self._reply, call, own, made, run)
                for call, own, made in zip(calls[part], latents[part], images[part], strict=True)
            ]

        first, *others = parts or [slice(0)]
        elsewhere = self._encoders.map(finish, others)
        return [reply for replies in (finish(first), *elsewhere) for reply in replies]

    def _reply(
        self, call: Call, latents: list[Latents], images: list[Images], run: png.Run
    ) -> Reply:
        reply = self._renderer.reply(call, latents, images, run)
        self._check_reply_size(call, len(reply.body))
        return reply


def open_service(
    model_dir: Path,
    config: Mapping[str, Any] | None,
    gpu_id: int | None,
    model_name: str = "",
    batch_size: int = 1,
) -> Service:
    """A warm Service from an extracted archive.

    Args:
        model_dir: the folder with ``card.json`` and the model files.
        config: model-config.yaml, of which the ``handler`` block is ours; may be missing.
        gpu_id: index of the GPU; None for the CPU.
        model_name: the name that metrics have for it; without one there are none.

    Raises:
        RuntimeError: one sentence on what is wrong with the archive, its settings or the GPU.
    """
    config = config or {}
    try:
        settings = Settings.from_yaml(config.get("handler") or {}).shared(config)
    except ValueError as error:
        raise RuntimeError(f"the handler block of model-config.yaml: {error}") from error
    card = Card.read(model_dir)
    directions = Directions.read(model_dir, card.nz)
    backend = choose.open_backend(model_dir, card, settings, gpu_id)
    image_s = seconds_per_image(backend, settings.limits.max_batch_images)
    pace = Pace(batch_seconds(config), image_s)
    small = settings.png == "small"
    share = replies.deflated_share(backend) if small else 1.0
    server = server_limits(os.environ, Path(f"/proc/{os.getppid()}"))
    limits = settings.limits.within(server)
    reply_images = Renderer(card, backend, small, share).images_in_a_reply(limits)
    limits = limits.lowered(reply_images, pace)
    if any(value < getattr(settings.limits, name) for name, value in limits):
        words = "the limits are lowered to what TorchServe lets through and is done in time: %s"
        logger.warning(words, vars(limits))
    observers: list[Observer] = [log_requests]
    if model_name:
        observers.append(
            TorchServeMetrics(model_name, batch_size, limits.max_batch_images, backend)
        )
    return Service(
        backend, card, limits, observers, pace, settings.threads, small, share, directions
    )


def rounds(weights: Sequence[int], most: int) -> list[slice]:
    """Neighbours put together up to a weight of ``most``; what weighs more goes alone.

    Args:
        weights: of the things to be put together, each >= 1.
        most: >= 1.
    """
    slices: list[slice] = []
    total = 0
    for i, weight in enumerate(weights):
        total += weight
        if i and total <= most:
            slices[-1] = slice(slices[-1].start, i + 1)
        else:
            slices.append(slice(i, i + 1))
            total = weight
    return slices


def equal_shares(weights: Sequence[int], parts: int) -> list[slice]:
    """Neighbours put together into at most ``parts`` slices of about equal weight, none empty.

    Args:
        weights: of the things to be shared, each >= 1.
        parts: >= 1.
    """
    ends = list(itertools.accumulate(weights, initial=0))
    middles = [(begin + end) / 2 for begin, end in itertools.pairwise(ends)]
    bounds = [bisect_left(middles, ends[-1] * k / parts) for k in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds) if a < b]


def _isolated(
    work: Callable[[Sequence[A]], Sequence[B | Reply]], things: Sequence[A | Reply]
) -> list[B | Reply]:
    """Work on all things at once; when that fails, on each alone: only the culprit fails.

    A Reply among them stands for a thing that has failed before, and stays where it is.
    """
    good = [thing for thing in things if not isinstance(thing, Reply)]
    try:
        done = iter(work(good))
    except Exception as error:
        if not isinstance(error, RequestError):
            logger.exception("working on %d requests together failed; trying each alone", len(good))
        done = (_attempt(lambda alone: work([alone])[0], thing) for thing in good)
    return [thing if isinstance(thing, Reply) else next(done) for thing in things]


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


def _attempt(work: Callable[..., A], *args: Any) -> A | Reply:
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
