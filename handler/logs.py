"""The worker's log: one JSON object a line, on standard output.

TorchServe reads that output line by line and takes some lines for messages of its own:
``[METRICS]...`` and ``[PID]...``. A JSON object starts with a brace, and no text inside it has
a raw line break, so nothing that a client sent can be such a line, or a line of a log at all.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

LEVEL_VARIABLE = "DCGAN_LOG_LEVEL"
LEVELS = ("debug", "info", "warn", "error", "off")  # deploy/log4j2.xml reads the variable too

_NUMBERS = {"warn": logging.WARNING, "off": logging.CRITICAL + 1}
_NOISE = (
    "Backend received inference at",  # once a batch
    "Failed json decoding of input data",  # with a traceback; the request gets its 400
    "Failed utf-8 decoding of input data",
)


class JsonFormatter(logging.Formatter):
    """A record as one line of ASCII.

    Members: ``time`` (UTC, RFC 3339, ms), ``level``, ``logger``, ``message``, those of the
    record's ``fields`` (``extra={"fields": {...}}``), and ``error`` with a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields: Mapping[str, Any] = getattr(record, "fields", {})
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
            f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower().replace("warning", "warn"),
            "logger": record.name,
            "message": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"))


def configure(environment: Mapping[str, str] = os.environ) -> None:
    """Send what this package logs to standard output, from the level in DCGAN_LOG_LEVEL on.

    Of TorchServe's own lines, those that come with every batch or bad request are dropped
    below level ``debug``: at load they would be most of the log. Its other lines stay as they
    are: the front end reads them.

    Raises:
        RuntimeError: the level is none of LEVELS.
    """
    level = environment.get(LEVEL_VARIABLE) or "info"
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
    ours.setLevel(_NUMBERS.get(level, level.upper()))
    if level != "debug":
        logging.getLogger().addFilter(_is_no_noise)


def _is_no_noise(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE)
