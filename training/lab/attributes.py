"""What the judge sees on samples of avatars, attribute by attribute and tile by tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Told = dict[str, npt.NDArray[np.float32]]  # attribute -> probabilities, (N, classes)

SURE = 0.9  # probability from which an attribute counts as recognised
TILES = 64  # of the first grid
EASY = 0.99  # share of real pictures on which the judge is sure, from which an attribute counts
USUAL = 0.99  # quantile of the real pictures' distances that a clean tile stays below


def by_attribute(
    samples: Told, reference: Told, labels: dict[str, npt.NDArray[np.int64]]
) -> dict[str, dict[str, Any]]:
    """The judge on samples and on real pictures.

    Args:
        samples, reference: what it tells of each.
        labels: attribute -> the truth about the reference.

    Returns:
        for each attribute its measures, and the classes that samples have most too often and
        most too seldom, each with both shares.
    """
    return {
        name: {
            "accuracy_on_real": float((reference[name].argmax(1) == labels[name]).mean()),
            "sure_on_real": float(_sure(reference[name]).mean()),
            "sure_on_samples": float(_sure(samples[name]).mean()),
            "histogram_distance": histogram_distance(samples[name], reference[name]),
            "classes_seen": len(np.unique(samples[name].argmax(1))),
            "classes": reference[name].shape[1],
            **_farthest(_shares(samples[name]), _shares(reference[name])),
        }
        for name in labels
    }


def histogram_distance(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Total variation distance of the predicted classes: 0 the same, 1 disjoint."""
    return float(np.abs(_shares(a) - _shares(b)).sum() / 2)


def _shares(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of each class among N pictures, (N, classes) -> (classes,)."""
    shares: npt.NDArray[np.float64] = np.bincount(
        probabilities.argmax(1), minlength=probabilities.shape[1]
    ) / len(probabilities)
    return shares


def _farthest(
    samples: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    excess = samples - reference
    return {
        name: {
            "class": index,
            "share_of_samples": round(float(samples[index]), 4),
            "share_of_real": round(float(reference[index]), 4),
        }
        for name, index in (
            ("most_too_often", int(excess.argmax())),
            ("most_too_seldom", int(excess.argmin())),
        )
    }


def clean_tiles(
    samples: Told, reference: Told,
    distances: npt.NDArray[np.float32], usual: npt.NDArray[np.float32],
) -> dict[str, Any]:  # fmt: skip
    """Two stand-ins for a person who counts the clean tiles of a grid.

    *Recognised*: the judge is sure of every attribute that it is sure of on nearly all real
    pictures. *Near real*: the distance to the nearest training picture, in the judge's features,
    is below what 99 % of unseen real pictures have; it sees grain and smears that leave the
    attributes readable.

    Args:
        samples, reference: what the judge tells of N samples and of M real pictures.
        distances: float32 (N,) of the samples to their nearest training pictures.
        usual: float32 (M,), the same of real pictures that were not trained on.

    Returns:
        for each: of the first 64 samples how many, and the shares of all samples and of the
        real pictures.
    """
    easy = [name for name, told in reference.items() if _sure(told).mean() >= EASY]
    limit = np.quantile(usual, USUAL)
    clean = {"near_real": (distances <= limit, usual <= limit)}
    if easy:
        clean["recognised"] = (_all_sure(samples, easy), _all_sure(reference, easy))
    return {"recognised_by": easy, "of": min(TILES, len(distances))} | {
        name: {
            "tiles": int(found[:TILES].sum()),
            "share_of_samples": round(float(found.mean()), 3),
            "share_of_real": round(float(real.mean()), 3),
        }
        for name, (found, real) in clean.items()
    }


def _sure(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = probabilities.max(axis=1) >= SURE
    return result


def _all_sure(told: Told, names: list[str]) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = np.all([_sure(told[name]) for name in names], axis=0)
    return result
