"""The exported files and the archive: parity, layout, the same bytes from the same inputs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml

from export.__main__ import main
from handler.backends.torchscript import load_torchscript
from training.networks import new_generator
from training.weights import save_generator


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
    save_generator(path, new_generator(6, 2, 3, 32).eval(), {"steps": 0})
    return path


def run_export(weights: Path, out: Path, *flags: str, **environment: str) -> dict[str, Any]:
    """As a command: within one process TorchScript numbers its classes on and on."""
    command = [sys.executable, "-m", "export", "--weights", str(weights), "--out", str(out)]
    command += flags
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export with its models."""
    folder = tmp_path_factory.mktemp("exported")
    run_export(weights, folder, "--keep-models")
    return folder


def test_two_exports_are_equal_on_every_processor(
    weights: Path, exported: Path, tmp_path: Path
) -> None:
    older = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    again = run_export(weights, tmp_path, **older)
    archive = exported / "dcgan.mar"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == again["sha256"]


def test_an_export_is_complete(exported: Path) -> None:
    with zipfile.ZipFile(exported / "dcgan.mar") as opened:
        names = set(opened.namelist())
        manifest = json.loads(opened.read("MAR-INF/MANIFEST.json"))
        card = json.loads(opened.read("card.json"))
    assert {"handler/service.py", "generator.pt", "generator.onnx", "model-config.yaml"} <= names
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


def test_onnx_asks_for_no_more_than_it_needs(exported: Path) -> None:
    model = onnx.load(exported / "generator.onnx")
    (opset,) = (entry.version for entry in model.opset_import)
    assert (opset, model.ir_version) == (14, 7)
    for node in model.graph.node:
        newest = onnx.defs.get_schema(node.op_type, 18)
        assert onnx.defs.get_schema(node.op_type, opset).since_version == newest.since_version


@pytest.mark.parametrize(
    ("shape", "taken"),
    [((1, 6), True), ((5, 6), True), ((4, 3), False), ((1, 12), False), ((2, 6, 2, 2), False),
     ((2, 6, 1, 1), False), ((2, 3, 2), False), ((6,), False), ((), False)],
)  # fmt: skip
def test_both_files_take_the_same_shapes(
    exported: Path, shape: tuple[int, ...], taken: bool
) -> None:
    noise = np.zeros(shape, np.float32)
    script = load_torchscript(exported / "generator.pt", "cpu")
    session = onnxruntime.InferenceSession(exported / "generator.onnx")
    runs: list[Callable[[], Any]] = [
        lambda: script(torch.from_numpy(noise)),
        lambda: session.run(None, {"noise": noise})[0],
    ]
    for run in runs:
        if taken:
            assert tuple(run().shape) == (len(noise), 3, 32, 32)
        else:
            with pytest.raises(Exception, match=r"(?i)dimension|channels|rank|expected"):
                run()


def test_the_backend_can_be_chosen_at_export(weights: Path, exported: Path, tmp_path: Path) -> None:
    run_export(weights, tmp_path, "--backend", "onnx")
    configs = []
    for folder in (exported, tmp_path):
        with zipfile.ZipFile(folder / "dcgan.mar") as opened:
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
