"""One point of a throughput-latency curve, as numbers for people and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from benchmarks.open_loop import OUTCOMES, Tally

_LATE_SHARE = 0.01  # from so many late sends on, a p99 says more of the client than the server
_LATE_FEW = 10  # so many are a hiccup of the machine, whatever their share


@dataclass(frozen=True)
class Point:
    """What one rate gave.

    Args:
        rate_per_s: requests asked for; ``offered_per_s`` is what the arrivals came to, which for
            Poisson arrivals differs a little.
        arrivals: requests that were to be sent within ``duration_s``.
        throughput_per_s: requests answered 2xx (``Tally.throughput_per_s``).
        images_per_s: by X-Num-Images; None where the server does not send that header.
        received_mb_per_s: 10^6 bytes of 2xx replies, headers included.
        outcomes: number of requests by outcome; they add up to ``arrivals``.
        latency_ms: of 2xx, timeouts and unsent ones, from the intended moment: samples, mean,
            p50, p90, p99, p99_9, max; None without a sample.
        send_lag_ms: from the intended moment to the sending, the same keys.
        late_sends: by reason, ``no_connection`` and ``client``; they are part of ``arrivals``.
        connections: opened at once at most.
        client_cores: processor time of this process by wall time; near 1 it is saturated.
        resources: of the server, by ``benchmarks.resources``.
        histogram: latency in microseconds, HdrHistogram V2 compressed, base64.
    """

    rate_per_s: float
    duration_s: float
    arrivals: int
    offered_per_s: float
    throughput_per_s: float
    images_per_s: float | None
    received_mb_per_s: float
    outcomes: dict[str, int]
    latency_ms: dict[str, float] | None
    send_lag_ms: dict[str, float] | None
    late_sends: dict[str, int]
    connections: int
    client_cores: float
    resources: dict[str, Any]
    histogram: str

    @property
    def p99_ms(self) -> float | None:
        return self.latency_ms["p99"] if self.latency_ms else None

    @property
    def errors(self) -> int:
        """Requests that were not answered 2xx."""
        return self.arrivals - self.outcomes["2xx"]

    @property
    def client_saturated(self) -> bool:
        """More than 1 % of the sends, and more than 10, were late by this process's own fault."""
        return self.late_sends["client"] > max(_LATE_FEW, _LATE_SHARE * self.arrivals)


def summarize(rate_per_s: float, tally: Tally, resources: dict[str, Any]) -> Point:
    """The point that a finished run gives."""
    answered = tally.outcomes["2xx"]
    throughput_per_s = tally.throughput_per_s
    each = throughput_per_s / answered if answered else 0.0
    return Point(
        rate_per_s=rate_per_s,
        duration_s=tally.window_s,
        arrivals=tally.arrivals,
        offered_per_s=tally.arrivals / tally.window_s,
        throughput_per_s=throughput_per_s,
        images_per_s=tally.images * each if tally.images else None,
        received_mb_per_s=tally.size_bytes * each / 1e6,
        outcomes={name: tally.outcomes[name] for name in OUTCOMES},
        latency_ms=_milliseconds(tally.latency_us),
        send_lag_ms=_milliseconds(tally.send_lag_us),
        late_sends={"no_connection": tally.late_no_connection, "client": tally.late_client},
        connections=tally.connections,
        client_cores=tally.cpu_s / tally.wall_s,
        resources=resources,
        histogram=tally.latency_us.encode().decode("ascii"),
    )


def _milliseconds(recorded: HdrHistogram) -> dict[str, float] | None:
    samples = recorded.get_total_count()
    if not samples:
        return None
    percentiles = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
    return {
        "samples": samples,
        "mean": recorded.get_mean_value() / 1000,
        **{
            name: recorded.get_value_at_percentile(percent) / 1000
            for name, percent in percentiles.items()
        },
        "max": recorded.get_max_value() / 1000,
    }
