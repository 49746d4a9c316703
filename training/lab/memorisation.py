"""Has the Generator learned its training pictures by heart?

A copy is unusually near to *one* training picture. How near is unusual depends on the data, so
the distance to the nearest training picture is divided by the mean distance to the nearest 50,
as Carlini et al. do (arXiv:2301.13188, section 5.1): a blurred or average picture, which is near
to many, does not count as a copy. Real pictures that were not trained on say what is usual, and
two tests compare: ranks (the C_T statistic of Meehan et al., arXiv:2004.05675, section 3, with
this distance), which see a Generator that copies most of the time, and the share below what the
nearest tenth of the real ones has, which sees one that copies now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from handler.pixels import Images
from training.lab.nearest import Nearness, Vectors, reduced, shifted
from training.lab.reals import Reals

TAIL = 0.1
SIGNIFICANT = 4.0  # standard errors; by chance once in 30,000 honest Generators
MORE = 1.5  # and so many times as many in the tail
LEAST_COUNT = 100  # samples, and real pictures, below which only plain copying is seen
LEAST_UNSEEN = 8  # pictures that were not trained on, below which nothing is


@dataclass(frozen=True)
class Space:
    """Pictures as vectors: those of the samples in some variants, those of the training set once.

    Attributes:
        variants, vectors: uint8 (N, H, W, C) -> float32 (N, dimensions), of which there is a
            list in the case of ``variants``.
    """

    variants: Callable[[Images], list[Vectors]]
    vectors: Callable[[Images], Vectors]


def spaces_of(extract: Callable[[Images], Vectors] | None) -> dict[str, Space]:
    """The spaces that neighbours are looked for in.

    Args:
        extract: uint8 (N, H, W, C) -> features, float32 (N, dimensions); None: pixels only.
    """
    spaces = {"pixels": Space(shifted, reduced)}
    if extract is not None:
        spaces["features"] = Space(lambda images: [extract(images)], extract)
    return spaces


def search(space: Space, samples: Images, reals: Reals, count: int) -> tuple[Nearness, Nearness]:
    """Neighbours, among the training pictures, of samples and of the reference.

    Args:
        samples: uint8 (N, H, W, C).
        count: how many of each to take, from the first on.
    """
    samples, reference = samples[:count], reals.reference[:count]
    rows = np.concatenate([np.full(len(samples), -1), reals.rows[: len(reference)]])
    variants = space.variants(np.concatenate([samples, reference]))
    found = reals.nearest(variants, space.vectors, rows)
    return found.part(0, len(samples)), found.part(len(samples), len(rows))


def examine(
    samples: Images, reals: Reals, extract: Callable[[Images], Vectors] | None, count: int
) -> tuple[dict[str, tuple[Nearness, Nearness]], dict[str, Any]]:
    """Look for copies in each space.

    Args:
        samples: uint8 (N, H, W, C).
        extract: as of ``spaces_of``.
        count: how many samples, and how many of the reference, to look at.

    Returns:
        space -> neighbours of samples and of the reference; and a report: ``verdict`` in words,
        what was compared, and ``compare``'s numbers by space.
    """
    spaces = spaces_of(extract)
    near = {name: search(space, samples, reals, count) for name, space in spaces.items()}
    told = {name: compare(a.relative, b.relative) for name, (a, b) in near.items()}
    of_samples, of_reference = (min(count, len(x)) for x in (samples, reals.reference))
    seen = int(reals.seen[:count].sum())
    return near, {
        "verdict": verdict(told, of_samples, of_reference, seen),
        "samples": of_samples,
        "references": of_reference,
        "reference": reals.described,
        "seen": seen,
        "trained_on": len(reals.different),
        **told,
    }


def compare(samples: Vectors, reference: Vectors) -> dict[str, Any]:
    """Both tests on relative distances.

    Args:
        samples, reference: float32 (n,) and (m,), ``Nearness.relative`` of each.

    Returns:
        ``c_t``: 0 on average for a Generator that does not copy, negative the more it copies,
        in standard errors; ``nearer_than_a_tenth``: the share of the samples that is nearer
        than the nearest tenth of the reference, 0.1 if it does not copy; ``copies``: whether
        one of them says so.
    """
    both = len(samples) * len(reference)
    ordered = np.sort(reference)
    below = np.searchsorted(ordered, samples, side="left").sum()
    ties = np.searchsorted(ordered, samples, side="right").sum() - below
    spread = np.sqrt(both * (len(samples) + len(reference) + 1) / 12)
    c_t = (below + ties / 2 - both / 2) / spread
    limit = np.quantile(reference, TAIL)
    share, usual = float((samples <= limit).mean()), float((reference <= limit).mean())
    pooled = (share * len(samples) + usual * len(reference)) / (len(samples) + len(reference))
    error = np.sqrt(pooled * (1 - pooled) * (1 / len(samples) + 1 / len(reference)))
    excess = (share - usual) / error if error > 0 else 0.0
    often = share > MORE * usual and excess > SIGNIFICANT
    return {
        "c_t": round(float(c_t), 1),
        "nearer_than_a_tenth": round(share, 3),
        "copies": bool(c_t < -SIGNIFICANT or often),
    }


def verdict(spaces: dict[str, dict[str, Any]], samples: int, reference: int, seen: int = 0) -> str:
    """What the tests say, in words.

    Training pictures serve as a reference that finds copies, but not as one that finds none:
    where they have near doubles, a copy is as near to one of them as they are.

    Args:
        spaces: what was compared -> ``compare``'s numbers.
        samples, reference: how many samples and real pictures there were.
        seen: how many of these real pictures had been trained on.
    """
    unseen = reference - seen
    copied = [name for name, found in spaces.items() if found["copies"]]
    if copied:
        share = max(spaces[name]["nearer_than_a_tenth"] for name in copied)
        return (
            f"copies training pictures, by {' and '.join(copied)}: {share:.0%} of the samples are "
            f"as near to one of them as the nearest {TAIL:.0%} of other real pictures are; look "
            "at them with: python -m training neighbours"
        )
    if unseen < LEAST_UNSEEN:
        return (
            f"cannot be told: {seen} of the {reference} real pictures to compare with were trained "
            f"on; give --held-out with {LEAST_COUNT} or more that were not"
        )
    short = []
    if samples < LEAST_COUNT:
        short.append(f"{samples} samples (give --samples {LEAST_COUNT} or more)")
    if unseen < LEAST_COUNT:
        short.append(f"{unseen} unseen real pictures (give --held-out with {LEAST_COUNT} or more)")
    if short:
        return f"no copying seen, but rare copies would not be, with {' and '.join(short)}"
    return "no copying seen"
