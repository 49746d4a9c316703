"""``python -m export``: weights -> TorchScript and ONNX, checked -> dcgan.mar.

Exit codes: 0 done, 1 failed, 2 bad usage or a wrong weights file, 3 the exported files do not
compute what the network computes, 130 interrupted. The result, a JSON object, goes to stdout.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from export.archive import (
    MODEL_NAME,
    ArchiveError,
    OtherWeightsError,
    build_archive,
    make_card,
    read_directions,
    weights_of,
)
from export.models import export_onnx, export_torchscript, fold_batchnorm
from export.verify import ParityError, verify
from handler.settings import BackendName
from training.files import atomic_path
from training.weights import WeightsError, load_generator


@dataclass(frozen=True)
class ExportConfig:
    """Export Generator weights and pack them for TorchServe."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a training run."""
    out: Path = Path("model_store")
    """Folder for dcgan.mar, its sha256 and parity.json."""
    backend: Literal["auto", BackendName] | None = None
    """What runs the model; handler/model-config.yaml decides when left out."""
    workers: int | None = None
    """Processes that serve it, which share the processors, and the GPUs in turn; 4 for each GPU is
    a good start. handler/model-config.yaml decides when left out."""
    model_version: str = "1.0"
    """Version that the served model reports."""
    directions: Literal["auto", "none"] | Path = "auto"
    """Directions that requests may edit latents along; auto is the directions.safetensors beside
    the weights, if it is there and of these weights."""
    keep_models: bool = False
    """Also leave generator.pt and generator.onnx in the folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        config = tyro.cli(ExportConfig, prog="python -m export", args=arguments)
        print(json.dumps(export(config), indent=2), flush=True)
    except (WeightsError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ParityError as error:
        print(f"verification failed: {error}", file=sys.stderr)
        return 3
    except (ArchiveError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def export(config: ExportConfig) -> dict[str, object]:
    """Export, verify, pack; returns what was made."""
    _check(config)
    generator, info = load_generator(config.weights)
    directions = _directions(config, info.nz)
    with tempfile.TemporaryDirectory(prefix="dcgan-export-") as work:
        torchscript, onnx = Path(work) / "generator.pt", Path(work) / "generator.onnx"
        print("exporting TorchScript and ONNX", file=sys.stderr)
        folded = fold_batchnorm(generator)
        export_torchscript(folded, torchscript)
        facts = export_onnx(folded, onnx)
        print("comparing both with the eager network", file=sys.stderr)
        parity = verify(generator, torchscript, onnx)
        card = make_card(config.weights, info, config.model_version, facts)
        archive = config.out / f"{MODEL_NAME}.mar"
        if weights_of(archive) not in (None, card.weights_sha256):
            print(f"warning: {archive} is of other weights, and replaced", file=sys.stderr)
        digest = build_archive(
            archive, torchscript, onnx, card, config.backend, config.workers, directions
        )
        with atomic_path(config.out / "parity.json") as beside:
            beside.write_text(json.dumps(parity, indent=2) + "\n", encoding="utf-8")
        for model in (torchscript, onnx) if config.keep_models else ():
            with atomic_path(config.out / model.name) as beside:
                shutil.copyfile(model, beside)
    return {
        "archive": str(archive),
        "sha256": digest,
        "bytes": archive.stat().st_size,
        "weights_sha256": card.weights_sha256,
        "version": card.version,
        "directions": list(json.loads(directions or "{}")),
    }


def _check(config: ExportConfig) -> None:
    """ValueError for what a header or a path cannot carry, or a folder, which need not be there
    yet, that no file can be written into."""
    version, workers, out = config.model_version, config.workers, config.out
    if not re.fullmatch("[0-9A-Za-z][0-9A-Za-z._-]{0,31}", version):
        raise ValueError(
            f"version {version!r} is not allowed: 1 to 32 letters, digits, '.', '_' or '-', "
            "for example 1.0"
        )
    there = next(each for each in (out, *out.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ValueError(
            f"--out {out} cannot be written to: {there}: {error.strerror}; give another folder"
        ) from error
    if workers is not None and workers < 1:
        raise ValueError(f"--workers {workers} is not allowed: at least 1, for example 4 for a GPU")


def _directions(config: ExportConfig, nz: int) -> bytes:
    """The text of directions.json; empty for none."""
    if isinstance(config.directions, Path):
        return read_directions(config.directions, config.weights, nz)
    beside = config.weights.with_name("directions.safetensors")
    if config.directions == "none" or not beside.exists():
        return b""
    try:
        return read_directions(beside, config.weights, nz)
    except OtherWeightsError as error:
        print(f"warning: {error}; none are packed", file=sys.stderr)
        return b""


if __name__ == "__main__":
    sys.exit(main())
