"""``generator.safetensors``: the Generator's weights and all that is known of them.

The format executes nothing when it is read. Metadata is one JSON text under the key
``dcgan``: the shape of the network, and where the weights come from.

What is sampled, saved and exported is the averaged Generator. Parameters are averaged (Yazici et
al., arXiv:1806.04498). BatchNorm's running statistics are not averaged and not copied from the
training network, whose statistics belong to other weights: they are measured anew on the averaged
weights.
"""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.optim.swa_utils import update_bn

from training.files import atomic_path
from training.networks import Generator, LatentLaw

METADATA_KEY = "dcgan"
LARGEST = torch.finfo(torch.float16).max  # a GPU serves in float16
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BATCH = 64  # latents at once, by which BatchNorm's statistics are measured
TRIED = 8  # latents that are drawn to see whether there are pixels
PICTURE_SET = ("data", "pictures", "seed", "background", "digest")


class WeightsError(ValueError):
    """The file does not hold Generator weights; the message says what it is instead."""


@dataclass(frozen=True)
class WeightsInfo:
    """What is stored beside the weights.

    Attributes:
        nz, ngf, channels, image_size: arguments of ``Generator``.
        provenance: data, recipe, steps, machine, versions: free, JSON values only. Nothing that
            differs between two runs of the same, as their time does: they give the same bytes.
        latent: the last argument of ``Generator``.
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
        name: (value.float() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in generator.state_dict().items()
    }
    with atomic_path(path) as beside:
        # Not by safetensors: of a full disk it says neither the path nor that it is one.
        beside.write_bytes(save(tensors, {METADATA_KEY: json.dumps(asdict(info))}))


def picture_sets(weights: Path, provenance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sets of pictures that weights have learned from: their run's, and those of its start.

    Args:
        weights: their file.
        provenance: what the file says.

    Returns:
        for each set ``weights``, and what is known of ``data``, ``pictures``, ``seed``,
        ``background`` and ``digest``.
    """
    own = {name: provenance[name] for name in PICTURE_SET if name in provenance}
    return [{"weights": str(weights)} | own, *provenance.get("inherited", [])]


def load_generator(path: Path) -> tuple[Generator, WeightsInfo]:
    """Read a Generator in eval mode, float32, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        WeightsError: the file is something else, damaged, fits no Generator, or holds what no
            network computes with.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; give the generator.safetensors in it")
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
    if METADATA_KEY not in metadata:
        raise WeightsError(
            f"{path} is a safetensors file without {METADATA_KEY!r} metadata, so not one that "
            "this training wrote; the network's shape is unknown"
        )
    try:
        info = WeightsInfo(**json.loads(metadata[METADATA_KEY]))
        if not isinstance(info.provenance, dict):
            raise TypeError(f"provenance is {info.provenance!r}, not an object")
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: its metadata is malformed: {error}") from None
    strip_prefixes(tensors)
    check_numbers(str(path), tensors)
    try:
        generator = Generator(info.nz, info.ngf, info.channels, info.image_size, info.latent)
        generator.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} says nz {info.nz}, ngf {info.ngf}, {info.channels} channels, "
            f"{info.image_size} px, but its tensors do not fit: {error}"
        ) from None
    if fault := fault_of(generator.eval()):
        raise WeightsError(
            f"{path}: {fault}, though each weight by itself is a number. A run that died leaves "
            "such weights: take its best.safetensors, or train anew"
        )
    return generator, info


def check_numbers(where: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights from which a network computes nonsense.

    Args:
        where: what holds them, for the message.
        tensors: a state dict; a name that ends in ``running_var`` is a variance.

    Raises:
        WeightsError: a tensor is of another type than ``FLOATS``, or a number is NaN, infinite,
            or beyond ``LARGEST``, or a variance is not between 0 and its square.
    """
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.dtype not in FLOATS:
            raise WeightsError(f"{where}: {name} is of {tensor.dtype}; weights are torch.float32")
        bad, allowed = ~(tensor.abs() <= LARGEST), f"numbers from -{LARGEST:g} to {LARGEST:g}"
        if name.endswith("running_var"):
            bad = ~((tensor > 0) & (tensor <= LARGEST**2))
            allowed = f"variances above 0, at most {LARGEST**2:g}"
        if bad.any():
            raise WeightsError(
                f"{where}: {name} holds {tensor[bad][0]:g} ({int(bad.sum()):,} such of "
                f"{bad.numel():,}); allowed are {allowed}. A run that died leaves such weights: "
                "take its best.safetensors or an earlier checkpoint, or train anew"
            )


@torch.no_grad()
def fault_of(generator: Generator) -> str | None:
    """Why a Generator in eval mode draws nothing, in words; None if it draws.

    Weights may be allowed one by one and overflow together.
    """
    try:
        check_numbers("the Generator's weights", generator.state_dict())
    except WeightsError as error:
        return str(error).split(";")[0]
    weight = next(generator.parameters())
    latents = torch.randn(TRIED, generator.nz, generator=torch.Generator().manual_seed(0))
    if not generator(latents.to(weight.device)).isfinite().all():
        return "the pixels that the Generator draws are no numbers"
    return None


def strip_prefixes(tensors: dict[str, Tensor]) -> None:
    """Take from the names what DataParallel, DDP and torch.compile put before them."""
    for prefix in ("module.", "_orig_mod.", "module."):
        consume_prefix_in_state_dict_if_present(tensors, prefix)


def identify(path: Path) -> str:
    """What kind of model file this is, in words, by its bytes; nothing is executed."""
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
        if any(name.endswith("data.pkl") for name in names):
            return "a PyTorch file: a checkpoint, a state dict or a module"
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


class GeneratorEMA:
    """Exponential moving average of a Generator's parameters.

    The decay is ramped up, ``min(decay, (1 + t) / (10 + t))`` at update t, so that early
    averages are not dominated by the initial weights.
    """

    def __init__(self, generator: Generator, decay: float) -> None:
        self.decay = decay
        self.generator = copy.deepcopy(generator).requires_grad_(False)

    @torch.no_grad()
    def update(self, generator: Generator, step: int) -> None:
        """Move towards ``generator`` after its update number ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        averaged: list[Tensor] = [*self.generator.parameters()]
        torch._foreach_lerp_(averaged, [*generator.parameters()], 1.0 - decay)


def recalibrate(generator: Generator, images: int) -> Generator:
    """A copy in eval mode whose BatchNorm statistics are measured on ``images`` random latents.

    The latents come from a fixed seed, so equal weights give an equal copy.
    """
    copied = copy.deepcopy(generator).eval()
    rng = torch.Generator().manual_seed(0)
    latents = (torch.randn(BATCH, copied.nz, generator=rng) for _ in range(max(1, images // BATCH)))
    update_bn(latents, copied, next(copied.parameters()).device)
    return copied
