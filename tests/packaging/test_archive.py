"""The exported files and the archive: parity, layout, the same bytes from the same inputs."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from export.__main__ import main
from training.networks import new_generator
from training.weights import save_generator

pytestmark = pytest.mark.packaging


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
    save_generator(path, new_generator(6, 2, 3, 32).eval(), {"steps": 0})
    return path


def run_export(weights: Path, out: Path, *flags: str) -> dict[str, Any]:
    """As a command: within one process TorchScript numbers its classes on and on."""
    command = [sys.executable, "-m", "export", "--weights", str(weights), "--out", str(out)]
    command += flags
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_two_exports_are_equal_and_complete(weights: Path, tmp_path: Path) -> None:
    first, again = (run_export(weights, tmp_path / name) for name in ("a", "b"))
    assert first["sha256"] == again["sha256"]
    archive = tmp_path / "a" / "dcgan.mar"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == first["sha256"]
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        manifest = json.loads(opened.read("MAR-INF/MANIFEST.json"))
        card = json.loads(opened.read("card.json"))
    assert {"handler/service.py", "generator.pt", "generator.onnx", "model-config.yaml"} <= names
    assert manifest["model"]["handler"] in names
    assert card["nz"] == 6
    batches = {(p["artefact"], p["batch"]) for p in card["parity"]["measured"]}
    quality = {q["precision"]: q for q in card["parity"]["other_arithmetic"]}
    assert set(quality) == {"float32", "bfloat16", "float16"}
    assert quality["float32"]["network"] == "packed"
    assert quality["float32"]["max_grey_levels"] <= 1
    assert quality["bfloat16"]["max_grey_levels"] < 32
    assert batches == {(a, b) for a in ("torchscript", "onnx") for b in (1, 2, 5, 64)}


def test_the_backend_can_be_chosen_at_export(weights: Path, tmp_path: Path) -> None:
    run_export(weights, tmp_path / "a")
    run_export(weights, tmp_path / "b", "--backend", "onnx")
    configs = []
    for name in ("a", "b"):
        with zipfile.ZipFile(tmp_path / name / "dcgan.mar") as opened:
            configs.append(yaml.safe_load(opened.read("model-config.yaml")))
            assert "handler/model-config.yaml" not in opened.namelist()
    assert configs[0]["handler"]["backend"] == "auto"
    configs[0]["handler"]["backend"] = "onnx"
    assert configs[1] == configs[0]


def test_a_wrong_file_exits_2_and_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "script.pt")
    code = main(["--weights", str(tmp_path / "script.pt"), "--out", str(tmp_path)])
    assert code == 2
    assert "a TorchScript file" in capsys.readouterr().err
    assert not (tmp_path / "dcgan.mar").exists()
