"""Lines of the worker's log, and what of TorchServe's own lines is kept."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from deploy.server import ROOT
from handler.logs import JsonFormatter

HOSTILE = 'x"}\r\n[METRICS]evil.Count:1|#type:COUNTER\n[PID]1\u2028\x1b[31m\x00\ud800\u00e9'


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("handler.x", logging.WARNING, "x.py", 1, message, (), None)
    made.__dict__.update(extra)
    return made


@pytest.mark.parametrize("place", ["message", "field"])
def test_whatever_a_client_sends_is_one_line_of_ascii(place: str) -> None:
    line = JsonFormatter().format(
        record(HOSTILE) if place == "message" else record("m", fields={"client_id": HOSTILE})
    )
    assert line.isascii()
    assert line.isprintable()  # no line break, no escape sequence, no NUL
    assert json.loads(line)["message" if place == "message" else "client_id"] == HOSTILE


def test_what_a_line_holds() -> None:
    made = record("m", fields={"status": 200})
    made.created, made.msecs = 1_700_000_000.25, 250.0
    assert json.loads(JsonFormatter().format(made)) == {
        "time": "2023-11-14T22:13:20.250Z", "level": "warn", "logger": "handler.x",
        "message": "m", "status": 200,
    }  # fmt: skip


def test_a_traceback_stays_on_the_line() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        made = record("m", exc_info=sys.exc_info())
    line = JsonFormatter().format(made)
    assert line.isprintable()
    assert HOSTILE in json.loads(line)["error"]


WORKER = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)  # TorchServe
from handler import logs
logs.configure()
logging.info("[PID]%d", 7)
logging.info("Backend received inference at: %d", 1)
logging.warning("Failed json decoding of input data. Forwarding encoded payload", exc_info=True)
for level in ("debug", "info", "warning", "error"):
    getattr(logging.getLogger("handler.service"), level)("said at %s", level)
"""


def worker(level: str) -> subprocess.CompletedProcess[str]:
    """What a worker prints. A process of its own: logging is set up once in each."""
    return subprocess.run(
        [sys.executable, "-c", WORKER], cwd=ROOT, env={"DCGAN_LOG_LEVEL": level},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


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
    first, *ours = worker(level).stdout.splitlines()
    assert first == "[PID]7"  # TorchServe reads this one
    assert [json.loads(line)["level"] for line in ours] == expected


def test_debug_keeps_torchserves_lines() -> None:
    lines = worker("debug").stdout.splitlines()
    assert "Backend received inference at: 1" in lines
    assert sum(line.startswith("{") for line in lines) == 4


def test_a_wrong_level_is_named() -> None:
    ended = worker("loud")
    assert ended.returncode != 0
    assert "DCGAN_LOG_LEVEL: seen 'loud'; allowed are debug, info" in ended.stderr
