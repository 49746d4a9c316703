"""What a server's own metrics say about a time: read before and after, and subtracted.

The text format 0.0.4 of Prometheus, as TorchServe writes it with metrics_mode=prometheus.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from deploy.server import ask

_TYPE = re.compile(r"# TYPE (\S+) (\S+)")
_SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(\{(?:[^"{}]|"(?:\\.|[^"\\])*")*\})?\s+(\S+)(?:\s+-?\d+)?')
_SUFFIX = re.compile(r"_(total|bucket|sum|count|created)$")


@dataclass(frozen=True)
class Metrics:
    """One reading.

    Args:
        samples: value by series, ``name{labels}`` as written.
        growing: the series that only grow: those of counters, histograms and summaries.
    """

    samples: dict[str, float]
    growing: frozenset[str]


def scrape(url: str) -> Metrics:
    """Read a metrics endpoint, by no proxy, as the load goes by none.

    Raises:
        requests.RequestException: it cannot be reached or does not answer 200.
    """
    reply = ask("GET", url, timeout=5)
    reply.raise_for_status()
    return parse(reply.text)


def parse(text: str) -> Metrics:
    """Parse the text format; lines that are none of it, and values that are no number, are left
    out."""
    types: dict[str, str] = {}
    samples: dict[str, float] = {}
    growing = set()
    for line in text.splitlines():
        if declared := _TYPE.fullmatch(line.strip()):
            types[declared[1]] = declared[2]
        elif found := _SAMPLE.fullmatch(line.strip()):
            name, labels, written = found[1], found[2] or "", found[3]
            try:
                value = float(written)
            except ValueError:
                continue
            if math.isnan(value):
                continue
            series = name + labels
            samples[series] = value
            kind = types.get(name) or types.get(_SUFFIX.sub("", name), "untyped")
            if kind in ("counter", "histogram", "summary") and "quantile=" not in labels:
                growing.add(series)
    return Metrics(samples, frozenset(growing))


def difference(before: Metrics, after: Metrics) -> dict[str, dict[str, float]]:
    """What happened between two readings of one server.

    Returns:
        ``grown``: by how much each growing series grew, without those that did not (from 0
        where it restarted); ``now``: the other series, as they were afterwards.
    """
    grown = {}
    for series in sorted(after.growing):
        value, earlier = after.samples[series], before.samples.get(series, 0.0)
        step = value - earlier if value >= earlier else value
        if step:
            grown[series] = step
    now = {
        name: value for name, value in sorted(after.samples.items()) if name not in after.growing
    }
    return {"grown": grown, "now": now}
