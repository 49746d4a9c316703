"""What a set of pictures is reduced to before it is compared: features of a network.

FID is defined by one file of Inception weights. With any other network the same formula gives
another number, which gets another name here.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.utils import create_feature_extractor

from handler.pixels import Images
from training.distributed import choose_device
from training.lab.classifier import to_tensor
from training.lab.judge import Judge
from training.lab.usage import UsageError

Features = npt.NDArray[np.float32]  # (N, dimensions)

# The file that FID is defined on (arXiv:1706.08500), as torch-fidelity distributes it.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
KID_SUBSET = 1000  # of arXiv:1801.01401's code; fewer pictures are one subset
NEIGHBOURHOOD = 3  # nearest neighbours that span a manifold, of arXiv:1904.06991


@dataclass(frozen=True, eq=False)
class Extractor:
    """Pictures to features, and how to speak of the numbers that come of it.

    Attributes:
        name: what it is, printed with every number.
        resize: what is done to the size of the pictures before.
        is_inception: whether it is the one that FID and KID are defined on.
        extract: uint8 (N, H, W, C) -> float32 (N, dimensions).
    """

    name: str
    resize: str
    is_inception: bool
    extract: Callable[[Images], Features]


def judge_extractor(judge: Judge, image_size: int) -> Extractor:
    """The last feature maps of the judge, averaged over their places."""
    convolutions = judge.classifier.features[:-1]

    @torch.no_grad()
    def extract(images: Images) -> Features:
        parts = [
            convolutions(to_tensor(np.ascontiguousarray(images[i : i + 256]))).mean(dim=(2, 3))
            for i in range(0, len(images), 256)
        ]
        return torch.cat(parts).numpy()

    return Extractor(str(judge), f"none, {image_size} px", False, extract)


def inception_extractor(weights: Path | None) -> Extractor:
    """torch-fidelity's Inception v3.

    Args:
        weights: its state dict; None downloads it, once, to torch's cache.

    Raises:
        UsageError: the file is something else, or the download failed.
    """
    sha256 = INCEPTION_SHA256
    if weights is not None:
        sha256 = _digest_of_state_dict(weights)
    device = choose_device()
    try:
        network = create_feature_extractor(
            "inception-v3-compat", ["2048"], cuda=device.type == "cuda", verbose=False,
            feature_extractor_weights_path=None if weights is None else str(weights),
        )  # fmt: skip
    except (OSError, RuntimeError) as error:
        what = f"{weights} is no Inception v3 of torch-fidelity" if weights else "download failed"
        raise UsageError(f"{what}: {str(error)[:300]}") from None

    @torch.no_grad()
    def extract(images: Images) -> Features:
        parts = []
        for start in range(0, len(images), 32):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + 32]))
            rgb = batch.permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
            parts.append(network(rgb.to(device))[0].cpu())
        return torch.cat(parts).numpy()

    is_inception = sha256 == INCEPTION_SHA256
    name = "Inception v3 of FID" if is_inception else "Inception v3 with other weights"
    return Extractor(
        f"{name}, SHA-256 {sha256[:12]}", "299 px, bilinear as TensorFlow 1 did it",
        is_inception, extract,
    )  # fmt: skip


def _digest_of_state_dict(path: Path) -> str:
    """SHA-256 of a file that holds tensors and nothing that could be executed.

    Raises:
        UsageError: it is missing or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
            raise UsageError(f"{path} is no state dict, the file of Inception's weights is one")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise UsageError(
            f"--inception-weights {path} cannot be read ({type(error).__name__}: "
            f"{str(error)[:200]}); give the file of torch-fidelity, or --download"
        ) from None


def frechet_distance(a: Features, b: Features) -> float:
    """||mean a - mean b||^2 + trace(A + B - 2 (A B)^0.5) (arXiv:1706.08500, section 1)."""
    one, other = (fid_features_to_statistics(_double(x)) for x in (a, b))
    return float(next(iter(fid_statistics_to_metric(one, other, verbose=False).values())))


def kernel_distance(a: Features, b: Features) -> float:
    """Unbiased MMD^2 with the kernel (x.y / d + 1)^3 (arXiv:1801.01401, section 4)."""
    size = min(KID_SUBSET, len(a), len(b))
    found = kid_features_to_metric(
        _double(a), _double(b), kid_subset_size=size, kid_subsets=50, verbose=False
    )
    return float(found["kernel_inception_distance_mean"])


def precision_recall(samples: Features, reference: Features) -> tuple[float, float]:
    """Shares of the samples that lie among the reference, and of the reference among the samples.

    *Among* is within the distance of some member of the other set to its third nearest
    neighbour there (arXiv:1904.06991, section 2).
    """
    found = prc_features_to_metric(
        _double(samples), _double(reference), prc_neighborhood=NEIGHBOURHOOD, verbose=False
    )
    return float(found["precision"]), float(found["recall"])


def _double(features: Features) -> Tensor:
    return torch.from_numpy(features).double()
