"""What ``evaluate`` measures on a set of samples."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from handler.pixels import Images
from training.health import pairwise_diversity
from training.lab import attributes, features, memorisation
from training.lab.classifier import classify
from training.lab.command import LEAST, EvaluateConfig
from training.lab.judge import Judge, has_labels, judge_of
from training.lab.msssim import mean_pair_similarity
from training.lab.nearest import pixels
from training.lab.reals import Reals, load_reals
from training.lab.usage import UsageError
from training.sliced import sliced_wasserstein_by_scale
from training.weights import WeightsInfo

NEIGHBOURS_OF = 1000  # pictures whose nearest neighbours are looked for


def measure(config: EvaluateConfig, samples: Images, info: WeightsInfo) -> dict[str, Any]:
    """All numbers, each with what it is, and ``left_out``: what could not be measured, and why.

    Args:
        samples: uint8 (N, H, W, C).
        info: of the Generator that drew them.

    Raises:
        UsageError, DataError: as of ``EvaluateConfig.run``.
    """
    left_out: list[str] = []
    labelled = has_labels(info) and config.data in (None, "avatars")
    judge = judge_of(config.classifier, info, config.weights) if labelled else None
    reals = load_reals(
        info, config.weights, config.data, config.data_root, config.cache, config.held_out,
        len(samples), judge.origin if judge else None,
    )  # fmt: skip
    if len(reals.reference) < LEAST:
        raise UsageError(
            f"only {len(reals.reference)} real pictures to compare with; give {LEAST} or more"
        )
    report = _Report(samples, reals)
    own = features.judge_extractor(judge, info.image_size) if judge else None
    if own is not None:
        report.in_features(own)
    else:
        left_out.append(
            "attributes, clean tiles, and distances and copies in features: the classifier behind "
            "them knows RGB avatars only"
        )
    if config.inception_weights is not None or config.download:
        report.in_features(features.inception_extractor(config.inception_weights))
    else:
        left_out.append("FID and KID: give --inception-weights FILE, or --download")
    report.without_weights()
    if start := info.provenance.get("start_from"):
        left_out.append(f"copies of what {start}, from which this run started, was trained on")
    result: dict[str, Any] = {
        "weights": str(config.weights),
        "weights_sha256": hashlib.sha256(config.weights.read_bytes()).hexdigest(),
        "steps": info.provenance.get("steps"),
        "seeds": [0, len(samples) - 1],
        "measures": report.measures,
    }
    return result | _neighbours(samples, reals, judge, own) | {"left_out": left_out}


def _neighbours(
    samples: Images, reals: Reals, judge: Judge | None, own: features.Extractor | None
) -> dict[str, Any]:
    """What the nearest training pictures tell: copies, and, with a judge, clean tiles."""
    print("looking for the nearest training pictures", file=sys.stderr)
    extract = own.extract if own else None
    near, report = memorisation.examine(samples, reals, extract, NEIGHBOURS_OF)
    result: dict[str, Any] = {"memorisation": report}
    if judge is None or not reals.labels:
        return result
    on_samples, on_real = (classify(judge.classifier, x) for x in (samples, reals.reference))
    result["attributes"] = {
        "judge": str(judge),
        "samples": len(samples),
        "reference": reals.described,
        "by_attribute": attributes.by_attribute(on_samples, on_real, reals.labels),
    }
    from_samples, from_real = (x.distances[:, 0] for x in near["features"])
    count = len(from_samples)
    result["clean_tiles"] = {
        "samples": count,
        "reference": reals.described,
        "judge": str(judge),
        **attributes.clean_tiles(
            {name: told[:count] for name, told in on_samples.items()},
            on_real,
            from_samples,
            from_real,
        ),
    }
    return result


class _Report:
    """Collects measures, each with the same number for real training pictures beside it.

    That number is what an ideal Generator would get: it is not 0, or 1, as sets are finite.
    """

    def __init__(self, samples: Images, reals: Reals) -> None:
        reference, others = reals.reference, reals.others(len(samples))
        self.count = min(len(samples), len(reference), len(others))
        self.samples, self.reference, self.others = (
            x[: self.count] for x in (samples, reference, others)
        )
        self.reals = reals
        self.measures: list[dict[str, Any]] = []

    def add(
        self, name: str, value: float, real: float, extractor: str = "pixels", resize: str = "none",
        count: int | None = None,
    ) -> None:  # fmt: skip
        self.measures.append(
            {
                "name": name,
                "value": float(f"{value:.4g}"),
                "real": float(f"{real:.4g}"),
                "samples": count or self.count,
                "reference": self.reals.described,
                "extractor": extractor,
                "resize": resize,
            }
        )

    def in_features(self, extractor: features.Extractor) -> None:
        print(f"features: {extractor.name}", file=sys.stderr)
        samples, reference, others = (
            extractor.extract(x) for x in (self.samples, self.reference, self.others)
        )
        said = "" if extractor.is_inception else ", in features"
        rows = [
            ("FID" if extractor.is_inception else "Fréchet distance", features.frechet_distance),
            ("KID" if extractor.is_inception else "kernel distance (MMD²)",
             features.kernel_distance),
        ]  # fmt: skip
        name = extractor.name
        if self.count <= samples.shape[1]:
            name += f" ({samples.shape[1]} dimensions need more samples: biased upwards)"
        for label, distance in rows:
            self.add(
                label + said, distance(samples, reference), distance(others, reference),
                name, extractor.resize,
            )  # fmt: skip
        found, real = (features.precision_recall(x, reference) for x in (samples, others))
        for i, label in enumerate(("precision", "recall")):
            self.add(f"{label}, in features", found[i], real[i], name, extractor.resize)

    def without_weights(self) -> None:
        print("sliced Wasserstein distance, MS-SSIM", file=sys.stderr)
        found, real = (
            sliced_wasserstein_by_scale(x, self.reference) for x in (self.samples, self.others)
        )
        patches = "7 px patches of a Laplacian pyramid"
        for size in found:
            self.add(f"sliced Wasserstein distance x 1000, {size} px", found[size], real[size],
                     patches)  # fmt: skip
        self.add(
            "sliced Wasserstein distance x 1000, mean of the scales",
            float(np.mean([*found.values()])), float(np.mean([*real.values()])), patches,
        )  # fmt: skip
        for name, measure in (
            ("MS-SSIM between samples", mean_pair_similarity),
            ("mean absolute difference between samples, in [-1, 1]", pairwise_diversity),
        ):
            self.add(name, measure(self.samples), measure(self.reference))
        self.add(
            "distance to the nearest training picture, grey levels, median",
            self._nearest(self.samples, np.full(self.count, -1)),
            self._nearest(self.reference, self.reals.rows),
            count=min(NEIGHBOURS_OF, self.count),
        )

    def _nearest(self, images: Images, rows: npt.NDArray[np.int64]) -> float:
        count = min(NEIGHBOURS_OF, len(images))
        found = self.reals.nearest([pixels(images[:count])], pixels, rows[:count], neighbours=1)
        size = images[0].size
        return float(np.median(found.distances[:, 0])) / float(np.sqrt(size))
