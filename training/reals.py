"""The real pictures that a Generator is measured against: those it was trained on, and others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handler.images import Images
from training.data import load
from training.data.avatars import ATTRIBUTES, load_avatars
from training.data.batches import split
from training.data.pictures import Pictures
from training.data.store import Channels
from training.judge import Origin, has_labels
from training.usage import UsageError
from training.weights import WeightsInfo

UNSEEN_SEED = 2**32 + 1  # draws the avatars to compare with; far from the seeds of runs
LEAST_HELD_OUT = 100  # pictures held out by a run, up to which training pictures join them
LABELS_PX = 16  # avatars that are only drawn for their labels


@dataclass(frozen=True, eq=False)
class Reals:
    """Training pictures and a reference.

    Attributes:
        trained_on: uint8 (N, H, W, C), all pictures that the Generator was trained on.
        reference: uint8 (M, H, W, C), real pictures to compare samples with, in an order of
            chance: folders are often sorted by class, and not always all are taken.
        rows: int64 (M,), which training pictures the reference is; None when the Generator
            has seen none of it.
        described: what the reference is, in words.
        labels: attribute -> int64 (M,) of the reference, empty when there are none.
    """

    trained_on: Images
    reference: Images
    rows: npt.NDArray[np.int64] | None
    described: str
    labels: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def others(self, count: int) -> Images:
        """At most ``count`` training pictures, by lot, none of them in the reference."""
        free = np.arange(len(self.trained_on))
        if self.rows is not None:
            free = np.setdiff1d(free, self.rows)
        return np.ascontiguousarray(self.trained_on[_by_lot(free, 1)[:count]])


def training_pictures(
    info: WeightsInfo, weights: Path, data: str | None, data_root: Path, cache: Path | None
) -> Pictures:
    """What a Generator was trained on, from ``data`` or, when None, from what its weights say.

    Raises:
        UsageError: the weights do not say it.
        DataError: the pictures cannot be read.
    """
    made = info.provenance
    data = data or made.get("data")
    if not isinstance(data, str):
        raise UsageError(f"{weights} does not say what it was trained on; give --data")
    background = made.get("background", "#ffffff")
    if data == "avatars" and info.channels == 3 and "pictures" in made:
        return load_avatars(info.image_size, background, int(made["seed"]), int(made["pictures"]))

    def loaded(channels: Channels) -> Pictures:
        return load(
            data, data_root=data_root, image_size=info.image_size, channels=channels,
            background=background, seed=int(made.get("seed", 0)), workers=2, batch_size=1,
            cache=cache,
        )  # fmt: skip

    pictures = loaded("auto")  # as training does, mostly: its copy in the cache serves
    if pictures.images.shape[-1] == info.channels:
        return pictures
    return loaded("1" if info.channels == 1 else "3")


def load_reals(
    info: WeightsInfo, weights: Path, data: str | None, data_root: Path, cache: Path | None,
    held_out: str | None, count: int, judge: Origin | None,
) -> Reals:  # fmt: skip
    """Training pictures, and ``count`` others to compare with, or fewer.

    The others are those of ``held_out``; or new avatars, which neither the Generator nor the
    judge has seen; or those that the run held out, joined by training pictures where they are
    few; or, when there is nothing of that, training pictures drawn by lot.

    Raises:
        UsageError: there are fewer than 4 pictures, or the weights do not say what they were
            trained on.
        DataError: pictures cannot be read.
    """
    pictures = training_pictures(info, weights, data, data_root, cache)
    if len(pictures.images) < 4:
        raise UsageError(
            f"{pictures.source} has {len(pictures.images)} pictures; 4 are the least to measure"
        )
    if held_out is not None:
        unseen = training_pictures(info, weights, held_out, data_root, cache)
        images = unseen.images[_by_lot(np.arange(len(unseen.images)), 0)[:count]]
        return Reals(pictures.images, images, None, f"{len(images):,} pictures of {held_out}")
    if has_labels(info) and data in (None, "avatars") and judge is not None:
        fresh = unseen_avatars(pictures, info, count, judge)
        what = f"{len(fresh.images):,} avatars that neither Generator nor classifier has seen"
        return Reals(pictures.images, fresh.images, None, what, fresh.labels)
    total = len(pictures.images)
    kept = _by_lot(_held_out_by_the_run(info, total if data is None else 0), 0)[:count]
    wanted = min(count, total // 2, LEAST_HELD_OUT if len(kept) else total)
    joining = _by_lot(np.setdiff1d(np.arange(total), kept), 0)[: max(0, wanted - len(kept))]
    told = []
    if len(kept):
        told.append(f"{len(kept):,} pictures that the run had held out from its training")
    if len(joining):
        told.append(f"{len(joining):,} of the training pictures, by lot for want of --held-out")
    rows = np.append(kept, joining)
    images = np.ascontiguousarray(pictures.images[rows])
    return Reals(pictures.images, images, rows, " and ".join(told))


def _by_lot(rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(rows)


def _held_out_by_the_run(info: WeightsInfo, count: int) -> npt.NDArray[np.int64]:
    """Which pictures, of all that it had, a run did not train on; none for an older run."""
    made = info.provenance
    if not made.get("held_out") or made.get("pictures") != count:
        return np.empty(0, np.int64)
    return split(count, int(made["held_out"]), int(made["batch_size"]), int(made["seed"])).held_out


def unseen_avatars(trained_on: Pictures, info: WeightsInfo, count: int, judge: Origin) -> Pictures:
    """At most ``count`` avatars, in no set that the Generator or the judge has learned from."""
    background = str(info.provenance["background"])
    learned = load_avatars(LABELS_PX, judge.background, judge.seed, judge.pictures)
    known = set(_parts(trained_on)) | set(_parts(learned))
    drawn = load_avatars(info.image_size, background, UNSEEN_SEED, count + count // 2)
    fresh = np.flatnonzero([parts not in known for parts in _parts(drawn)])[:count]
    labels = {name: values[fresh] for name, values in drawn.labels.items()}
    return Pictures(drawn.images[fresh], drawn.source, labels)


def _parts(pictures: Pictures) -> list[tuple[int, ...]]:
    return list(zip(*(pictures.labels[name].tolist() for name in ATTRIBUTES), strict=True))
