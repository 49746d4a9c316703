"""A result as tables in Markdown, with an earlier one beside it if there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.lab.usage import UsageError

Result = dict[str, Any]


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
    rows = [
        [name, *(_cell(k, name) for k in known), f"{m['real']:g}", f"{m['samples']:,}",
         m["extractor"], m["resize"]]
        for name, m in known[-1].items()
    ]  # fmt: skip
    references = " / ".join(dict.fromkeys(m["reference"] for m in known[-1].values()))
    note = (
        f"Reference: {references}. *Real* is the same number for as many training pictures as "
        "samples, or, where samples are compared with one another or with training pictures, for "
        "the reference."
    )
    return _table(["", *heads, "real", "pictures", "extractor", "resize"], rows) + "\n\n" + note


def _cell(known: dict[str, Any], name: str) -> str:
    return f"{known[name]['value']:g}" if name in known else ""


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
    told = [f"{h}: {r['memorisation']['verdict']}" for h, r in zip(heads, results, strict=True)]
    found = results[-1]["memorisation"]
    note = (
        f"{found['samples']:,} samples, and {found['references']:,} real pictures (from "
        f"{found['reference']}), each against "
        f"{found['trained_on']:,} training pictures. Verdict, " + "; ".join(told) + "."
    )
    return _table(["copies of training pictures", *heads, "no copies"], rows) + "\n\n" + note


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
            if key in t else ""
            for t in tiles
        ]  # fmt: skip
        rows.append([label, *cells, f"{tiles[-1][key]['share_of_real']:.1%}"])
    return _table(["clean tiles", *heads, "real"], rows)


def _attributes(results: list[Result], heads: list[str]) -> str:
    told = [r.get("attributes", {}).get("by_attribute", {}) for r in results]
    rows = []
    for name, found in told[-1].items():
        row = [name, f"{found['accuracy_on_real']:.3f}", f"{found['sure_on_real']:.3f}"]
        for key, form in (("sure_on_samples", "{:.3f}"), ("histogram_distance", "{:.3f}")):
            row += [form.format(t[name][key]) if name in t else "" for t in told]
        farthest = [
            f"{f['class']}: {f['share_of_samples']:.1%} (real {f['share_of_real']:.1%})"
            for f in (found["most_too_often"], found["most_too_seldom"])
        ]
        rows.append([*row, f"{found['classes_seen']} of {found['classes']}", *farthest])
    means = [
        f"{sum(a['histogram_distance'] for a in t.values()) / len(t):.3f}" if t else ""
        for t in told
    ]
    rows.append(["mean", "", "", *[""] * len(told), *means, "", "", ""])
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
    return _table(head, rows) + "\n\n" + note


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
