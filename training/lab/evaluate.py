"""``python -m training evaluate``: how good the samples are, in numbers that say what they are.

Offline by default: the features are those of a classifier of the avatars, and what is measured
in them is called by its formula. FID and KID are only what torch-fidelity's Inception gives.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge

from handler.pixels import Images
from training.files import sha256_of
from training.health import pairwise_diversity
from training.lab import distances, memorisation
from training.lab.commands import UsageError, check_place, table, write_markdown
from training.lab.judge import Judge, by_attribute, clean_tiles
from training.lab.reals import AgainstReals, Reals
from training.samples import generate
from training.sliced import sliced_wasserstein_by_scale
from training.weights import load_generator

LEAST = 8  # samples, so that each measure is defined
NEIGHBOURS_OF = 1000  # pictures whose nearest neighbours are looked for

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluate(AgainstReals):
    """Measure samples: distances to real pictures, diversity, copies of training pictures.

    Prints one JSON object, and tables to stderr. What needs labels or weights that are not
    there is left out, and said so.
    """

    samples: Annotated[int, Ge(LEAST)] = 2000
    """Generated pictures, of seeds 0, 1, ..., and at most as many real ones."""
    inception_weights: Path | None = None
    """File of torch-fidelity's Inception weights, for FID and KID."""
    download: bool = False
    """Let torch-fidelity download these weights (96 MB), if no file is given."""
    beside: Path | None = None
    """An earlier result (JSON of this command), shown beside this one in the tables."""
    markdown: Path | None = None
    """.md: write the tables here, and not to stderr; between its markers where it has them, as the
    model card does."""

    def check(self) -> None:
        super().check()
        check_place("--markdown", self.markdown, ".md")

    def result(self) -> Result:
        """All numbers, each with what it is, and ``left_out``: what was not measured, and why."""
        earlier = None if self.beside is None else read_result(self.beside)
        generator, info = load_generator(self.weights)
        judge = self.judge(info)
        reals = self.reals(info, self.samples, judge)
        if len(reals.reference) < LEAST:
            raise UsageError(
                f"only {len(reals.reference)} real pictures to compare with; give {LEAST} or more"
            )
        samples = generate(generator, range(self.samples))
        measures, left_out = _Measures(samples, reals), []
        if judge is not None:
            measures.in_features(distances.judge_extractor(judge))
        else:
            left_out.append(
                "attributes, clean tiles, and distances and copies in features: the classifier "
                "behind them knows RGB avatars only"
            )
        if self.inception_weights is not None or self.download:
            measures.in_features(distances.inception_extractor(self.inception_weights))
        else:
            left_out.append("FID and KID: give --inception-weights FILE, or --download")
        measures.without_weights()
        left_out += [f"copies of {what}" for what in reals.missing]
        result = {
            "weights": str(self.weights),
            "weights_sha256": sha256_of(self.weights),
            "steps": info.provenance.get("steps"),
            "seeds": [0, len(samples) - 1],
            "measures": measures.found,
            **_neighbours(samples, reals, judge),
            "left_out": left_out,
        }
        write_markdown(self.markdown, "evaluate", markdown(result, earlier))
        return result


class _Measures:
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
        self.found: list[dict[str, Any]] = []

    def add(
        self,
        name: str,
        value: float,
        real: float,
        extractor: str = "pixels",
        resize: str = "none",
        count: int | None = None,
    ) -> None:
        self.found.append(
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

    def in_features(self, extractor: distances.Extractor) -> None:
        print(f"features: {extractor.name}", file=sys.stderr)
        samples, reference, others = (
            extractor.extract(x) for x in (self.samples, self.reference, self.others)
        )
        name = extractor.name
        if self.count <= samples.shape[1]:
            name += f" ({samples.shape[1]} dimensions need more samples: biased upwards)"
        if extractor.is_inception:
            labels = ("FID", "KID")
        else:
            labels = ("Fréchet distance, in features", "kernel distance (MMD²), in features")
        measures = (distances.frechet_distance, distances.kernel_distance)
        for label, distance in zip(labels, measures, strict=True):
            value, real = (distance(x, reference) for x in (samples, others))
            self.add(label, value, real, name, extractor.resize)
        found, usual = (distances.precision_recall(x, reference) for x in (samples, others))
        for i, label in enumerate(("precision", "recall")):
            self.add(f"{label}, in features", found[i], usual[i], name, extractor.resize)

    def without_weights(self) -> None:
        print("sliced Wasserstein distance, MS-SSIM", file=sys.stderr)
        found, real = (
            sliced_wasserstein_by_scale(x, self.reference) for x in (self.samples, self.others)
        )
        scales = [(f"{size} px", found[size], real[size]) for size in found]
        found_mean, real_mean = (float(np.mean([*x.values()])) for x in (found, real))
        for scale, value, usual in (*scales, ("mean of the scales", found_mean, real_mean)):
            name = f"sliced Wasserstein distance x 1000, {scale}"
            self.add(name, value, usual, "7 px patches of a Laplacian pyramid")
        for name, measure in (
            ("MS-SSIM between samples", distances.mean_pair_similarity),
            ("mean absolute difference between samples, in [-1, 1]", pairwise_diversity),
        ):
            self.add(name, measure(self.samples), measure(self.reference))
        self.add(
            "distance to the nearest training picture, grey levels, median",
            self._nearest(self.samples, None),
            self._nearest(self.reference, self.reals.rows),
            count=min(NEIGHBOURS_OF, self.count),
        )

    def _nearest(self, images: Images, rows: npt.NDArray[np.int64] | None) -> float:
        count = min(NEIGHBOURS_OF, len(images))
        found = memorisation.Space(memorisation.pixels).distances(
            images[:count], self.reals, None if rows is None else rows[:count]
        )
        return float(np.median(found)) / float(np.sqrt(images[0].size))


def _neighbours(samples: Images, reals: Reals, judge: Judge | None) -> Result:
    """What the nearest training pictures say: copies, and, with a judge, clean tiles."""
    print("looking for the nearest training pictures", file=sys.stderr)
    extract = judge.features if judge else None
    near, report = memorisation.examine(samples, reals, extract, NEIGHBOURS_OF)
    if judge is None or not reals.labels:
        return {"memorisation": report}
    on_samples, on_real = (judge.classifier.classify(x) for x in (samples, reals.reference))
    from_samples, from_real = (x.distances[:, 0] for x in near["features"])
    count = len(from_samples)
    about = {"judge": str(judge), "reference": reals.described}
    return {
        "memorisation": report,
        "attributes": {
            **about,
            "samples": len(samples),
            "by_attribute": by_attribute(on_samples, on_real, reals.labels),
        },
        "clean_tiles": {
            **about,
            "samples": count,
            **clean_tiles(
                {name: found[:count] for name, found in on_samples.items()},
                on_real,
                from_samples,
                from_real,
            ),
        },
    }


def read_result(path: Path) -> Result:
    """What ``evaluate`` printed.

    Raises:
        UsageError: the file is missing or something else.
    """
    try:
        result = json.loads(path.read_bytes())
        if isinstance(result, dict) and "measures" in result:
            return result
        reason = "it has no 'measures'"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise UsageError(f"--beside {path} is no result of this command: {reason}")


def markdown(result: Result, earlier: Result | None = None) -> str:
    """Tables with all numbers, and what is to be known of each.

    Args:
        result: of ``evaluate``.
        earlier: another one, whose numbers get a column of their own.
    """
    results = [result] if earlier is None else [earlier, result]
    heads = ["samples"] if earlier is None else ["before", "now"]
    parts = [_measures(results, heads), _memorisation(results, heads)]
    if "attributes" in result:
        parts += [_tiles(results, heads), _attributes(results, heads)]
    if result["left_out"]:
        parts.append("Left out:\n\n" + "\n".join(f"* {what}" for what in result["left_out"]))
    return "\n\n".join(parts)


def _measures(results: list[Result], heads: list[str]) -> str:
    known = [{m["name"]: m for m in r["measures"]} for r in results]
    rows = []
    for name, m in known[-1].items():
        values = [f"{k[name]['value']:g}" if name in k else "" for k in known]
        about = [f"{m['real']:g}", f"{m['samples']:,}", m["extractor"], m["resize"]]
        rows.append([name, *values, *about])
    references = " / ".join(dict.fromkeys(m["reference"] for m in known[-1].values()))
    note = (
        f"Reference: {references}. *Real* is the same number for as many training pictures as "
        "samples, or, where samples are compared with one another or with training pictures, for "
        "the reference."
    )
    return table(["", *heads, "real", "pictures", "extractor", "resize"], rows) + "\n\n" + note


def _memorisation(results: list[Result], heads: list[str]) -> str:
    spaces = [k for k, v in results[-1]["memorisation"].items() if isinstance(v, dict)]
    rows = []
    for space in spaces:
        for key, label, usual in (
            ("c_t", "C_T, negative for copies", "0"),
            ("nearer_than_a_tenth", "share nearer than the nearest tenth of the real", "0.1"),
        ):
            cells = [str(r["memorisation"].get(space, {}).get(key, "")) for r in results]
            rows.append([f"{space}: {label}", *cells, usual])
    verdicts = [
        f"{head}: {result['memorisation']['verdict']}"
        for head, result in zip(heads, results, strict=True)
    ]
    found = results[-1]["memorisation"]
    note = (
        f"{found['samples']:,} samples, and {found['references']:,} real pictures (from "
        f"{found['reference']}), each against "
        f"{found['trained_on']:,} training pictures. Verdict, " + "; ".join(verdicts) + "."
    )
    return table(["copies of training pictures", *heads, "no copies"], rows) + "\n\n" + note


def _tiles(results: list[Result], heads: list[str]) -> str:
    tiles = [r.get("clean_tiles", {}) for r in results]
    rows = []
    for key, label in (
        ("recognised", "judge sure of " + ", ".join(tiles[-1]["recognised_by"])),
        ("near_real", "as near to real pictures as 99 % of real ones"),
    ):
        if key not in tiles[-1]:
            continue
        cells = [
            f"{t[key]['tiles']} of {t['of']} ({t[key]['share_of_samples']:.1%} of {t['samples']:,})"
            if key in t
            else ""
            for t in tiles
        ]
        rows.append([label, *cells, f"{tiles[-1][key]['share_of_real']:.1%}"])
    return table(["clean tiles", *heads, "real"], rows)


def _attributes(results: list[Result], heads: list[str]) -> str:
    by_result = [r.get("attributes", {}).get("by_attribute", {}) for r in results]
    rows = []
    for name, found in by_result[-1].items():
        row = [name, f"{found['accuracy_on_real']:.3f}", f"{found['sure_on_real']:.3f}"]
        for key in ("sure_on_samples", "histogram_distance"):
            row += [f"{t[name][key]:.3f}" if name in t else "" for t in by_result]
        farthest = [
            f"{f['class']}: {f['share_of_samples']:.1%} (real {f['share_of_real']:.1%})"
            for f in (found["most_too_often"], found["most_too_seldom"])
        ]
        rows.append([*row, f"{found['classes_seen']} of {found['classes']}", *farthest])
    means = [
        f"{sum(a['histogram_distance'] for a in t.values()) / len(t):.3f}" if t else ""
        for t in by_result
    ]
    rows.append(["mean", "", "", *[""] * len(by_result), *means, "", "", ""])
    kinds = ("sure on samples", "histogram distance")
    columns = [f"{kind}, {head}" if len(heads) > 1 else kind for kind in kinds for head in heads]
    note = (
        f"Judge: {results[-1]['attributes']['judge']}. *Sure* is the share of pictures for which "
        "it gives one class 0.9 or more. *Histogram distance* is the total variation between its "
        "classes on samples and on the reference: 0 the same, 1 disjoint. The last two columns "
        "name the classes whose shares are farthest from those of the reference."
    )
    last = ["classes among samples", "most too often", "most too seldom"]
    head = ["attribute", "accuracy on real", "sure on real", *columns, *last]
    return table(head, rows) + "\n\n" + note
