"""Sentences and tables with the numbers of the experiments."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from training.weights import WeightsInfo

Result = dict[str, Any]

# Rows of the table: what follows ``arithmetic --concept``.
ARITHMETIC = (
    "glasses",
    "glasses --terms 1 --trials 30",
    "glasses --terms 12",
    "glasses --strength 1.5",
    "glasses --keep-length",
    "bandana",
    "blue-scarf",
    "red-scarf",
    "red-scarf --without blue-scarf",
    "black-hat",
    "smiling --samples 6000",
)


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def arithmetic_table(rows: dict[str, Result | None]) -> str:
    """How often the sum has the concept, by row of ``ARITHMETIC``; None is too few samples."""
    lines = [
        "| `--concept` | sure samples | before | after (worst to best direction) "
        "| random direction | keep colour | keep accessory |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, found in rows.items():
        if found is None:
            lines.append(f"| `{row}` | too few | | | | | |")
            continue
        has, kept = found["has_concept"], found["kept"]
        cells = [
            f"`{row}`",
            f"{found['surely_with']} of {found['samples']:,}",
            f"{has['before']:.0%}",
            f"{has['after']:.0%} ({has['after_lowest']:.0%} to {has['after_highest']:.0%})",
            f"{has['random_direction']:.0%}",
            *(
                f"{kept[a]['after']:.0%} (random {kept[a]['random_direction']:.0%})"
                if a in kept
                else ""
                for a in ("body", "accessory")
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    accuracy: dict[str, float] = next(
        (r["judge_accuracy_on_unseen_real"] for r in rows.values() if r), {}
    )
    told = ", ".join(f"{name} {share:.1%}" for name, share in accuracy.items())
    return "\n".join(lines) + f"\n\nThe classifier is right on unseen real avatars: {told}."


def walk_words(steps: dict[int, Result]) -> str:
    """How the largest step shrinks with more steps."""
    few, many = steps[10], steps[100]
    return (
        "The largest change from a picture to the next (mean absolute difference) is "
        f"{few['largest_step']} grey levels with 10 pictures a leg and {many['largest_step']} "
        f"with `--steps 100`, eleven times shorter; the ends of a leg are {few['ends']} apart."
    )


def directions_words(found: Result) -> str:
    """How many dimensions count, and how strong the first is."""
    change = found["pixel_change"]
    return (
        f"Of {found['nz']} dimensions {found['effective_dimensions']} count (participation ratio "
        "of the strengths: all of them if each were as strong as the others). A step of length 1 "
        f"changes the picture by {change['directions'][0]} grey levels along the strongest "
        f"direction, by {change['random']} along a random one."
    )


def filters_words(found: Result) -> str:
    """How well the strongest pictures of a filter agree."""
    agree = found["labels_agree"]
    return (
        "With labels this can be counted: of the 16 pictures that a filter reacts to most, the "
        "share of the commonest class of its best attribute, averaged over all filters, is "
        f"{agree['learned']:.2f} learned, {agree['random']:.2f} random, {agree['chance']:.2f} for "
        "pictures drawn by lot."
    )


def neighbours_words(found: Result) -> str:
    """The verdict on copies, and its numbers."""
    spaces = [name for name, value in found.items() if isinstance(value, dict)]
    told = "; ".join(
        f"in {name} C_T is {found[name]['c_t']} and {found[name]['nearer_than_a_tenth']:.0%} are "
        "as near as the nearest tenth of the real ones"
        for name in spaces
    )
    return (
        f"Verdict on {found['samples']:,} samples against {found['trained_on']:,} training "
        f"pictures: **{found['verdict']}** ({told})."
    )


def facts(info: WeightsInfo) -> str:
    """The model card's list of where the weights come from."""
    made = info.provenance
    recipe = ", ".join(
        f"{name.replace('_', '-')} {value}"
        for name, value in made.items()
        if name not in ("data", "pictures", "steps", "ended", "seconds", "device", "torch",
                        "precision", "recipe", "background", "start_from", "seed")
        and value is not None
    )  # fmt: skip
    # Older weights tell their time; now stats.jsonl does, and a run gives the same bytes twice.
    minutes = f", {made['seconds'] / 60:.0f} minutes" if "seconds" in made else ""
    start = f", started from {made['start_from']}" if made.get("start_from") else ""
    return (
        f"* **Network:** {info.nz} standard normal numbers to a {info.image_size} px "
        f"{'RGB' if info.channels == 3 else 'grey'} picture, ngf {info.ngf}, float32.\n"
        f"* **Data:** {made['pictures']:,} {made['data']} on {made['background']}.\n"
        f"* **Recipe:** {made['recipe']}: {recipe}; seed {made['seed']}{start}.\n"
        f"* **Training:** {made['steps']:,} updates{minutes} on "
        f"{made['device']} ({made['precision']}, torch {made['torch']})."
    )
