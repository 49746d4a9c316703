"""Lines of the log; batch reports in TorchServe's own metrics cache, and as its front end
reads them.
"""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.metrics.metric_type_enum import MetricTypes

from deploy.server import ROOT
from handler.errors import Kind
from handler.telemetry import (
    BatchReport,
    JsonFormatter,
    RequestReport,
    TorchServeMetrics,
    log_requests,
)

CONFIG = ROOT / "handler" / "metrics.yaml"
REPORT = BatchReport(
    (
        RequestReport("a", "trace-1", 200, "none", 4, 3000),
        RequestReport("b", "", 200, "none", 1, 1000),
        RequestReport("c", "", 400, "invalid-field", 0, 200, "seed"),
    ),
    1e-5,
    0.25,
    0.5,
)
CACHE = MetricsCacheYamlImpl(str(CONFIG))
CACHE.initialize_cache()
# What TorchServe 0.12 takes for a metric; another line is only a line of the log.
LINE = re.compile(
    r"\[METRICS\]([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)\|#type:(\w+)\|#hostname:.+"
)


def worker(name: str, device: str, *warned: str) -> Any:
    return SimpleNamespace(name=name, device=device, warnings=dict.fromkeys(warned, "why"))


def emitted(caplog: pytest.LogCaptureFixture) -> dict[str, list[tuple[str, str, str]]]:
    """The metrics of the only write since the last call, by name."""
    (record,) = caplog.records
    caplog.clear()
    found: dict[str, list[tuple[str, str, str]]] = {}
    for text in record.getMessage().split("\n"):
        line = LINE.fullmatch(text)
        assert line, text
        name, unit, value, dimensions, kind = line.groups()
        # As metrics.yaml declares it; TorchServe drops any other.
        declared = CACHE.get_metric(name, MetricTypes(kind.lower()))
        assert declared.unit == unit
        assert declared.dimension_names == [pair.split(":")[0] for pair in dimensions.split(",")]
        found.setdefault(name, []).append((value, dimensions, kind))
    return found


def test_each_line_is_declared_and_readable(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    observe = TorchServeMetrics("dcgan", 32, 64, worker("onnx", "cpu", "fallback"))
    caplog.clear()
    observe(REPORT)
    lines = emitted(caplog)
    common = "ModelName:dcgan,Level:Model"
    assert lines["dcgan_requests_total"] == [
        ("2", f"Status:200,Kind:none,{common}", "COUNTER"),
        ("1", f"Status:400,Kind:invalid-field,{common}", "COUNTER"),
    ]
    assert lines["dcgan_images_total"] == [("5", common, "COUNTER")]
    assert lines["dcgan_batch_fill_ratio"] == [("0.09375", common, "HISTOGRAM")]
    assert lines["dcgan_batch_images_ratio"] == [("0.078125", common, "HISTOGRAM")]
    assert lines["dcgan_forward_seconds"] == [("0.25", common, "HISTOGRAM")]
    assert lines["dcgan_encode_seconds"] == [("0.5", common, "HISTOGRAM")]
    assert float(lines["dcgan_latents_seconds"][0][0]) == 1e-5


def test_every_series_starts_with_0_before_the_first_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once a start, in the same series as what is counted later: Prometheus' increase() sees 1."""
    caplog.set_level(logging.INFO)
    observe = TorchServeMetrics("dcgan", 32, 64, worker("onnx", "cpu", "graphs", "precision"))
    common = "ModelName:dcgan,Level:Model"
    outcomes = [(200, "none"), (304, "none"), *((kind.status, kind.slug) for kind in Kind)]
    info = f"Backend:onnx,Device:cpu,Warnings:graphs_precision,{common}"
    assert emitted(caplog) == {
        "dcgan_requests_total": [
            ("0", f"Status:{status},Kind:{kind},{common}", "COUNTER") for status, kind in outcomes
        ],
        "dcgan_images_total": [("0", common, "COUNTER")],
        "dcgan_backend_info": [("1", info, "GAUGE")],
    }
    observe(REPORT)
    assert "0" not in {value for value, _, _ in emitted(caplog)["dcgan_requests_total"]}


def test_every_dimension_reaches_torchserve(caplog: pytest.LogCaptureFixture) -> None:
    """Its front end takes a dimension for one only if it has a single colon."""
    caplog.set_level(logging.INFO)
    TorchServeMetrics("dcgan", 32, 64, worker("torch_gpu", "cuda:1"))
    ((_, dimensions, _),) = emitted(caplog)["dcgan_backend_info"]
    assert all(pair.count(":") == 1 for pair in dimensions.split(","))
    assert "Device:cuda_1" in dimensions.split(",")


def test_a_line_is_as_torchserve_writes_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    TorchServeMetrics("dcgan", 32, 64, worker("onnx", "cpu"))
    ours = caplog.records[0].getMessage().split("\n")[-2]
    caplog.clear()
    CACHE.model_name = "dcgan"
    CACHE.set_request_ids({0: ""})
    CACHE.add_counter("dcgan_images_total", 0, idx=0)
    (record,) = caplog.records
    assert re.sub(r",\d+$", "", ours) == re.sub(r",\d+(,.*)?$", "", record.getMessage())


def test_one_line_a_request_with_the_times_of_its_batch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_requests(REPORT)
    (record,) = caplog.records  # one write for all
    lines = [json.loads(line) for line in JsonFormatter().format(record).split("\n")]
    first, _, last = lines
    assert [line["message"] for line in lines] == ["request"] * 3
    assert {name: first[name] for name in list(first)[4:]} == {
        "id": "a", "client_id": "trace-1", "status": 200, "kind": "none", "images": 4,
        "size_bytes": 3000, "field": "", "batch_requests": 3, "batch_images": 5, "latents_ms": 0.01,
        "forward_ms": 250.0, "encode_ms": 500.0,
    }  # fmt: skip
    assert (last["id"], last["kind"], last["field"]) == ("c", "invalid-field", "seed")


def test_no_line_above_level_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    log_requests(REPORT)
    assert caplog.records == []


def test_torchserves_own_metrics_are_kept() -> None:
    import ts

    default = yaml.safe_load((Path(ts.__file__).parent / "configs" / "metrics.yaml").read_text())
    ours = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    assert ours["ts_metrics"] == default["ts_metrics"]
    for metric in default["model_metrics"]["gauge"]:
        assert metric in ours["model_metrics"]["gauge"]


HOSTILE = 'x"}\r\n[METRICS]evil.Count:1|#type:COUNTER\n[PID]1\u2028\x1b[31m\x00\ud800\u00e9'


def a_record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("handler.x", logging.WARNING, "x.py", 1, message, (), None)
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize("place", ["message", "field"])
def test_whatever_a_client_sends_is_one_line_of_ascii(place: str) -> None:
    line = JsonFormatter().format(
        a_record(HOSTILE)
        if place == "message"
        else a_record("m", fields=[{"client_id": HOSTILE}], common={"a": 1})
    )
    assert line.isascii()
    assert line.isprintable()  # no line break, no escape sequence, no NUL
    assert json.loads(line)["message" if place == "message" else "client_id"] == HOSTILE


def test_what_a_line_holds() -> None:
    made = a_record("m", fields=[{"status": 200}], common={"images": 3})
    made.created, made.msecs = 1_700_000_000.25, 250.0
    assert json.loads(JsonFormatter().format(made)) == {
        "time": "2023-11-14T22:13:20.250Z", "level": "warn", "logger": "handler.x",
        "message": "m", "status": 200, "images": 3,
    }  # fmt: skip


def test_a_traceback_stays_on_the_line() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        made = a_record("m", exc_info=sys.exc_info())
    line = JsonFormatter().format(made)
    assert line.isprintable()
    assert HOSTILE in json.loads(line)["error"]


WORKER = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)  # TorchServe
from handler import telemetry
telemetry.configure_log()
logging.info("[PID]%d", 7)
logging.info("Backend received inference at: %d", 1)
for level in ("debug", "info", "warning", "error"):
    getattr(logging.getLogger("handler.service"), level)("said at %s", level)
"""


def log_of(level: str) -> subprocess.CompletedProcess[str]:
    """What a worker prints. A process of its own: logging is set up once in each."""
    return subprocess.run(
        [sys.executable, "-c", WORKER],
        cwd=ROOT,
        env={"DCGAN_LOG_LEVEL": level},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("", ["info", "warn", "error"]),
        ("info", ["info", "warn", "error"]),
        ("warn", ["warn", "error"]),
        ("error", ["error"]),
        ("off", []),
    ],
)
def test_levels(level: str, expected: list[str]) -> None:
    first, *ours = log_of(level).stdout.splitlines()
    assert first == "[PID]7"  # TorchServe reads this one
    assert [json.loads(line)["level"] for line in ours] == expected


def test_debug_keeps_torchserves_lines() -> None:
    lines = log_of("debug").stdout.splitlines()
    assert "Backend received inference at: 1" in lines
    assert sum(line.startswith("{") for line in lines) == 4


def test_a_wrong_level_is_named() -> None:
    ended = log_of("loud")
    assert ended.returncode != 0
    assert "DCGAN_LOG_LEVEL: seen 'loud'; allowed are debug, info" in ended.stderr
