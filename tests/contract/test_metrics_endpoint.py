"""The handler's metrics at TorchServe's metrics port."""

import re

import pytest
import requests

from deploy.server import HOST, Server
from handler.errors import Kind
from tests.support import live


def scrape(server: Server) -> dict[str, float]:
    """Name and labels (without model, level and host) -> value."""
    text = requests.get(f"http://{HOST}:{server.ports.metrics}/metrics", timeout=30).text
    found = {}
    for name, labels, value in re.findall(r"^(dcgan_\w+)\{(.*?),?\} (\S+)$", text, re.MULTILINE):
        own = [x for x in labels.split(",") if not x.startswith(("ModelName", "Level", "Hostname"))]
        found[name + "".join(f"|{label}" for label in own)] = float(value)
    return found


def settled(server: Server, last: requests.Response) -> dict[str, float]:
    """Once they count what the log tells of, this last reply included: both travel over the
    worker's output, line by line, a moment after the reply."""

    def whole() -> dict[str, float] | None:
        log = server.log.read_text(encoding="utf-8")
        found = scrape(server)
        counted = sum(n for name, n in found.items() if name.startswith("dcgan_requests_total"))
        lines = log.count('"message":"request"')
        return found if last.headers["x-request-id"] in log and counted == lines else None

    return live.wait(whole)


def test_the_machine_is_told_too(server: Server) -> None:
    """By our own collector, which TorchServe runs once a minute; deploy/test_system_metrics.py says
    what it tells."""
    url = f"http://{HOST}:{server.ports.metrics}/metrics"
    live.wait(lambda: '\nMemoryUtilization{Level="Host"' in requests.get(url, timeout=30).text, 90)


def test_requests_images_and_times_are_counted(server: Server) -> None:
    first = live.post(server, {"seed": 1})
    before = settled(server, first)
    # All are there from the start: Prometheus sees no increase in a series that begins with 1.
    outcomes = [(200, "none"), (304, "none"), *((kind.status, kind.slug) for kind in Kind)]
    expected = {f'dcgan_requests_total|Status="{s}"|Kind="{k}"' for s, k in outcomes}
    assert {name for name in before if name.startswith("dcgan_requests_total")} == expected
    live.post(server, {"seed": 1, "num_images": 7})
    after = settled(server, live.post(server, {"sede": 1}))
    gained = {name: after[name] - before[name] for name in after}
    assert gained['dcgan_requests_total|Status="200"|Kind="none"'] == 1
    assert gained['dcgan_requests_total|Status="400"|Kind="unknown-field"'] == 1
    assert gained["dcgan_images_total"] == 7
    assert gained["dcgan_batch_fill_ratio_count"] == 2
    assert gained["dcgan_batch_fill_ratio_sum"] == pytest.approx(2 / 32)
    assert gained["dcgan_batch_images_ratio_sum"] == pytest.approx(7 / 64, abs=1e-6)
    for part in ("latents", "forward", "encode"):
        assert gained[f"dcgan_{part}_seconds_sum"] > 0
    backend = first.headers["X-Backend"]
    assert after[f'dcgan_backend_info|Backend="{backend}"|Device="cpu"|Warnings="none"'] == 1
