"""``python -m benchmarks.experiments``: make docs/experiments.md and the model card anew.

Runs every command of docs/experiments.md, which write its pictures, measures the shipped weights
beside the first ones that were shipped, and fills the parts between ``<!-- numbers: name -->``
and ``<!-- end -->`` in both documents. Read the text around them afterwards: it is by hand.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro

from benchmarks import experiments_text as text
from benchmarks.documents import fill, parts_of
from benchmarks.machine import machine
from training.config import ConfigError, TrainConfig, differences
from training.files import atomic_path
from training.start import parse, saved_settings, settled_precision
from training.weights import WeightsError, load_generator

DOCUMENT = Path("docs/experiments.md")
CARD = Path("model_store/MODEL_CARD.md")
WEIGHTS = Path("model_store/generator.safetensors")
FIRST = Path("docs/evaluation/first.json")  # of the first weights that were shipped
SHIPPED = Path("docs/evaluation/shipped.json")
PYTHON = ".venv/bin/python -m training "

Result = dict[str, Any]


@dataclass(frozen=True)
class ExperimentsConfig:
    """Make all pictures and numbers of what the shipped weights have learned."""

    only: tuple[str, ...] = ()
    """Parts to make: the names in ``<!-- numbers: name -->``, or pictures; all when omitted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = tyro.cli(ExperimentsConfig, prog="python -m benchmarks.experiments", args=arguments)
    documents = {path: path.read_text(encoding="utf-8") for path in (DOCUMENT, CARD)}
    known = {name for words in documents.values() for name in parts_of(words)} | {"pictures"}
    if wrong := sorted(set(config.only) - known):
        print(f"error: no part {wrong[0]!r}; choose from {', '.join(sorted(known))}",
              file=sys.stderr)  # fmt: skip
        return 2
    wanted = set(config.only) or known
    try:
        if "pictures" in wanted:
            for command in commands_of(documents[DOCUMENT]):
                picture(command)
        made = {name: make() for name, make in MAKERS.items() if name in wanted}
    except subprocess.CalledProcessError as error:
        print(f"error: {shlex.join(error.cmd)} ended with {error.returncode}", file=sys.stderr)
        return 1
    for path in documents:
        fill(path, made)
    print(json.dumps({"made": sorted(wanted), "documents": [str(path) for path in documents]}))
    return 0


def commands_of(document: str) -> list[list[str]]:
    """The arguments of each ``python -m training`` in the shell blocks of a document."""
    blocks = re.findall(r"```sh\n(.*?)```", document, re.DOTALL)
    lines = [c.strip() for b in blocks for c in b.replace("\\\n", " ").splitlines() if c.strip()]
    return [shlex.split(line.split(PYTHON, 1)[1]) for line in lines if PYTHON in line]


def run(arguments: Sequence[str]) -> Result:
    """``python -m training`` with these arguments; what it prints.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is on stderr.
    """
    command = [sys.executable, "-m", "training", *arguments]
    print(f"$ python -m training {shlex.join(arguments)}", file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: Result = json.loads(done.stdout)
    return result


def picture(arguments: list[str]) -> None:
    """Run one command of the document; a run that is there already is not trained again.

    One that is unfinished or of other settings is moved aside.
    """
    if arguments[0].startswith("-"):
        wanted = settled_precision(parse(arguments))
        assert wanted.out is not None
        if is_trained(wanted, wanted.out):
            return
        if wanted.out.exists():
            aside = wanted.out.with_name(
                f"{wanted.out.name}-until-{time.strftime('%Y%m%d-%H%M%S')}"
            )
            print(f"{wanted.out} is unfinished or of other settings; now {aside}", file=sys.stderr)
            wanted.out.rename(aside)
    if arguments[0] not in ("evaluate", "neighbours"):  # these are run for their numbers
        run(arguments)


def is_trained(wanted: TrainConfig, out: Path) -> bool:
    """Whether the run of these settings, and with these lines and grids, has ended in ``out``."""
    try:
        saved = saved_settings(out)
        _, info = load_generator(out / "generator.safetensors")
    except (ConfigError, FileNotFoundError, WeightsError):
        return False
    shown = ("max_steps", "sample_every", "log_every")
    return (
        not differences(saved, wanted)
        and all(getattr(saved, name) == getattr(wanted, name) for name in shown)
        and info.provenance.get("steps") == wanted.max_steps
    )


def _out_of_document(command: str) -> list[str]:
    """The document's own command of that name."""
    every = commands_of(DOCUMENT.read_text(encoding="utf-8"))
    return next(arguments for arguments in every if arguments[0] == command)


def _evaluation() -> str:
    first = json.loads(FIRST.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.md"
        flags = ["--markdown", str(table)]
        digest = text.sha256(WEIGHTS)
        if first["weights_sha256"] != digest:
            flags += ["--beside", str(FIRST)]
        result = run([*_out_of_document("evaluate"), *flags])
        with atomic_path(SHIPPED) as beside:
            beside.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
        return f"{_measured()}\n\n{table.read_text(encoding='utf-8')}"


def _measured() -> str:
    today = datetime.now(UTC).date().isoformat()
    return f"`{PYTHON}evaluate`, {machine()}, {today}."


def _arithmetic() -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", str(Path(folder) / "a.png")]
        rows = {row: _sum(["--concept", *shlex.split(row), *out]) for row in text.ARITHMETIC}
    return text.arithmetic_table(rows)


def _sum(flags: list[str]) -> Result | None:
    """One row; None when too few samples have the concept, which the command has said."""
    try:
        return run(["arithmetic", *flags])
    except subprocess.CalledProcessError as error:
        if error.returncode != 2:
            raise
        return None


def _walk() -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "w.png")
        steps = {steps: run(["walk", "--steps", str(steps), "--out", out]) for steps in (10, 100)}
    return text.walk_words(steps)


MAKERS: dict[str, Callable[[], str]] = {
    "evaluation": _evaluation,
    "facts": lambda: text.facts(load_generator(WEIGHTS)[1]),
    "neighbours": lambda: text.neighbours_words(run(_out_of_document("neighbours"))),
    "walk": _walk,
    "arithmetic": _arithmetic,
    "directions": lambda: text.directions_words(run(_out_of_document("directions"))),
    "filters": lambda: text.filters_words(run(_out_of_document("filters"))),
}

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    sys.exit(main())
