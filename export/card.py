"""``card.json``: what the served model is, for the handler's replies and for people."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from export.onnx import OnnxFacts
from training.weights import WeightsInfo

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,31}")


@dataclass(frozen=True)
class ModelCard:
    """Facts of one archive: none is measured, so that every machine writes the same.

    Attributes:
        version: the model's version, as TorchServe's management API shows it.
        weights_sha256: digest of generator.safetensors.
        onnx: opset and IR version that a runtime must know.
        provenance: what the weights' metadata says of their training.
    """

    model: str
    version: str
    weights_sha256: str
    nz: int
    ngf: int
    image_size: int
    channels: int
    onnx: OnnxFacts
    provenance: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True)


def make_card(weights: Path, info: WeightsInfo, version: str, onnx: OnnxFacts) -> ModelCard:
    """Collect the facts.

    Raises:
        ValueError: the version has characters that a header or a path could not carry.
    """
    if not _VERSION.fullmatch(version):
        raise ValueError(
            f"version {version!r} is not allowed: 1 to 32 letters, digits, '.', '_' or '-', "
            "for example 1.0"
        )
    return ModelCard(
        model="dcgan",
        version=version,
        weights_sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        nz=info.nz,
        ngf=info.ngf,
        image_size=info.image_size,
        channels=info.channels,
        onnx=onnx,
        provenance=info.provenance,
    )
