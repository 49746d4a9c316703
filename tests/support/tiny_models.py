"""Untrained networks of a few channels, and folders as an archive is when it is unpacked."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from export.models import export_onnx, fold_batchnorm
from handler.latents import Latents
from handler.pixels import to_uint8
from handler.settings import Card
from training.networks import Generator, LatentLaw, new_generator

NZ, IMAGE_PX = 8, 32


def tiny_card(**changes: Any) -> Card:
    facts = {"model": "dcgan", "version": "1.0", "weights_sha256": "0" * 64, "nz": NZ,
             "image_size": IMAGE_PX, "channels": 3}  # fmt: skip
    return Card.model_validate(facts | changes)


def tiny_generator(
    channels: int = 3, image_size: int = IMAGE_PX, latent: LatentLaw = "normal"
) -> Generator:
    """A Generator with BatchNorm folded, whose statistics are not the initial ones."""
    torch.manual_seed(0)
    network = new_generator(NZ, 8, channels, image_size, latent)
    with torch.inference_mode():
        network(torch.randn(16, NZ))
    return fold_batchnorm(network.eval())


def vivid(**arguments: Any) -> Generator:
    """A tiny Generator whose pictures are not nearly grey."""
    generator = tiny_generator(**arguments)
    with torch.no_grad():
        list(generator.parameters())[-1].mul_(1000)
    return generator


def right(generator: nn.Module, latents: Latents) -> npt.NDArray[np.int64]:
    """The pixels of the network itself."""
    with torch.inference_mode():
        return to_uint8(generator(torch.from_numpy(latents)).numpy()).astype(int)


class Clipped(nn.Module):
    """A generator with something after it that has no parameters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        pictures: torch.Tensor = self.network(latents).clamp(-0.1, 0.1)
        return pictures


def save_torchscript(network: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network, torch.zeros(2, NZ), check_trace=False).save(str(path))


def unpacked(network: Any, folder: Path) -> Path:
    """The folder, with both models and the card."""
    save_torchscript(network, folder / "generator.pt")
    export_onnx(network, folder / "generator.onnx")
    (folder / "card.json").write_text(tiny_card().model_dump_json())
    return folder
