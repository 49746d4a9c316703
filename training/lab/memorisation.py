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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from handler.pixels import Images
from training.lab.commands import Plot, side_by_side
from training.lab.reals import AgainstReals, Reals
from training.samples import generate, tiles
from training.weights import load_generator

Vectors = npt.NDArray[np.float32]  # (N, dimensions)

NEIGHBOURS = 50
SHOWN = 8  # samples on the picture: those nearest to one training picture, by either measure
BESIDE = 4  # training pictures beside each
REDUCED_PX = 16
SHIFTS = range(-2, 3)  # in 64ths of the picture, both ways
_BLOCK = 4096  # training pictures at once
TAIL = 0.1
SIGNIFICANT = 4.0  # standard errors; by chance once in 30,000 honest Generators
MORE = 1.5  # and so many times as many in the tail
LEAST_COUNT = 100  # samples, and real pictures, below which only plain copying is seen
LEAST_UNSEEN = 8  # pictures that were not trained on, below which nothing is


@dataclass(frozen=True, kw_only=True)
class Neighbours(AgainstReals, Plot):
    """Show the samples that are most like one training picture, and their nearest ones.

    One row a sample: the sample, its neighbours in pixels, and, for avatars, its neighbours in
    features of the classifier. Prints what the tests for copies say of all samples.
    """

    out: Path = Path("runs/plots/neighbours.png")
    samples: Annotated[int, Ge(2)] = 1000
    """Samples that are searched, of seeds 0, 1, ..."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns the verdict and its numbers."""
        generator, info = load_generator(self.weights)
        judge = self.judge(info)
        reals = self.reals(info, self.samples, judge)
        samples = generate(generator, range(self.samples))
        near, report = examine(samples, reals, judge.features if judge else None, self.samples)
        found = {name: of_samples for name, (of_samples, _) in near.items()}
        suspicion = np.min([nearness.relative for nearness in found.values()], axis=0)
        shown = np.argsort(suspicion, kind="stable")[:SHOWN]
        picture = tiles(samples[shown], 1)
        for nearness in found.values():
            index = nearness.index[shown, :BESIDE]
            neighbours = reals.trained_on[index.ravel()].reshape(-1, *samples.shape[1:])
            picture = side_by_side(picture, tiles(neighbours, index.shape[1]))
        self.save_png(picture)
        return {
            "out": str(self.out),
            "columns": ["sample", *found],
            "seeds": shown.tolist(),
        } | report


@dataclass(frozen=True)
class Space:
    """Pictures as vectors, uint8 (N, H, W, C) -> float32 (N, dimensions).

    Attributes:
        vectors: of training pictures, and of samples.
        variants: of samples, where they have several, of which the nearest counts.
    """

    vectors: Callable[[Images], Vectors]
    variants: Callable[[Images], list[Vectors]] | None = None

    def nearest(
        self,
        images: Images,
        reals: Reals,
        rows: npt.NDArray[np.int64] | None = None,
        neighbours: int = NEIGHBOURS,
    ) -> Nearness:
        """Nearest of the training pictures, of which equal ones count as one.

        Args:
            images: uint8 (N, H, W, C).
            rows: int64 (N,), which training picture each is itself, -1 for one that is none; None
                where all are none.
            neighbours: how many to look for.
        """
        if rows is None:
            rows = np.full(len(images), -1)
        variants = self.variants(images) if self.variants else [self.vectors(images)]
        places = np.where(rows < 0, -1, np.searchsorted(reals.different, rows))
        trained_on = map(self.vectors, blocks(reals.trained_on, reals.different))
        found = nearness(variants, trained_on, places, neighbours)
        return Nearness(found.distances, reals.different[found.index])

    def distances(
        self, images: Images, reals: Reals, rows: npt.NDArray[np.int64] | None = None
    ) -> Vectors:
        """To the nearest of the training pictures, as of ``nearest``: float32 (N,)."""
        return self.nearest(images, reals, rows, neighbours=1).distances[:, 0]


def spaces_of(extract: Callable[[Images], Vectors] | None) -> dict[str, Space]:
    """The spaces that copies are looked for in: pixels, and features if they can be extracted."""
    spaces = {"pixels": Space(reduced, shifted)}
    return spaces if extract is None else spaces | {"features": Space(extract)}


def search(space: Space, samples: Images, reals: Reals, count: int) -> tuple[Nearness, Nearness]:
    """Neighbours, among the training pictures, of samples and of the reference.

    Args:
        samples: uint8 (N, H, W, C).
        count: how many of each to take, from the first on.
    """
    samples, reference = samples[:count], reals.reference[:count]
    rows = np.concatenate([np.full(len(samples), -1), reals.rows[: len(reference)]])
    found = space.nearest(np.concatenate([samples, reference]), reals, rows)
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
    results = {name: compare(a.relative, b.relative) for name, (a, b) in near.items()}
    of_samples, of_reference = (min(count, len(x)) for x in (samples, reals.reference))
    seen = int(reals.seen[:count].sum())
    return near, {
        "verdict": verdict(results, of_samples, of_reference, seen, reals.missing),
        "samples": of_samples,
        "references": of_reference,
        "reference": reals.described,
        "seen": seen,
        "trained_on": len(reals.different),
        **results,
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


def verdict(
    spaces: dict[str, dict[str, Any]],
    samples: int,
    reference: int,
    seen: int = 0,
    missing: Sequence[str] = (),
) -> str:
    """What the tests say, in words.

    Training pictures serve as a reference that finds copies, but not as one that finds none:
    where they have near doubles, a copy is as near to one of them as they are.

    Args:
        spaces: what was compared -> ``compare``'s numbers.
        samples, reference: how many samples and real pictures there were.
        seen: how many of these real pictures had been trained on.
        missing: what else was trained on, and could not be looked at.
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
    if missing:
        return f"cannot be told: it was not compared with {'; '.join(missing)}"
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


@dataclass(frozen=True, eq=False)
class Nearness:
    """How near pictures are to the training pictures.

    Attributes:
        distances: float32 (N, k), to the nearest k training pictures, the nearest first.
        index: int64 (N, k), which those are.
    """

    distances: Vectors
    index: npt.NDArray[np.int64]

    def part(self, first: int, end: int) -> Nearness:
        """Pictures ``first`` to ``end``, the latter excluded."""
        return Nearness(self.distances[first:end], self.index[first:end])

    @property
    def relative(self) -> Vectors:
        """Distance to the nearest over the mean distance to the nearest k; 0 for a copy."""
        mean = self.distances.mean(axis=1)
        result: Vectors = self.distances[:, 0] / np.maximum(mean, np.finfo(np.float32).tiny)
        return result


def nearness(
    pictures: Sequence[Vectors],
    trained_on: Iterable[Vectors],
    rows: npt.NDArray[np.int64],
    neighbours: int,
) -> Nearness:
    """Nearest training pictures by Euclidean distance.

    Args:
        pictures: variants of N pictures, such as shifted ones; the nearest variant counts.
        trained_on: blocks of the training pictures.
        rows: int64 (N,), which training picture each is itself, so that it is not its own
            neighbour; -1 for one that is none.
        neighbours: how many to look for; all others if there are fewer.
    """
    count, start = len(pictures[0]), 0
    best = np.full((count, 0), np.inf, np.float32)
    index = np.zeros((count, 0), np.int64)
    lengths = [np.square(variant).sum(axis=1)[:, None] for variant in pictures]
    for block in trained_on:
        squares = np.square(block).sum(axis=1)
        found = np.full((count, len(block)), np.inf, np.float32)
        for variant, length in zip(pictures, lengths, strict=True):
            np.minimum(found, length - 2 * (variant @ block.T) + squares, out=found)
        inside = np.flatnonzero((rows >= start) & (rows < start + len(block)))
        found[inside, rows[inside] - start] = np.inf
        best = np.concatenate([best, found], axis=1)
        index = np.concatenate(
            [index, np.broadcast_to(np.arange(start, start + len(block)), found.shape)], axis=1
        )
        kept = np.argpartition(best, min(neighbours, best.shape[1]) - 1, axis=1)[:, :neighbours]
        best = np.take_along_axis(best, kept, axis=1)
        index = np.take_along_axis(index, kept, axis=1)
        start += len(block)
    neighbours = min(neighbours, start - bool((rows >= 0).any()))
    order = np.argsort(best, axis=1, kind="stable")[:, :neighbours]
    distances = np.sqrt(np.maximum(np.take_along_axis(best, order, axis=1), 0))
    return Nearness(distances, np.take_along_axis(index, order, axis=1))


def pixels(images: Images) -> Vectors:
    """All pixels: uint8 (N, H, W, C) -> float32 (N, H * W * C), grey levels."""
    return images.reshape(len(images), -1).astype(np.float32)


def reduced(images: Images) -> Vectors:
    """Means over blocks, REDUCED_PX of them a side, in which grain is gone."""
    count, height, width, channels = images.shape
    tall, wide = height // REDUCED_PX, width // REDUCED_PX
    # Whole numbers, one axis at a time: three times as fast as the mean over both.
    rows = images.reshape(count, REDUCED_PX, tall, width, channels).sum(axis=2, dtype=np.uint32)
    shape = (count, REDUCED_PX, REDUCED_PX, wide, channels)
    sums = rows.reshape(shape).sum(axis=3, dtype=np.uint32)
    means: Vectors = sums.reshape(count, -1).astype(np.float32) / np.float32(tall * wide)
    return means


def shifted(images: Images) -> list[Vectors]:
    """``reduced`` of the pictures, moved by each pair of SHIFTS; edges are repeated."""
    size = images.shape[1]
    steps = sorted({round(step * size / 64) for step in SHIFTS})
    most = max(steps)
    wide = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    return [
        reduced(np.ascontiguousarray(wide[:, most + y : most + y + size, most + x :][:, :, :size]))
        for y in steps
        for x in steps
    ]


def blocks(images: Images, rows: npt.NDArray[np.int64]) -> Iterator[Images]:
    """These pictures, copied, at most _BLOCK at once: the rest stays on the disk."""
    return (images[rows[start : start + _BLOCK]] for start in range(0, len(rows), _BLOCK))
