"""What ``python -m benchmarks.compare serving`` prints, and the documents that show it."""

from __future__ import annotations

import json
import re
from statistics import median
from typing import Any

import pytest

from benchmarks.tables import tables
from deploy.server import ROOT


def lines_of(text: str) -> list[str]:
    """Of Markdown, without the spaces that line up its columns."""
    return [re.sub(" +", " ", line) for line in text.splitlines()]


def turn(images_per_s: float, failed: int = 0) -> dict[str, Any]:
    requests = int(images_per_s)
    return {
        "load": {"images_per_s": images_per_s, "requests": requests, "failed": failed},
        "cpu_ms_per_image": 10.0,
        "memory": {"worker_peak_mb": 400.0 + images_per_s, "private_mb": 600.0},
    }


def pooled(turns: list[dict[str, Any]]) -> dict[str, Any]:
    requests = sum(turn["load"]["requests"] for turn in turns)
    return {
        "requests": requests,
        "p50_ms": 7.5 if requests else None,
        "p99_ms": 15.0 if requests else None,
    }


def result(**turns: list[dict[str, Any]]) -> dict[str, Any]:
    titles = {"litserve": "LitServe", "triton": "Triton"}
    return {
        "servers": {name: {"title": titles.get(name, name), "ready_s": 3.25} for name in turns},
        "left_out": {"BentoML": "cannot be set up: no network"},
        "rows": [
            {
                "work": {"name": "1 image, 8 connections"},
                "limit_images_per_s": [400.0, 400.0],
                "latency": {name: pooled(of) for name, of in turns.items()},
                "turns": turns,
            }
        ],
    }


def test_every_figure_stands_where_it_belongs() -> None:
    text = tables(
        result(
            ours=[turn(200), turn(100)],
            stock=[turn(100), turn(50)],
            litserve=[turn(25), turn(20)],
            triton=[turn(40), turn(50)],
        )
    )
    lines = lines_of(text)
    assert (
        "| 1 image, 8 connections | 150 (100 to 200) | 75 (50 to 100) | 22 (20 to 25) "
        "| 45 (40 to 50) | 400 (400 to 400) |"
    ) in lines
    # Round by round: 200 by 40 and 100 by 50, and not the quotient of medians.
    assert (
        "| 1 image, 8 connections | 2.00 (2.00 to 2.00) | 3.50 (2.00 to 5.00) Triton "
        "| 0.38 (0.25 to 0.50) |"
    ) in lines
    # Fewer than 200 requests have no 99th percentile.
    assert "| 1 image, 8 connections | 7.5 / 15.0 | 7.5 / - | 7.5 / - | 7.5 / - |" in lines
    assert "| ours | 3.2 | 600 | 600 |" in lines
    assert "BentoML is left out: cannot be set up: no network" in lines
    assert "failed" not in text


def test_without_the_network_the_other_is_the_blank_one() -> None:
    found = result(ours=[turn(60)], blank=[turn(100)])
    assert "| work | ours / blank | ours / ceiling |" in lines_of(tables(found))
    assert "| 1 image, 8 connections | 0.60 (0.60 to 0.60) | 0.15 (0.15 to 0.15) |" in lines_of(
        tables(found)
    )


def test_failed_requests_are_told() -> None:
    text = tables(result(ours=[turn(100), turn(100)], stock=[turn(50, failed=3), turn(50)]))
    assert text.endswith("stock, 1 image, 8 connections: 3 of 103 requests failed")
    assert "best peer" not in text


def test_a_server_that_gave_nothing_has_no_figures() -> None:
    text = tables(result(ours=[turn(100)], stock=[turn(50)], litserve=[], triton=[turn(0, 9)]))
    assert "| 1 image, 8 connections | 7.5 / - | 7.5 / - | - | - |" in lines_of(text)
    assert "Triton, 1 image, 8 connections: 9 of 9 requests failed" in text


README_ROWS = {
    "1 image, 1 connection": "single images, 1 connection",
    "1 image, 64 connections": "single images, 64 connections",
    "64-image grid, 8 connections": "64-image grids, 8 connections",
}


def rounded(ms: float) -> str:
    return f"{ms:.1f}" if ms < 10 else f"{ms:.0f}"


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_the_documents_show_the_measurement(precision: str) -> None:
    """Of each row the medians, in all tables that show it."""
    text = (ROOT / "docs" / f"serving-{precision}.json").read_text(encoding="utf-8")
    measured = json.loads(text)
    assert measured["precision"] == precision
    performance, readme, scale = (
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("docs/performance.md", "README.md", "docs/operations/scale.md")
    )
    for row in measured["rows"]:
        name, limit = row["work"]["name"], row["limit_images_per_s"]
        images_per_s = {
            server: [turn["load"]["images_per_s"] for turn in turns]
            for server, turns in row["turns"].items()
        }
        rates = {server: median(of) for server, of in images_per_s.items()}
        best = max(rates.keys() - {"ours", "stock"}, key=rates.__getitem__)
        cells = [
            f"{rates['ours']:.0f}",
            f"{rates['stock']:.0f}",
            f"{rates[best]:.0f} ({measured['servers'][best]['title']})",
        ]
        of_the_limit = [
            ours / most for ours, most in zip(images_per_s["ours"], limit, strict=False)
        ]
        share = f"{median(of_the_limit):.2f}" if of_the_limit else "-"
        latency = [row["latency"][server] for server in ("ours", "stock")]
        waits = [
            f"{rounded(of['p50_ms'])} / "
            + (f"{of['p99_ms']:.0f}" if of["requests"] >= 200 else "-")
            for of in latency
        ]
        assert f"| {' | '.join([name, *cells, share, *waits])} |" in performance
        if name in README_ROWS:
            p50 = [f"{of['p50_ms']:.0f}" for of in latency]
            assert f"| {' | '.join([README_ROWS[name], *cells, *p50])} |" in readme
        if name in ("1 image, 64 connections", "64-image grid, 2 connections"):
            per_s = rates["ours"] / row["work"]["num_images"][0]
            at = [1e6 / 3600 / (0.7 * per_s) * missed for missed in (1, 0.1, 0.01)]
            needed = [f"{machines:.2g}, {2 * machines:.2g}" for machines in at]
            assert f"| {precision} | {' | '.join([f'{per_s:.3g}', *needed])} |" in scale
