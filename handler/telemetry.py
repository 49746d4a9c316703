"""What a worker tells of itself: lines of its log, and TorchServe's metrics of its batches.

The log has one JSON object a line, on standard output. TorchServe reads that output line by line
and takes some lines for messages of its own: ``[METRICS]...`` and ``[PID]...``. A JSON object
starts with a brace, and no text inside it has a raw line break, so nothing that a client sent can
be such a line, or a line of a log at all.

TorchServe has fixed histogram buckets that suit seconds and ratios, hence these units. Names
and dimensions are declared in ``metrics.yaml``; TorchServe adds model name, level and host.
No text from a client becomes the value of a dimension.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from handler.backends.base import Backend
from handler.errors import Kind

logger = logging.getLogger(__name__)
_stdout = logging.getLogger("ts.metrics")  # as it is: TorchServe sends what is logged there on

LEVEL_VARIABLE = "DCGAN_LOG_LEVEL"
LEVELS = ("debug", "info", "warn", "error", "off")  # deploy/log4j2.xml reads the variable too

_json = json.JSONEncoder(separators=(",", ":")).encode
_NOISE = "Backend received inference at"  # once a batch


class JsonFormatter(logging.Formatter):
    """A record as one line of ASCII.

    Members: ``time`` (UTC, RFC 3339, ms), ``level``, ``logger``, ``message``, and ``error`` with
    a traceback. A record with ``fields`` and ``common`` in its ``extra`` has a line for each of the
    fields, with its members and then the common ones: one call for many lines is cheaper by far,
    for the process and for who reads them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line or lines, without the last one's end."""
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
            f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower().replace("warning", "warn"),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        head = _json(line)
        fields: Sequence[Mapping[str, Any]] | None = getattr(record, "fields", None)
        if fields is None:
            return head
        tail = _json(record.common)[1:]  # type: ignore[attr-defined]
        return "\n".join(f"{head[:-1]},{_json(each)[1:-1]},{tail}" for each in fields)


def configure_log() -> None:
    """Send what this package logs to standard output, from the level in DCGAN_LOG_LEVEL on.

    Of TorchServe's own lines, the one that comes with every batch is dropped below level
    ``debug``: at load it would be most of the log. Its other lines stay as they are: the front end
    reads them.

    Raises:
        RuntimeError: the level is none of LEVELS.
    """
    level = os.environ.get(LEVEL_VARIABLE) or "info"
    if level not in LEVELS:
        raise RuntimeError(
            f"{LEVEL_VARIABLE}: seen {level!r}; allowed are {', '.join(LEVELS)}. Set one of "
            "them, or nothing for info, and start again"
        )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    ours = logging.getLogger(__name__.partition(".")[0])
    ours.handlers[:] = [handler]
    ours.propagate = False  # TorchServe's own handler would write it a second time, as text
    ours.setLevel(logging.CRITICAL + 1 if level == "off" else level.upper())
    if level != "debug":
        logging.getLogger().addFilter(lambda record: not str(record.msg).startswith(_NOISE))


class RequestReport(NamedTuple):
    """One request, observed.

    Args:
        id: TorchServe's, which the client sees as ``x-request-id``; empty when unknown.
        client_id: the ``X-Request-Id`` that came with the request, at most 64 characters of
            whatever was sent.
        kind: of the problem; "none" when there is none.
        images: images that were sent.
        size_bytes: of the reply's body.
        field: to blame for the problem, as the reply names it; empty when none is.
    """

    id: str
    client_id: str
    status: int
    kind: str
    images: int
    size_bytes: int
    field: str = ""


@dataclass(frozen=True)
class BatchReport:
    """One batch, observed.

    Args:
        requests: in the order of the batch.
        latents_s: reading the requests and drawing their latents, s.
        forward_s: the network, s.
        encode_s: grids, PNG and JSON, s.
    """

    requests: tuple[RequestReport, ...]
    latents_s: float
    forward_s: float
    encode_s: float

    @property
    def images(self) -> int:
        """Images that were sent."""
        return sum(request.images for request in self.requests)


Observer = Callable[[BatchReport], None]


def log_requests(report: BatchReport) -> None:
    """An observer that writes one line a request, at level ``info``.

    The times are the batch's: what one request of it took alone is not known.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    of_batch = {
        "batch_requests": len(report.requests),
        "batch_images": report.images,
        "latents_ms": round(1000 * report.latents_s, 2),
        "forward_ms": round(1000 * report.forward_s, 2),
        "encode_ms": round(1000 * report.encode_s, 2),
    }
    fields = [request._asdict() for request in report.requests]
    logger.info("request", extra={"fields": fields, "common": of_batch})


class TorchServeMetrics:
    """Passes reports on to TorchServe, all metrics of a batch in one write.

    Its own ``context.metrics`` writes the same lines one by one, at 15 us each, and a batch has 8;
    it would be a tenth of a worker's time.

    Every series of a counter is there from the start with 0, and so is what the worker runs on:
    Prometheus sees no increase in a series that begins with 1. TorchServe's front end adds up
    what all workers send and outlives them, so the 0 of another start changes nothing.

    Args:
        model_name: the name that TorchServe has given the model.
        batch_size: requests that fill a batch.
        max_batch_images: images that fill a forward pass.
    """

    def __init__(
        self, model_name: str, batch_size: int, max_batch_images: int, backend: Backend
    ) -> None:
        self._batch_size, self._max_batch_images = max(batch_size, 1), max_batch_images
        self._common, self._host = f"ModelName:{model_name},Level:Model", socket.gethostname()
        # TorchServe splits name:value at every colon, and drops what is not two parts.
        device, warned = backend.device.replace(":", "_"), "_".join(backend.warnings) or "none"
        outcomes = [(200, "none"), (304, "none"), *((kind.status, kind.slug) for kind in Kind)]
        self._write(
            *(self._requests(status, kind, 0) for status, kind in outcomes),
            ("dcgan_images_total", 0, "COUNTER", ""),
            (
                "dcgan_backend_info",
                1,
                "GAUGE",
                f"Backend:{backend.name},Device:{device},Warnings:{warned},",
            ),
        )

    def __call__(self, report: BatchReport) -> None:
        """Emit the metrics of one batch."""
        outcomes = Counter((request.status, request.kind) for request in report.requests)
        batch = {
            "dcgan_batch_fill_ratio": len(report.requests) / self._batch_size,
            "dcgan_latents_seconds": report.latents_s,
        }
        if report.images:
            batch |= {
                "dcgan_batch_images_ratio": report.images / self._max_batch_images,
                "dcgan_forward_seconds": report.forward_s,
                "dcgan_encode_seconds": report.encode_s,
            }
        self._write(
            *(self._requests(*outcome, count) for outcome, count in outcomes.items()),
            ("dcgan_images_total", report.images, "COUNTER", ""),
            *((name, round(value, 6), "HISTOGRAM", "") for name, value in batch.items()),
        )

    def _requests(self, status: int, kind: str, count: int) -> tuple[str, float, str, str]:
        return "dcgan_requests_total", count, "COUNTER", f"Status:{status},Kind:{kind},"

    def _write(self, *metrics: tuple[str, float, str, str]) -> None:
        """A line each, as ``ts.metrics.caching_metric`` writes it and Java's ``Metric`` reads it.

        Args:
            metrics: name, value, kind, and its own dimensions.
        """
        end = f"|#hostname:{self._host},{int(time.time())}"
        _stdout.info(
            "\n".join(
                f"[METRICS]{name}.{'Seconds' if name.endswith('_seconds') else 'Count'}:{value}"
                f"|#{dimensions}{self._common}|#type:{kind}{end}"
                for name, value, kind, dimensions in metrics
            )
        )
