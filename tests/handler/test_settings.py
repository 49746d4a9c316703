"""The handler block of model-config.yaml."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from handler import settings as settings_module
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
from tests.support.directions import facts
from tests.support.tiny_models import tiny_card

CONFIG = Path(__file__).parents[2] / "handler" / "model-config.yaml"
SERVERS = {"max_reply_bytes": 6_553_500, "max_body_bytes": 6_553_500}  # TorchServe 0.12's own


def test_values_are_taken_over_and_the_rest_are_the_defaults() -> None:
    settings = Settings.from_yaml({"backend": "onnx", "threads": 3, "limits": {"max_images": 9}})
    assert settings == Settings(backend="onnx", threads=3, limits=Limits(max_images=9))


def test_the_shipped_file_says_the_defaults() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    assert Settings.from_yaml(config["handler"]) == Settings()
    assert vars(Limits()).keys() - config["handler"]["limits"].keys() == SERVERS.keys()


def test_the_shipped_file_avoids_torchserve_traps() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    assert config["maxBatchDelay"] >= 1  # 0 means 100 ms
    assert config["maxWorkers"] >= config["minWorkers"] >= 1  # otherwise one a core


@pytest.mark.parametrize(
    ("properties", "environment", "reply", "body"),
    [
        ("max_response_size=20000000\nmax_request_size: 7000000\n", {}, 20_000_000, 7_000_000),
        ("# max_response_size=1\n  max_response_size = 2 \nmax_response_size=3\r\n", {}, 3, None),
        ("max_response_size=3\n", {"TS_MAX_RESPONSE_SIZE": "4"}, 3, None),
        (
            "enable_envvars_config=true\nmax_response_size=3\n",
            {"TS_MAX_RESPONSE_SIZE": "4", "TS_MAX_REQUEST_SIZE": "5"},
            4,
            5,
        ),
        ("max_response_size=$$LONGEST$$\n", {"LONGEST": "8"}, 8, None),
        ("", {}, None, None),
    ],
)
@pytest.mark.parametrize("named", ["variable", "flag", "relative"])
def test_the_limits_of_torchserve_are_read(
    properties: str,
    environment: dict[str, str],
    reply: int | None,
    body: int | None,
    named: str,
    tmp_path: Path,
) -> None:
    java = tmp_path / "java"
    (java / "cwd").mkdir(parents=True)
    file = java / "cwd" / "config.properties"
    file.write_bytes(properties.encode())
    words = ["java", "-cp", "x", "org.pytorch.serve.ModelServer", "-f", str(file), "-ncs", ""]
    if named == "variable":
        words, environment = ["java", ""], {**environment, "TS_CONFIG_FILE": str(file)}
    elif named == "relative":
        words[5] = file.name
    (java / "cmdline").write_text("\0".join(words))
    own = {"max_reply_bytes": reply, "max_body_bytes": body}
    expected = SERVERS | {name: value for name, value in own.items() if value is not None}
    assert server_limits(environment, java) == expected


def test_without_settings_torchserve_has_its_own_limits(tmp_path: Path) -> None:
    assert server_limits({}, tmp_path) == SERVERS  # no process there
    assert server_limits({"TS_CONFIG_FILE": str(tmp_path / "gone")}, tmp_path) == SERVERS
    (tmp_path / "cmdline").write_text("java\0-f")
    assert server_limits({}, tmp_path) == SERVERS


def test_the_limits_follow_torchserve_and_a_setting_narrows_them() -> None:
    server = {"max_reply_bytes": 900, "max_body_bytes": 9_000_000}
    assert Limits().within(server) == Limits(**server)
    own = Limits(max_reply_bytes=1_000, max_body_bytes=70, max_images=3)
    assert own.within(server) == Limits(max_reply_bytes=900, max_body_bytes=70, max_images=3)


@pytest.mark.parametrize(
    ("held", "image_s", "max_images", "max_batch_images"),
    [
        (300, 0.0, 256, 64),
        (300, 0.001, 256, 64),
        (300, 0.1, 150, 30),  # half the time of a batch, and a tenth
        (22, 0.06, 22, 50),
        (22, 100.0, 1, 1),
    ],
)
def test_limits_follow_what_a_reply_holds_and_the_speed(
    held: int, image_s: float, max_images: int, max_batch_images: int
) -> None:
    lowered = Limits().lowered(held, Pace(30.0, image_s))
    assert (lowered.max_images, lowered.max_batch_images) == (max_images, max_batch_images)


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        ({"responseTimeout": 60}, 30), ({"responseTimeout": 3}, 1.5),
        # What TorchServe takes for no number of its own: its default of 120 s.
        ({}, 60), ({"responseTimeout": "60"}, 60), ({"responseTimeout": 0}, 60),
        ({"responseTimeout": True}, 60),
    ],
)  # fmt: skip
def test_a_batch_has_half_the_time_of_torchserve(config: dict[str, Any], seconds: float) -> None:
    assert batch_seconds(config) == seconds


def test_the_shipped_time_is_the_default() -> None:
    assert batch_seconds(yaml.safe_load(CONFIG.read_text())) == Pace().batch_s


@pytest.mark.parametrize(
    ("threads", "config", "share"),
    [
        (0, {}, 8), (0, {"maxWorkers": 1}, 8), (0, {"maxWorkers": 3}, 2),
        (0, {"maxWorkers": 99}, 1), (5, {"maxWorkers": 4}, 5),
        (0, {"maxWorkers": "4"}, 8), (0, {"maxWorkers": 0}, 8),
    ],
)  # fmt: skip
def test_workers_share_the_processors(
    threads: int, config: dict[str, Any], share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "processors", lambda: 8)
    assert Settings(threads=threads).shared(config).threads == share


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"backnd": "onnx"}, "backnd.*backend"),
        ({"backend": "tensorrt"}, "tensorrt.*torchscript.*onnx"),
        ({"threads": 1.0}, "threads is 1.0: .*integer"),
        ({"threads": -1}, "threads is -1: .*or equal to 0"),
        ({"allow_cpu_fallback": 1}, "allow_cpu_fallback is 1: .*boolean"),
        ({"limits": 5}, "limits is 5: .*dictionary"),
        ({"limits": {"max_padding": 1}}, "limits.max_padding;.*limits.max_padding_px"),
        ({"limits": {"max_images": True}}, "limits.max_images is true: .*integer"),
        ({"limits": {"max_images": 0}}, "limits.max_images is 0: .*or equal to 1"),
        ([1], "dictionary"),
    ],
)
def test_a_wrong_setting_is_named(block: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings.from_yaml(block)


@pytest.mark.parametrize(
    "change",
    [
        {"nz": None},
        {"nz": 0},
        {"nz": "8"},
        {"channels": 4},
        {"version": "1\r\n2"},
        {"version": "\u00e9"},
    ],
)
def test_a_card_that_cannot_be_used(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / "card.json").write_text(json.dumps(tiny_card().model_dump() | change))
    with pytest.raises(RuntimeError, match=rf"card\.json.* {next(iter(change))} is "):
        Card.read(tmp_path)


def test_a_card_without_a_field(tmp_path: Path) -> None:
    facts = tiny_card().model_dump()
    del facts["nz"]
    (tmp_path / "card.json").write_text(json.dumps(facts))
    with pytest.raises(RuntimeError, match=r"card\.json.* nz is missing$"):
        Card.read(tmp_path)


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
def test_a_card_that_is_none(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "card.json").write_text(text)
    with pytest.raises(RuntimeError, match=r"card\.json"):
        Card.read(tmp_path)


def test_directions_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    assert Directions.read(tmp_path, 4) is NO_DIRECTIONS
    (tmp_path / "directions.json").write_text(json.dumps(facts(4)))
    found = Directions.read(tmp_path, 4)
    assert list(found.named) == list(found.steps) == ["copy", "far", "glasses"]
    assert found.steps["copy"].tolist() == [0, 0, 0, float(np.float32(0.7))]
    assert found.describe()["glasses"] == {"range": (-3, 3), "kind": "learned", "success": 0.9}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("", "JSON"),
        ([], "object"),
        ({"Glasses": {}}, "pattern"),
        ({"a\n": {}}, "pattern"),
        ({f"a{i}": facts(4)["copy"] for i in range(65)}, "64 items"),
        ({"a": {}}, "a.step: Field required"),
        ({"a": facts(5)["copy"]}, "a.step has 5 numbers, not 4"),
        ({"a": facts(4)["copy"] | {"step": [0, 0, 0, 1e39]}}, "a.step.3: .*less than"),
        ({"a": facts(4)["copy"] | {"step": [0, 0, 0, float("nan")]}}, "a.step.3: .*finite"),
        ({"a": facts(4)["copy"] | {"range": [1, 1]}}, "a.range is .*must be less"),
        ({"a": facts(4)["copy"] | {"range": [1]}}, "a.range"),
        ({"a": facts(4)["copy"] | {"kind": "guessed"}}, "a.kind"),
    ],
)
def test_broken_directions_are_named_in_one_sentence(
    tmp_path: Path, wrong: object, words: str
) -> None:
    (tmp_path / "directions.json").write_text(wrong if wrong == "" else json.dumps(wrong))
    with pytest.raises(RuntimeError, match=rf"directions\.json of the archive: .*{words}"):
        Directions.read(tmp_path, 4)
