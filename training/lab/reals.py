"""The real pictures that a Generator is measured against: those it was trained on, and others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from handler.pixels import Images
from training.data.avatars import load_avatars, load_reserved_avatars
from training.data.batches import digest_of, digests, first_equal, split
from training.data.decode import DataError, Pictures, PictureSpec
from training.data.sources import load
from training.lab.commands import OfWeights, UsageError
from training.lab.judge import Judge, has_labels, judge_of
from training.weights import WeightsInfo, picture_sets

LEAST_HELD_OUT = 100  # pictures held out by a run, up to which training pictures join them


@dataclass(frozen=True, eq=False)
class Reals:
    """Training pictures and a reference.

    Attributes:
        trained_on: uint8 (N, H, W, C), all pictures that the Generator was trained on, those of
            the weights that it started from among them.
        reference: uint8 (M, H, W, C), real pictures to compare samples with, in random
            order: folders are often sorted by class, and not always all are taken.
        different: int64 (K,), ascending, which of ``trained_on`` differ: of equal ones the first.
        rows: int64 (M,), which of those each picture of the reference is, or equals; -1 for one
            that is none of them.
        seen: bool (M,), which of the reference the Generator was trained on, as far as is known:
            what a run held out is among ``trained_on`` too.
        described: what the reference is, in words.
        labels: attribute -> int64 (M,) of the reference, empty when there are none.
        missing: what else the Generator was trained on, and cannot be had, in words.
    """

    trained_on: Images
    reference: Images
    different: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    seen: npt.NDArray[np.bool_]
    described: str
    labels: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    missing: Sequence[str] = ()

    def others(self, count: int) -> Images:
        """At most ``count`` training pictures, random ones, none of them in the reference."""
        free = np.setdiff1d(self.different, self.rows)
        return np.ascontiguousarray(self.trained_on[_shuffled(free, 1)[:count]])


def unseen_reals(
    pictures: Pictures,
    images: Images,
    described: str,
    labels: dict[str, npt.NDArray[np.int64]] | None = None,
    missing: Sequence[str] = (),
) -> Reals:
    """A reference from elsewhere, which may yet hold what the Generator was trained on."""
    different = np.unique(pictures.first_equal)
    at = dict(zip(digests(pictures.images[row] for row in different), different, strict=True))
    rows = np.array([at.get(digest, -1) for digest in digests(images)], np.int64)
    return Reals(
        pictures.images, images, different, rows, rows >= 0, described, labels or {}, missing
    )


@dataclass(frozen=True, kw_only=True)
class OfPictures(OfWeights):
    """A command that needs what the Generator was trained on."""

    data: str | None = None
    """What the training pictures are, as for training; what the weights say when omitted."""
    data_root: Path = Path("data")
    """Where torchvision's named data sets lie."""
    cache: Path | None = Path("data/cache")
    """Decoded pictures are kept here, by training too; None decodes each time."""

    def pictures(self, info: WeightsInfo, data: str | None = None) -> Pictures:
        """All that a Generator was trained on, or ``data`` in the same size and channels.

        Raises:
            UsageError: the weights do not say what they were trained on.
            DataError: the pictures cannot be read.
        """
        return self._drawn(info.provenance, info, data or self.data)

    def _drawn(self, made: Mapping[str, Any], info: WeightsInfo, data: str | None) -> Pictures:
        """What ``made`` says, or ``data`` in its place."""
        data = data or made.get("data")
        if not isinstance(data, str):
            raise UsageError(f"{self.weights} does not say what it was trained on; give --data")
        background = made.get("background", "#ffffff")
        seed = made.get("seed", 0)
        if data == "avatars" and info.channels == 3 and "pictures" in made:
            return load_avatars(info.image_size, background, seed, made["pictures"])
        # Channels "auto", as training does, mostly: its copy in the cache serves.
        size = info.image_size
        spec = PictureSpec(data, self.data_root, self.cache, size, "auto", background, seed)
        pictures = load(spec)
        if pictures.images.shape[-1] == info.channels:
            return pictures
        return load(replace(spec, channels="1" if info.channels == 1 else "3"))


@dataclass(frozen=True, kw_only=True)
class AgainstReals(OfPictures):
    """A command that compares samples with real pictures."""

    held_out: str | None = None
    """Real pictures that were not trained on, a folder or zip. Reserved avatars, or what the run
    held out, joined by training pictures where that is little, when omitted."""

    def judge(self, info: WeightsInfo) -> Judge | None:
        """The judge, if it knows what the Generator was trained on.

        Raises:
            UsageError, WeightsError, OSError: as of ``judge_of``.
        """
        labelled = has_labels(info) and self.data in (None, "avatars")
        return judge_of(info, self.weights) if labelled else None

    def reals(self, info: WeightsInfo, count: int, judge: Judge | None) -> Reals:
        """Training pictures, and ``count`` others to compare with, or fewer.

        The others are those of ``held_out``; else, for avatars, reserved ones; or those that the
        run held out, joined by training pictures where they are few; or, when there is nothing of
        that, random training pictures.

        Raises:
            UsageError: there are fewer than 4 pictures, or the weights do not say what they were
                trained on.
            DataError: pictures cannot be read.
        """
        pictures = self.pictures(info)
        if pictures.different < 4:
            raise UsageError(
                f"{pictures.source} has {pictures.different} different pictures (of "
                f"{len(pictures.images)}); 4 are the least to measure, and whether so few are "
                "copied cannot be told"
            )
        given, missing = self._given(info, pictures)
        if self.held_out is not None:
            unseen = self.pictures(info, self.held_out)
            images = unseen.images[_shuffled(np.arange(len(unseen.images)), 0)[:count]]
            what = f"{len(images):,} pictures of {self.held_out}"
            return unseen_reals(given, images, what, missing=missing)
        if judge is not None:
            fresh = load_reserved_avatars(info.image_size, info.provenance["background"], count)
            what = f"{count:,} reserved avatars, which are never trained on"
            return unseen_reals(given, fresh.images, what, fresh.labels, missing)
        different = np.unique(pictures.first_equal)
        total = len(different)
        kept = _shuffled(_held_out_by_the_run(info.provenance, pictures), 0)[:count]
        wanted = min(count, total // 2, LEAST_HELD_OUT if len(kept) else total)
        joining = _shuffled(np.setdiff1d(different, kept), 0)[: max(0, wanted - len(kept))]
        parts = []
        if len(kept):
            parts.append(f"{len(kept):,} pictures that the run had held out from its training")
        if len(joining):
            parts.append(f"{len(joining):,} random training pictures, for want of --held-out")
        rows = np.append(kept, joining)
        images = np.ascontiguousarray(pictures.images[rows])
        inherited = set(digests(given.images[len(pictures.images) :]))
        seen = np.arange(len(rows)) >= len(kept)
        seen |= np.fromiter((digest in inherited for digest in digests(images)), bool)
        described = " and ".join(parts)
        different = np.unique(given.first_equal)
        return Reals(given.images, images, different, rows, seen, described, missing=missing)

    def _given(self, info: WeightsInfo, own: Pictures) -> tuple[Pictures, list[str]]:
        """The pictures of the run, then those of what it started from; and what is missing."""
        found, missing = [own.images], []
        sets = picture_sets(self.weights, info.provenance)
        if not _are_those(own, sets[0]):
            missing.append(f"what {self.weights} was trained on ({own.source} holds others now)")
        for made in sets[1:]:
            try:
                pictures = self._drawn(made, info, None)
                if _are_those(pictures, made):
                    found.append(pictures.images)
                    continue
            except (UsageError, DataError):
                pass
            missing.append(f"what {made['weights']} was trained on, from which this run started")
        if len(found) == 1:
            return own, missing
        images = np.concatenate(found)
        return Pictures(images, own.source, equal=first_equal(images)), missing


def _are_those(pictures: Pictures, made: Mapping[str, Any]) -> bool:
    """Whether a set of pictures is the one that was trained on."""
    return digest_of(pictures.images) == made.get("digest")


def _shuffled(rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(rows)


def _held_out_by_the_run(made: Mapping[str, Any], pictures: Pictures) -> npt.NDArray[np.int64]:
    """Which pictures a run did not train on, of equal ones the first; none if they are others.

    Args:
        made: what its weights say.
        pictures: all that it had.
    """
    if not made.get("held_out") or not _are_those(pictures, made):
        return np.empty(0, np.int64)
    equal = pictures.first_equal
    parts = split(equal, made["held_out"], made["batch_size"], made["seed"])
    return np.unique(equal[parts.held_out])
