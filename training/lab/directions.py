"""Directions of the latent, one a concept: learned through the Generator, or in closed form.

The difference of a few mean latents (paper, section 6.3.2; ``training.lab.arithmetic``) brings much
else with it. Here the nz numbers of a direction are learned: Adam moves them so that a judge sees
the concept on G(z + d), and everything else as on G(z). What pleases one judge may please it alone,
so a referee, a classifier that had no part in it, says how good the result is, on latents that were
not learned from.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge
from safetensors.torch import save
from torch.nn import functional as F

from handler.latents import from_seeds
from training.config import Count, nearest
from training.data.decode import PictureSpec
from training.files import atomic_path, sha256_of
from training.lab.arithmetic import KNOWN, TERMS, Concept, Pool, plan, random_directions
from training.lab.commands import (
    OfWeights,
    UsageError,
    check_place,
    rows_of,
    table,
    write_markdown,
    write_png,
)
from training.lab.judge import (
    BATCH,
    REFEREE_WIDTHS,
    WIDTHS,
    AttributeClassifier,
    alike,
    fit,
    has_labels,
    judge_of,
    likeliest,
    referee_of,
)
from training.lab.labels import load_labelled
from training.networks import Generator
from training.samples import Latents, draw
from training.weights import WeightsInfo, load_generator

Kind = Literal["learned", "closed-form"]

FORMAT = "dcgan-directions-1"
MOST = 64  # directions in a file
# First seeds of three sets that share none: to learn from, to choose a strength by, to report on.
LEARNED_FROM, CHOSEN_FROM, REPORTED_FROM = 1_000_000, 2_000_000, 0
STRENGTHS = (0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5, 1.75, 2.0)  # that are tried
ENOUGH = 0.97  # success from which no more strength is taken
# Below, a direction is reported and not kept: it would mostly do nothing; or it spoils the picture,
# of which the referee sees little else unchanged, and fools both classifiers.
LEAST_SUCCESS, LEAST_KEPT = 0.5, 0.4
LATENTS = 48  # an update; none serves twice for one concept
RATE = 0.1  # Adam's at the start; it falls to 0 along a cosine
# Weight of what else changes: KL(before || after), summed over the other attributes; the smaller
# one where the concept is not to be had otherwise.
KEEP = (0.5, 0.15)
SHORT = 0.002  # weight of the squared length
COLUMNS = 9  # of the picture
NOISE = 0.05  # grain that is laid over pictures before the judge sees them; it knows no shifts
STEP = 2.0  # of strength 1 along a direction in closed form
RANGES: dict[Kind, tuple[float, float]] = {"learned": (-1.0, 2.0), "closed-form": (-2.0, 2.0)}
TRIALS = 5  # differences of means, from different samples, whose numbers are averaged
UPDATES = 1500  # of a classifier of --labels
LEAST_LABELLED = 5 * BATCH // 2  # pictures, of which two fifths are a batch of each classifier
CONCEPTS = (
    "glasses", "monocle", "dots", "lashes", "smiling", "black-hat", "red-hat", "pink-bow",
    "blue-bow", "blue-scarf", "red-scarf", "headband", "medal", "red-headphones",
    "silver-headphones", "bandana", "machine", "dark-eye-patch", "green", "black",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Directions(OfWeights):
    """Find directions of the latent, one a concept, and keep them in a file for the server.

    For labelled pictures (the avatars, or your own) they are learned. Others need no labels: those
    that the Generator's first layer answers to most strongly.
    """

    out: Path = Path("model_store/directions.safetensors")
    """The file."""
    labels: Path | None = None
    """Your labelled pictures: a folder with a folder a class, or a .csv with a column file and
    one column an attribute. What is known of the avatars when omitted."""
    concepts: tuple[str, ...] = ()
    """Which to learn, by name; 20 of the avatars', or all of --labels, when omitted."""
    closed_form: Annotated[int, Ge(0)] = 8
    """How many without labels: direction-1, the strongest, and so on."""
    steps: Count = 160
    """Updates of Adam a concept."""
    samples: Annotated[int, Ge(8)] = 400
    """Latents that the numbers are over; half as many choose the strength."""
    markdown: Path | None = None
    """.md: write the table here, and not to stderr; between its markers where it has them."""
    picture: Path | None = None
    """.png: first some cats; then a row a learned direction, these with it; then a row a direction
    without labels, the first cat moved along it."""

    def check(self) -> None:
        super().check()
        check_place("--out", self.out, ".safetensors")
        check_place("--markdown", self.markdown, ".md")
        check_place("--picture", self.picture, ".png")

    def result(self) -> dict[str, Any]:
        """Write the file; returns what is known of each direction.

        Of a learned one: ``success``, the share of latents without the concept on whose pictures
        the referee sees it after a step of strength 1; ``kept``, for how many it sees the same in
        each other attribute; the same for differences of ``means_of_three``. Those that do not
        work are ``left_out`` of the file. Of one in closed form: ``share_of_strength``, of how
        strongly the first layer answers to all; ``pixel_change``, in grey levels, for a step of
        length 1, over 64 latents.
        """
        start = time.monotonic()
        generator, info = load_generator(self.weights)
        generator.requires_grad_(False).to(memory_format=torch.channels_last)
        court = self._court(info)
        number = min(self.closed_form, generator.nz) + (len(court.concepts) if court else 0)
        if not 1 <= number <= MOST:
            raise UsageError(
                f"{number} directions; a file holds 1 to {MOST}: see --concepts and --closed-form"
            )
        learned = self._learned(generator, court) if court else {}
        found = {name: d for name, d in learned.items() if works(d.numbers)}
        strengths, vectors = strongest_directions(generator)
        for i in range(min(self.closed_form, generator.nz)):
            numbers = {
                "share_of_strength": round(float(strengths[i] / strengths.sum()), 4),
                "pixel_change": pixel_change(generator, vectors[i]),
            }
            found[f"direction-{i + 1}"] = Direction("closed-form", STEP * vectors[i], numbers)
        if not found:
            raise UsageError(
                f"of {', '.join(learned)} none works on {self.weights}; see --closed-form"
            )
        save_directions(self.out, self.weights, found)
        if self.picture is not None:
            write_png(self.picture, self._rows(generator, found))
        write_markdown(self.markdown, "directions", markdown(learned | found))
        any_direction = random_directions(1, 1.0, generator.nz, seed=0)
        return {
            "out": str(self.out),
            "picture": self.picture and str(self.picture),
            "weights_sha256": sha256_of(self.weights),
            "seconds": round(time.monotonic() - start),
            "samples": self.samples,
            "referee_accuracy_on_unseen_real": court and court.accuracy,
            "directions": {name: direction.about() for name, direction in found.items()},
            "left_out": {n: d.about() for n, d in learned.items() if n not in found},
            "effective_dimensions": round(float(strengths.sum() ** 2 / (strengths**2).sum()), 1),
            "pixel_change_of_random": pixel_change(generator, any_direction),
        }

    def _court(self, info: WeightsInfo) -> Court | None:
        if self.labels is not None:
            court = court_of(self.labels, info)
            chosen = self.concepts or tuple(court.concepts)
        elif has_labels(info):
            judge = judge_of(info, self.weights)
            referee = referee_of(judge)
            court = Court(judge.classifier, referee.classifier, KNOWN, referee.accuracy)
            chosen = self.concepts or CONCEPTS
        elif self.concepts:
            raise UsageError(f"--concepts: {self.weights} has no labels; give --labels")
        else:
            return None
        for name in chosen:
            if name not in court.concepts:
                hint = nearest(name, court.concepts)
                raise UsageError(f"no concept {name!r}; {hint}known: {', '.join(court.concepts)}")
        return replace(court, concepts={name: court.concepts[name] for name in chosen})

    def _learned(self, generator: Generator, court: Court) -> dict[str, Direction]:
        court.judge.requires_grad_(False)
        count = self.steps * LATENTS
        latents = from_seeds(range(LEARNED_FROM, LEARNED_FROM + count), generator.nz)
        pool = Pool(latents, court.judge.classify(draw(generator, latents)))
        choosing, reporting = (
            Exam(generator, court.referee, range(first, first + size))
            for first, size in ((CHOSEN_FROM, self.samples // 2), (REPORTED_FROM, self.samples))
        )
        found = {}
        for name, concept in court.concepts.items():
            step = self._step(generator, court.judge, pool, choosing, concept)
            numbers = reporting.marks(concept, step)
            found[name] = Direction("learned", step, numbers | _means(pool, reporting, concept))
            print(f"{name}: {json.dumps(numbers)}", file=sys.stderr)
        return found

    def _step(
        self,
        generator: Generator,
        judge: AttributeClassifier,
        pool: Pool,
        choosing: Exam,
        concept: Concept,
    ) -> Latents:
        """Learned; once more, with less weight on the rest, where that is too much to ask."""
        tried = []
        for keep in KEEP:
            learned = learn(generator, judge, pool, concept, keep)
            tried.append(strong_enough(choosing, concept, learned))
            if tried[-1][1] == 1:
                break
        return max(tried, key=lambda found: found[1])[0]

    def _rows(self, generator: Generator, found: Mapping[str, Direction]) -> npt.NDArray[np.uint8]:
        bases = from_seeds(range(COLUMNS), generator.nz)
        rows = [draw(generator, bases)]
        for direction in found.values():
            if direction.kind == "learned":
                rows.append(draw(generator, bases + direction.step))
            else:
                low, high = RANGES[direction.kind]
                places = np.linspace(low, high, COLUMNS, dtype=np.float32)[:, None]
                rows.append(draw(generator, bases[:1] + places * direction.step))
        return rows_of(rows)


@dataclass(frozen=True, eq=False)
class Direction:
    """A step of strength 1.

    Attributes:
        step: float32 (nz,).
        numbers: what was measured of it.
    """

    kind: Kind
    step: Latents
    numbers: dict[str, Any]

    def about(self) -> dict[str, Any]:
        """As it stands in the file."""
        length = round(float(np.linalg.norm(self.step)), 2)
        return {"kind": self.kind, "range": RANGES[self.kind], "length": length, **self.numbers}


def save_directions(path: Path, weights: Path, found: Mapping[str, Direction]) -> None:
    """Write a float32 tensor (nz,) a name, and what is known of each, atomically.

    Metadata: ``format``; ``weights_sha256``, of the file that they were found for and are of use
    with; ``directions``, JSON of ``Direction.about`` by name.

    Raises:
        OSError: not writable.
    """
    metadata = {
        "format": FORMAT,
        "weights_sha256": sha256_of(weights),
        "directions": json.dumps({name: direction.about() for name, direction in found.items()}),
    }
    tensors = {name: torch.from_numpy(direction.step).float() for name, direction in found.items()}
    with atomic_path(path) as beside:
        beside.write_bytes(save(tensors, metadata))


@dataclass(frozen=True, eq=False)
class Court:
    """Two classifiers of the same attributes that learned apart, and what is looked for.

    Attributes:
        accuracy: the referee's, on pictures that neither has seen, by attribute.
    """

    judge: AttributeClassifier
    referee: AttributeClassifier
    concepts: dict[str, Concept]
    accuracy: dict[str, float]


def court_of(path: Path, info: WeightsInfo) -> Court:
    """Classifiers of somebody's own labelled pictures: two fifths of them each, one to measure.

    Raises:
        UsageError: as of ``load_labelled``, or there are too few.
    """
    spec = PictureSpec(
        image_size=info.image_size,
        channels="1" if info.channels == 1 else "3",
        background=info.provenance.get("background", "#ffffff"),
    )
    labelled = load_labelled(path, spec)
    images, labels, concepts = labelled.images, labelled.labels, labelled.concepts()
    if len(images) < LEAST_LABELLED or not concepts:
        raise UsageError(
            f"--labels {path}: {len(images)} pictures, {len(concepts)} classes of enough of them; "
            f"give {LEAST_LABELLED} or more"
        )
    parts = np.array_split(np.random.default_rng(0).permutation(len(images)), 5)
    classes = {name: len(values) for name, values in labelled.values.items()}
    classifiers: list[AttributeClassifier] = []
    for part, widths in ((parts[:2], WIDTHS), (parts[2:4], REFEREE_WIDTHS)):
        rows = np.concatenate(part)
        own = {name: values[rows] for name, values in labels.items()}
        epochs = -(-UPDATES // (len(rows) // BATCH))
        print(f"training a classifier on {len(rows):,} labelled pictures", file=sys.stderr)
        seed = len(classifiers)
        classifiers.append(fit(images[rows], own, epochs, seed, widths, classes))
    seen = likeliest(classifiers[1].classify(images[parts[4]]))
    right = alike(seen, {name: values[parts[4]] for name, values in labels.items()})
    accuracy = {name: round(share, 4) for name, share in right.items()}
    return Court(classifiers[0], classifiers[1], concepts, accuracy)


def learn(
    generator: Generator,
    judge: AttributeClassifier,
    pool: Pool,
    concept: Concept,
    keep: float,
) -> Latents:
    """The direction that gives pictures the concept and leaves the rest, to the judge.

    Pictures get grain before the judge sees them, so that no pattern of single pixels pleases it.

    Args:
        generator, judge: in eval mode, without gradients of their own.
        pool: latents, and what the judge sees before; each is used once.
        keep: one of ``KEEP``.

    Returns:
        float32 (nz,).
    """
    latents = torch.from_numpy(pool.latents)
    before = {name: torch.from_numpy(seen) for name, seen in pool.seen.items()}
    direction = torch.zeros(generator.nz, requires_grad=True)
    adam = torch.optim.Adam([direction], RATE, betas=(0.9, 0.99))
    batches = latents.new_tensor(range(len(latents)), dtype=torch.int64).split(LATENTS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, len(batches))
    rng = torch.Generator().manual_seed(0)
    for rows in batches:
        pictures = generator(latents[rows] + direction)
        seen = judge(pictures + NOISE * torch.randn(pictures.shape, generator=rng))
        logits = seen.pop(concept.attribute)
        loss = F.cross_entropy(logits, torch.full((len(rows),), concept.index))
        for name, others in seen.items():
            loss += keep * F.kl_div(
                others.log_softmax(1), before[name][rows], reduction="batchmean"
            )
        loss += SHORT * direction.square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return direction.detach().numpy()


class Exam:
    """Latents of seeds that nothing was learned from, and a referee."""

    def __init__(self, generator: Generator, referee: AttributeClassifier, seeds: range) -> None:
        self.generator, self.referee = generator, referee
        self.latents = from_seeds(seeds, generator.nz)
        self.before = likeliest(referee.classify(draw(generator, self.latents)))

    def marks(self, concept: Concept, step: Latents) -> dict[str, Any]:
        """For latents that lack the concept: how many have it one step on, and keep what else.

        Args:
            step: float32 (nz,).
        """
        lacking = np.flatnonzero(self.before[concept.attribute] != concept.index)
        if not len(lacking):
            raise UsageError(f"all of {len(self.latents)} samples have it; give more --samples")
        moved = draw(self.generator, self.latents[lacking] + step)
        after = likeliest(self.referee.classify(moved))
        same = alike(after, {name: seen[lacking] for name, seen in self.before.items()})
        del same[concept.attribute]
        success = float((after[concept.attribute] == concept.index).mean())
        kept = {name: round(share, 3) for name, share in same.items()}
        return {"success": round(success, 3), "kept": kept}


def strong_enough(exam: Exam, concept: Concept, direction: Latents) -> tuple[Latents, float]:
    """The shortest step that is nearly always a success; the best compromise where none is.

    Returns:
        float32 (nz,); and its success times what is kept, or 1 where it is nearly always one.
    """
    best, chosen = -1.0, direction
    for strength in STRENGTHS:
        step = np.float32(strength) * direction
        marks = exam.marks(concept, step)
        if marks["success"] >= ENOUGH:
            return step, 1.0
        value = marks["success"] * float(np.mean([*marks["kept"].values(), 1.0]))
        if value > best:
            best, chosen = value, step
    return chosen, best


def _means(pool: Pool, exam: Exam, concept: Concept) -> dict[str, Any]:
    """The marks of the paper's way: a mean of three latents with it minus one of three without."""
    try:
        trials, _ = plan(pool, concept, None, TERMS, TRIALS, bases=0)
    except UsageError:  # too few that have it
        return {}
    marks = [exam.marks(concept, trial.direction) for trial in trials]
    kept = {
        name: round(float(np.mean([mark["kept"][name] for mark in marks])), 3)
        for name in marks[0]["kept"]
    }
    success = round(float(np.mean([mark["success"] for mark in marks])), 3)
    return {"means_of_three": {"success": success, "kept": kept}}


def works(numbers: Mapping[str, Any]) -> bool:
    """Whether a learned direction does what its name says, and little else."""
    kept = list(numbers["kept"].values())
    enough = not kept or sum(kept) / len(kept) >= LEAST_KEPT
    return bool(numbers["success"] >= LEAST_SUCCESS and enough)


def markdown(found: Mapping[str, Direction]) -> str:
    """Tables of what was measured, and which of the learned are not in the file."""
    parts = []
    learned = {n: d.numbers for n, d in found.items() if d.kind == "learned"}
    if learned:
        attributes = list(dict.fromkeys(a for numbers in learned.values() for a in numbers["kept"]))
        rows = []
        for name, numbers in learned.items():
            both = (numbers, numbers.get("means_of_three", {}))
            row = [_cell(n.get("success")) for n in both]
            row += [
                " / ".join(_cell(n.get("kept", {}).get(a)) for n in both)
                if a in numbers["kept"]
                else ""
                for a in attributes
            ]
            rows.append([f"`{name}`", *row])
        kept = [f"{name} kept" for name in attributes]
        parts.append(table(["direction", "success", "means of three", *kept], rows))
        if bad := [f"`{name}`" for name, numbers in learned.items() if not works(numbers)]:
            parts.append(
                f"Not in the file: {', '.join(bad)}, with a success below {LEAST_SUCCESS:.0%}, or "
                f"below {LEAST_KEPT:.0%} kept in the mean of the attributes."
            )
    free = {n: d.numbers for n, d in found.items() if d.kind == "closed-form"}
    if free:
        rows = [
            [f"`{name}`", f"{numbers['share_of_strength']:.1%}", f"{numbers['pixel_change']:.1f}"]
            for name, numbers in free.items()
        ]
        parts.append(table(["direction", "share of strength", "grey levels"], rows))
    return "\n\n".join(parts)


def _cell(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def strongest_directions(generator: Generator) -> tuple[npt.NDArray[np.float64], Latents]:
    """Unit vectors by how much the first layer answers to them, the strongest first.

    That layer is linear in the latent, so they are eigenvectors of its weights (Shen and Zhou,
    arXiv:2007.06600, section 3.1); BatchNorm after it, which is a fixed scale in a trained
    network, is part of these weights here.

    Returns:
        squared lengths of the answers, float64 (nz,), and the directions, float32 (nz, nz).
    """
    projection = next(m for m in generator.layers if isinstance(m, torch.nn.ConvTranspose2d))
    norm = next(m for m in generator.layers if isinstance(m, torch.nn.BatchNorm2d))
    variance = torch.ones(1) if norm.running_var is None else norm.running_var
    scale = norm.weight.detach() / torch.sqrt(variance + norm.eps)
    weights = (projection.weight.detach() * scale[:, None, None]).double()  # (nz, maps, 4, 4)
    flat = weights.flatten(1).numpy()
    values, vectors = np.linalg.eigh(flat @ flat.T)
    found = np.ascontiguousarray(vectors[:, ::-1].T, dtype=np.float32)
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    return values[::-1], found * np.sign(largest)  # which way is plus is not up to the machine


def pixel_change(generator: Generator, direction: Latents) -> float:
    """Mean absolute change in grey levels for a step of length 1, over the seeds 0 to 63."""
    start = from_seeds(range(64), generator.nz)
    before, after = (draw(generator, z).astype(np.int16) for z in (start, start + direction))
    return round(float(np.abs(after - before).mean()), 2)
