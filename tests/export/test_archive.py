"""The archive: layout, and the same bytes from the same inputs."""

import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deploy.server import ROOT
from export.__main__ import main
from export.archive import read_directions, weights_of
from handler.latents import from_seeds
from handler.settings import Directions
from tests.export.conftest import Export, save_directions
from training.lab import directions as training_directions


def test_two_exports_are_equal_on_every_processor(
    run_export: Export, exported: Path, tmp_path: Path
) -> None:
    older = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    again = run_export(tmp_path, **older)
    archive = exported / "dcgan.mar"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == again["sha256"]


def test_an_export_is_complete(exported: Path) -> None:
    with zipfile.ZipFile(exported / "dcgan.mar") as opened:
        names = set(opened.namelist())
        manifest = json.loads(opened.read("MAR-INF/MANIFEST.json"))
        card = json.loads(opened.read("card.json"))
    assert {"generator.pt", "generator.onnx", "model-config.yaml"} <= names
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "handler").rglob("*.py")}
    # What writes the contract down serves nobody, and needs more than a server has.
    assert {name for name in names if re.fullmatch(r"handler/.*\.py", name)} == modules - {
        "handler/openapi.py"
    }
    assert manifest["model"]["handler"] in names
    assert card["nz"] == 6
    assert "parity" not in card  # measured: it is beside the archive
    parity = json.loads((exported / "parity.json").read_text())
    batches = {(p["artefact"], p["batch"]) for p in parity["measured"]}
    quality = {q["precision"]: q for q in parity["other_arithmetic"]}
    assert set(quality) == {"float32", "bfloat16", "float16"}
    assert quality["float32"]["network"] == "packed"
    assert quality["float32"]["max_grey_levels"] <= 1
    assert quality["bfloat16"]["max_grey_levels"] < 32
    assert batches == {(a, b) for a in ("torchscript", "onnx") for b in (1, 2, 5, 64)}


def test_backend_workers_and_directions_can_be_chosen_at_export(
    weights: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "dcgan.mar", "w") as before:
        before.writestr("card.json", '{"weights_sha256": "0"}')
    own = save_directions(tmp_path / "any.safetensors", weights)
    flags = f"--weights {weights} --out {tmp_path} --backend onnx --workers 3 --directions {own}"
    assert main(flags.split()) == 0
    assert "dcgan.mar is of other weights, and replaced" in capsys.readouterr().err
    configs = []
    for folder in (exported, tmp_path):
        with zipfile.ZipFile(folder / "dcgan.mar") as opened:
            configs.append(yaml.safe_load(opened.read("model-config.yaml")))
            assert "handler/model-config.yaml" not in opened.namelist()
    assert configs[0]["handler"]["backend"] == "auto"
    configs[0]["handler"]["backend"] = "onnx"
    configs[0] |= {"minWorkers": 3, "maxWorkers": 3}
    assert configs[1] == configs[0]
    with zipfile.ZipFile(tmp_path / "dcgan.mar") as opened:
        opened.extract("directions.json", tmp_path)
    found = Directions.read(tmp_path, 6)
    assert found.describe()["age"] == {"kind": "learned", "range": (-3, 3.5), "success": 0.9}
    assert found.steps["glasses"].tolist() == (np.arange(6, dtype="f4") / 7).tolist()


def test_the_weights_of_an_archive_are_known(weights: Path, exported: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights_of(exported / "dcgan.mar") == digest
    assert weights_of(weights) is None
    assert weights_of(exported / "none.mar") is None


def test_directions_are_the_same_text_from_the_same_file(weights: Path, tmp_path: Path) -> None:
    path = save_directions(tmp_path / "directions.safetensors", weights)
    text = read_directions(path, weights, 6)
    save_directions(path, weights)
    assert read_directions(path, weights, 6) == text
    assert list(json.loads(text)) == ["age", "glasses"]


def test_what_the_training_writes_can_be_packed(weights: Path, tmp_path: Path) -> None:
    step = from_seeds([1], 6)[0]
    path = tmp_path / "directions.safetensors"
    training_directions.save_directions(
        path, weights, {"hat": training_directions.Direction("learned", step, {"success": 0.5})}
    )
    found = Directions.parse(read_directions(path, weights, 6), 6)
    assert found.steps["hat"].tolist() == step.tolist()
    assert found.named["hat"].range == training_directions.RANGES["learned"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "2"}, "its format is not dcgan-directions-1"),
        ({"directions": "{}"}, "not one float32 tensor a direction"),
        ({"directions": "[]"}, "is no directions.safetensors"),
        ({"directions": '{"age": {}, "glasses": {}}'}, "Field required"),
        ({"steps": {"age": np.ones(6), "glasses": np.ones(6)}}, "not one float32 tensor"),
        ({"steps": {"age": np.ones(5, "f4"), "glasses": np.ones(5, "f4")}}, "has 5 numbers, not 6"),
        ({"weights_sha256": "0"}, "of other weights than"),
    ],
)
def test_directions_that_cannot_be_packed(
    weights: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = save_directions(tmp_path / "directions.safetensors", weights, **changes)
    with pytest.raises(ValueError, match=words):
        read_directions(path, weights, 6)
