"""``python -m benchmarks.load``, as a user runs it; and on planted values what it calls a knee."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from PIL import Image

from benchmarks import engine, load
from benchmarks.load import find_knee
from deploy.server import ROOT
from tests.support.planted import after, planted, say, slow_asks

Captured = pytest.CaptureFixture[str]


def measured(url: str, folder: Path, flags: str) -> Any:
    out = folder / "out.json"
    assert load.main(shlex.split(f"--url {url} --warmup-s 0 -o {out} {flags}")) == 0
    return json.loads(out.read_text())


def test_one_rate(tmp_path: Path) -> None:
    with planted(after(0)) as url:
        flags = f"--rate 50 --duration-s 1 --report {tmp_path}/curve.png"
        result = measured(url, tmp_path, f"--arrivals constant {flags}")
    (point,) = result["points"]
    assert point["arrivals"] == point["outcomes"]["2xx"] == 50
    assert point["offered_per_s"] == 50
    assert 45 < point["throughput_per_s"] <= 51
    assert point["images_per_s"] == pytest.approx(point["throughput_per_s"])
    assert 0 < point["client_cores"] < 1.5
    latency = point["latency_ms"]
    assert latency["samples"] == 50
    assert latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"]
    decoded = HdrHistogram.decode(point["histogram"])
    assert decoded.get_total_count() == 50
    assert decoded.get_max_value() / 1000 == pytest.approx(latency["max"])
    assert "gpus" in point
    assert result["knee"] is None
    assert result["stopped"] == "all rates measured"
    assert result["command"].startswith("python -m benchmarks.load --url http://127.0.0.1:")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 500


def test_a_sweep_finds_what_a_server_can_do_and_goes_on_a_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_BEYOND", 1)
    monkeypatch.setattr(load, "_P99_FACTOR", 1000)
    monkeypatch.setattr(engine, "LATE_S", 0.5)
    one_at_a_time = threading.Lock()

    def slow(handler: BaseHTTPRequestHandler, _: int) -> None:
        with one_at_a_time:
            time.sleep(0.02)  # at most 50/s
        say(handler, 200)

    with planted(slow) as url:
        sweep = "--start-rate 10 --growth 2.5"
        result = measured(url, tmp_path, f"{sweep} --duration-s 1 --arrivals constant")
    assert [point["rate_per_s"] for point in result["points"]] == [10, 25, 62.5, 156.25]
    assert result["knee"]["index"] == 2
    assert 20 < result["knee"]["sustained_per_s"] <= 26
    assert result["stopped"] == "knee found"
    assert 25 < result["points"][3]["throughput_per_s"] < 52


def test_a_body_from_a_file_and_headers_arrive(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str]] = []

    def look(handler: BaseHTTPRequestHandler, _: int) -> None:
        names = ("Content-Type", "Content-Length", "X-API-Key")
        seen.append(tuple(str(handler.headers[name]) for name in names))  # type: ignore[arg-type]
        say(handler, 200)

    body = tmp_path / "noise.bin"
    body.write_bytes(bytes(400))
    with planted(look) as url:
        sent = f"--body @{body} --content-type application/octet-stream"
        header = "--header 'X-API-Key: secret'"
        result = measured(url, tmp_path, f"--rate 20 --duration-s 0.5 {sent} {header}")
    assert set(seen) == {("application/octet-stream", "400", "secret")}
    assert result["work"] == "body"


def test_a_seed_gives_the_same_arrivals(tmp_path: Path) -> None:
    flags = "--rate 20 40 --duration-s 0.5 --seed 3"
    with planted(after(0)) as url:
        first, again = (measured(url, tmp_path, flags) for _ in range(2))
    counts = [[point["arrivals"] for point in result["points"]] for result in (first, again)]
    assert counts[0] == counts[1]
    assert len(counts[0]) == 2


def test_a_sweep_ends_where_the_client_can_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "asks", lambda *_: slow_asks())
    monkeypatch.setattr(engine, "LATE_S", 0.2)
    with planted(after(0)) as url:
        sweep = "--start-rate 5 --growth 20 --duration-s 0.5 --arrivals constant"
        result = measured(url, tmp_path, f"{sweep} --report {tmp_path}/curve.png")
    assert [point["client_saturated"] for point in result["points"]] == [False, True]
    assert result["knee"] is None  # it would be the client's
    assert "client is saturated" in result["stopped"]
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_metrics_of_the_server_are_subtracted(tmp_path: Path) -> None:
    requests = itertools.count(100)

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        next(requests)
        say(handler, 200)

    def metrics() -> str:
        return (
            f'# TYPE r counter\nr{{a="b"}} {next(requests)}\n# TYPE same gauge\nsame 5\nnone NaN\n'
        )

    with planted(answer, get=metrics) as url:
        flags = f"--rate 20 --duration-s 0.5 --arrivals constant --metrics-url {url}"
        result = measured(url, tmp_path, flags)
    assert result["points"][0]["metrics"] == {'r_total{"a": "b"}': 11.0}  # and the reading


@pytest.mark.parametrize("text", ["no metrics at all", "a{ 1"])
def test_metrics_that_cannot_be_read_are_an_error(text: str, capsys: Captured) -> None:
    with planted(after(0), get=lambda: text) as url:
        arguments = ["--url", url, "--rate", "5", "--duration-s", "0.5", "--warmup-s", "0"]
        assert load.main([*arguments, "--metrics-url", url]) == 1
    assert f"metrics_url: cannot read {url}" in capsys.readouterr().err


def test_nothing_answered_2xx_is_a_failure(capsys: Captured) -> None:
    with planted(lambda handler, _: say(handler, 400)) as url:
        code = load.main(["--url", url, "--rate", "20", "--duration-s", "0.5", "--warmup-s", "0"])
    assert code == 1
    printed = capsys.readouterr()
    outcomes = json.loads(printed.out)["points"][0]["outcomes"]
    assert outcomes["4xx"] == sum(outcomes.values()) > 0
    assert "no request was answered 2xx" in printed.err


def test_no_server_is_a_failure(capsys: Captured) -> None:
    assert load.main(["--url", "http://127.0.0.1:1/predictions/dcgan"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "does not answer" in printed.err
    assert "make serve" in printed.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--rate", "0"], "rate: seen 0"),
        (["--rate", "nan"], "rate: seen nan"),
        (["--rate", "10", "5"], "ascending"),
        (["--duration-s", "1e9"], "duration_s: seen 1e+09"),
        (["--connections", "0"], "connections: seen 0"),
        (["--body", "@/no/such/file"], "No such file"),
        (["--url", "https://127.0.0.1/"], "http://host:port/path"),
        (["--url", "http://127.0.0.1:99999/"], "ort"),
        (["--header", "nonsense"], "header: seen 'nonsense'"),
        (["--header", "a: b\r\nc: d"], "header: seen"),
        (["-o", "/no/such/folder/out.json"], "folder that exists"),
        (["--growth", "1"], "growth: seen 1"),
        (["--rate", "5", "--arrivals", "saturate"], "rate: busy connections have none"),
    ],
)
def test_bad_usage(arguments: list[str], told: str, capsys: Captured) -> None:
    assert load.main(arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("module", ["load", "compare", "soak"])
def test_nobody_reads_stdout_any_more(module: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", f"benchmarks.{module}", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=theirs, stderr=subprocess.PIPE, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path, by: signal.Signals) -> None:
    out = tmp_path / "out.json"
    with planted(after(0)) as url:
        flags = f"--url {url} --rate 20 21 --duration-s 1 --warmup-s 0 -o {out}"
        command = [sys.executable, "-m", "benchmarks.load", *flags.split()]
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert process.stderr.readline() == "20/s for 1 s\n"
        assert process.stderr.readline().startswith("20/s: ")
        time.sleep(0.3)
        process.send_signal(by)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    result = json.loads(out.read_text())
    assert result["stopped"] == "interrupted"
    assert [point["rate_per_s"] for point in result["points"]] == [20]


def test_the_most_that_a_server_does(tmp_path: Path) -> None:
    with planted(after(0.1)) as url:
        flags = "--arrivals saturate --connections 4 --duration-s"
        result = measured(url, tmp_path, f"{flags} 1 --report {tmp_path}/curve.png")
    (point,) = result["points"]
    assert point["rate_per_s"] is None
    assert 10 < point["throughput_per_s"] <= 41
    assert point["connections"] == 4
    assert result["knee"] is None
    assert (tmp_path / "curve.png").stat().st_size > 10_000


@pytest.mark.parametrize("end", ["", "/"])
def test_an_address_alone_is_enough(
    tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a slash or not, and whatever proxy the environment names."""
    paths: list[str] = []

    def look(handler: BaseHTTPRequestHandler, _: int) -> None:
        paths.append(handler.path)
        say(handler, 200)

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with planted(look) as url:
        base = url.removesuffix("/predictions/dcgan") + end
        measured(base, tmp_path, "--rate 20 --duration-s 0.2 --arrivals constant")
    assert set(paths) == {"/predictions/dcgan"}


def made(
    rate_per_s: float, throughput_per_s: float, p99_ms: float | None, errors: int = 0
) -> dict[str, Any]:
    """What is looked at of a point of the curve."""
    return {
        "rate_per_s": rate_per_s, "offered_per_s": rate_per_s, "throughput_per_s": throughput_per_s,
        "arrivals": 1000, "outcomes": {"2xx": 1000 - errors},
        "latency_ms": None if p99_ms is None else {"p99": p99_ms},
    }  # fmt: skip


TOO_LITTLE = [made(10, 10, 5), made(20, 19.2, 6), made(40, 37.9, 7), made(80, 38, 8)]
TOO_LATE = [made(10, 10, 5), made(20, 20, 25), made(40, 40, 25.1)]


@pytest.mark.parametrize(
    ("points", "index", "reasons"),
    [
        (TOO_LITTLE, 2, ["throughput 37.9/s"]),
        (TOO_LATE, 2, ["p99 25.1 ms"]),
        ([made(10, 10, 5), made(20, 19.9, 5, errors=1), made(40, 40, 5)], 1, ["1 requests"]),
        (
            [made(10, 10, 5), made(20, 10, 500, errors=7)],
            1,
            ["throughput 10.0/s", "p99 500.0 ms", "7 requests"],
        ),
        ([made(10, 4, None, errors=6)], 0, ["throughput 4.0/s", "6 requests"]),
    ],
)
def test_the_first_rate_that_is_too_much_and_why(
    points: list[Any], index: int, reasons: list[str]
) -> None:
    knee = find_knee(points)
    assert knee is not None
    assert (knee.index, knee.rate_per_s) == (index, points[index]["rate_per_s"])
    assert knee.sustained_per_s == (points[index - 1]["throughput_per_s"] if index else None)
    assert len(knee.reasons) == len(reasons)
    assert all(map(str.startswith, knee.reasons, reasons))


@pytest.mark.parametrize(
    "points",
    [
        [made(rate, rate * 0.97, 10.0 + rate / 100) for rate in (10, 100, 1000)],
        [made(0.0, 0.0, None)] * 2,  # neither arrivals nor latencies
        [],
    ],
)
def test_none_while_every_rate_is_carried(points: list[Any]) -> None:
    assert find_knee(points) is None
