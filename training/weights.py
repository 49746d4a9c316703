"""``generator.safetensors``: the Generator's weights and all that is known of them.

The format executes nothing when it is read. Metadata is one JSON text under the key
``dcgan``: the shape of the network, and where the weights come from.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.files import atomic_path
from training.networks import Generator, LatentLaw

METADATA_KEY = "dcgan"
_PREFIXES = ("module.", "_orig_mod.")


class WeightsError(ValueError):
    """The file does not hold Generator weights; the message says what it is instead."""


@dataclass(frozen=True)
class WeightsInfo:
    """What is stored beside the weights.

    Attributes:
        nz, ngf, channels, image_size: arguments of ``Generator``.
        provenance: data, recipe, steps, hours, machine, versions: free, JSON values only.
        latent: the last argument of ``Generator``; files from before it was one have normal.
    """

    nz: int
    ngf: int
    channels: int
    image_size: int
    provenance: dict[str, Any] = field(default_factory=dict)
    latent: LatentLaw = "normal"


def save_generator(path: Path, generator: Generator, provenance: dict[str, Any]) -> None:
    """Write float32 weights (BatchNorm statistics included) atomically."""
    info = WeightsInfo(
        generator.nz,
        generator.ngf,
        generator.channels,
        generator.image_size,
        provenance,
        generator.latent,
    )
    tensors = {
        name: value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype)
        for name, value in generator.state_dict().items()
    }
    packed = {name: value.contiguous() for name, value in tensors.items()}
    with atomic_path(path) as beside:
        save_file(packed, beside, metadata={METADATA_KEY: json.dumps(asdict(info))})


def load_generator(path: Path) -> tuple[Generator, WeightsInfo]:
    """Read a Generator in eval mode, float32, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: the file is something else, damaged, or fits no Generator.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; train one: python -m training")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is {identify(path)}, not a generator.safetensors ({error}); "
            "give the generator.safetensors that a training run leaves in its folder"
        ) from None
    info = _read_info(path, metadata)
    try:
        generator = Generator(info.nz, info.ngf, info.channels, info.image_size, info.latent)
        generator.load_state_dict(strip_prefixes(tensors))
    except (RuntimeError, ValueError) as error:
        raise WeightsError(
            f"{path} says nz {info.nz}, ngf {info.ngf}, {info.channels} channels, "
            f"{info.image_size} px, but its tensors do not fit: {error}"
        ) from None
    return generator.eval(), info


def strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DataParallel, DDP and torch.compile put before them."""

    def clean(name: str) -> str:
        while name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        return name

    return {clean(name): value for name, value in tensors.items()}


def _read_info(path: Path, metadata: dict[str, str]) -> WeightsInfo:
    if METADATA_KEY not in metadata:
        raise WeightsError(
            f"{path} is a safetensors file without {METADATA_KEY!r} metadata, so not one that "
            "this training wrote; the network's shape is unknown"
        )
    try:
        return WeightsInfo(**json.loads(metadata[METADATA_KEY]))
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its metadata is malformed: {error}") from None


def identify(path: Path) -> str:
    """What kind of model file this is, in words, told from its bytes; nothing is executed."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        return "an empty file"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.startswith("MAR-INF/") for name in names):
                return "a TorchServe archive (.mar)"
            if any(name.endswith("constants.pkl") for name in names):
                return "a TorchScript file"
            pickles = [name for name in names if name.endswith("data.pkl")]
            if pickles:
                return _identify_pickle(archive.read(pickles[0]))
        return "a zip file"
    if head[:1] == b"\x80":
        return "a pickle (an old PyTorch file or a whole pickled module)"
    if head[:1] == b"\x08" and b"\x12" in head:
        return "probably an ONNX file"
    try:
        with safe_open(path, framework="pt"):
            return "a safetensors file"
    except SafetensorError:
        return "damaged, or of an unknown kind"


def _identify_pickle(data: bytes) -> str:
    if b"dcgan-checkpoint" in data:
        return "a full training checkpoint"
    if b"optimizer" in data or b"adam_g" in data:
        return "a full checkpoint with optimiser state"
    if b"OrderedDict" in data and b"torch.nn.modules" not in data:
        return "a pickled state dict"
    return "a pickled module"
