"""The archive: layout, and the same bytes from the same inputs."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from deploy.server import ROOT
from export.__main__ import main

Export = Callable[..., dict[str, Any]]


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


def test_backend_and_workers_can_be_chosen_at_export(
    weights: Path, exported: Path, tmp_path: Path
) -> None:
    assert (
        main(
            [
                "--weights",
                str(weights),
                "--out",
                str(tmp_path),
                "--backend",
                "onnx",
                "--workers",
                "3",
            ]
        )
        == 0
    )
    configs = []
    for folder in (exported, tmp_path):
        with zipfile.ZipFile(folder / "dcgan.mar") as opened:
            configs.append(yaml.safe_load(opened.read("model-config.yaml")))
            assert "handler/model-config.yaml" not in opened.namelist()
    assert configs[0]["handler"]["backend"] == "auto"
    configs[0]["handler"]["backend"] = "onnx"
    configs[0] |= {"minWorkers": 3, "maxWorkers": 3}
    assert configs[1] == configs[0]
