"""How far two sets of pictures are apart, and how alike the pictures of one set are.

Distances are taken in features of a network. FID is defined by one file of Inception weights:
with any other network the same formula gives another number, which gets another name here.
The sliced Wasserstein distance, which training uses too, is in ``training.sliced``.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.utils import create_feature_extractor

from handler.pixels import Images
from training.distributed import choose_device
from training.files import sha256_of
from training.lab.commands import UsageError
from training.lab.judge import Judge

Features = npt.NDArray[np.float32]  # (N, dimensions)

# The file that FID is defined on (arXiv:1706.08500), as torch-fidelity distributes it.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
KID_SUBSET = 1000  # of arXiv:1801.01401's code; fewer pictures are one subset
NEIGHBOURHOOD = 3  # nearest neighbours that span a manifold, of arXiv:1904.06991
# Of MS-SSIM (Wang, Simoncelli and Bovik, 2003).
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first
WINDOW_PX = 11
SIGMA_PX = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


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


def judge_extractor(judge: Judge) -> Extractor:
    """The judge's."""
    return Extractor(str(judge), f"none, {judge.origin.image_size} px", False, judge.features)


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
            "inception-v3-compat",
            ["2048"],
            cuda=device.type == "cuda",
            verbose=False,
            feature_extractor_weights_path=None if weights is None else str(weights),
        )
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
        f"{name}, SHA-256 {sha256[:12]}",
        "299 px, bilinear as TensorFlow 1 did it",
        is_inception,
        extract,
    )


def _digest_of_state_dict(path: Path) -> str:
    """SHA-256 of a file that holds tensors and nothing that could be executed.

    Raises:
        UsageError: it is missing or something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
            raise UsageError(f"{path} is no state dict, the file of Inception's weights is one")
        return sha256_of(path)
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


def mean_pair_similarity(images: Images) -> float:
    """Mean MS-SSIM of the pictures 0 and 1, 2 and 3, and so on: how alike a set's pictures are.

    Real pictures of one kind have a low mean, a collapsed Generator's samples a high one (Odena
    et al., arXiv:1610.09585, section 4.2).

    Args:
        images: uint8 (N, H, W, C), N >= 2, H and W >= 32.
    """
    pairs = len(images) // 2
    one, other = images[: 2 * pairs : 2], images[1 : 2 * pairs : 2]
    found = [ms_ssim(one[i : i + 128], other[i : i + 128]) for i in range(0, pairs, 128)]
    return float(np.concatenate(found).mean())


def ms_ssim(a: Images, b: Images) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Multi-scale structural similarity of picture i of ``a`` to picture i of ``b``.

    Maps smaller than the window get one of their own size, with a sigma in proportion, so that
    small pictures have five scales too.

    Args:
        a, b: uint8 (N, H, W, C), H and W >= 32: below, the coarsest scale would have one pixel.

    Returns:
        float32 (N,), at most 1, which is the same picture.
    """
    one, other = (
        torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2).float() for x in (a, b)
    )
    product = torch.ones(len(a))
    for scale, weight in enumerate(WEIGHTS):
        luminance, structure = _ssim_parts(one, other)
        coarsest = scale == len(WEIGHTS) - 1
        value = (luminance * structure if coarsest else structure).mean(dim=(1, 2, 3))
        product *= value.clamp(min=0) ** weight
        one, other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
    return product.numpy()


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of SSIM, as maps: luminance, and contrast times structure."""
    mean_a, mean_b = _window(a), _window(b)
    var_a = _window(a * a) - mean_a**2
    var_b = _window(b * b) - mean_b**2
    covariance = _window(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance, (2 * covariance + C2) / (var_a + var_b + C2)


def _window(maps: Tensor) -> Tensor:
    channels = maps.shape[1]
    size = min(WINDOW_PX, maps.shape[2], maps.shape[3])
    places = torch.arange(size) - (size - 1) / 2
    weights = torch.exp(-(places**2) / (2 * (SIGMA_PX * size / WINDOW_PX) ** 2))
    weights = weights / weights.sum()
    across = F.conv2d(maps, weights.expand(channels, 1, 1, size), groups=channels)
    return F.conv2d(across, weights[:, None].expand(channels, 1, size, 1), groups=channels)
