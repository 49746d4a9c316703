"""``python -m benchmarks.gpu``: what a GPU does here, checked and measured in under 8 minutes.

Stage after stage, each in a process of its own with a time limit: one that hangs or crashes costs
itself alone. What a stage finds is appended to ``results.jsonl`` at once; at the end all of it is
printed to stdout as tables, which are left in ``table.md`` too; progress goes to stderr. What does
not fit the machine is skipped, with the reason.

Exit codes: 0 no stage failed, 1 one did, 2 bad usage, 130 after Ctrl-C or SIGTERM, with what there
is.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import UsageError, run_main, today, within
from benchmarks.gpu.runner import Bench, Row, Stage, report, run

ARCHIVE = Path("model_store/dcgan.mar")
STAGES = (  # the first one says whether there is a GPU, and reads gigabytes of libraries
    Stage("machine", 180),
    Stage("capture", 80),
    Stage("pixels", 80),
    Stage("sameness", 80),
    Stage("speed", 120),
    Stage("memory", 60),
    Stage("lost", 40),
    Stage("service", 80),
    Stage("updates", 100),
    Stage("resume", 80),
    Stage("processes", 80),
    Stage("served", 300, "benchmarks.gpu.served"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = _parse(words)
    out = given.out or Path("runs/gpu-check") / time.strftime("%Y%m%d-%H%M%S")
    if not ARCHIVE.is_file():
        print(f"error: there is no {ARCHIVE}; run: python -m export", file=sys.stderr)
        return 2
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "stages.log").write_text("", encoding="utf-8")
    except OSError as error:
        print(f"error: --out {out}: {error.strerror}; give another folder", file=sys.stderr)
        return 2
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="dcgan-gpu-") as temporary:
        model = Path(temporary) / "model"
        with zipfile.ZipFile(ARCHIVE) as packed:
            packed.extractall(model)
        bench = Bench(given.device == "cuda", given.quick, model, Path(temporary))
        chosen = [stage for stage in STAGES if stage.name in given.only]
        interrupted = False
        try:
            for row in run(chosen, bench, out, 60 * given.minutes):
                rows.append(row)  # one by one: what there is stays after Ctrl-C
        except KeyboardInterrupt:
            interrupted = True
    command = shlex.join(["python", "-m", "benchmarks.gpu", *words])
    table = f"`{command}`, {today()}\n\n{report(rows)}\n"
    (out / "table.md").write_text(table, encoding="utf-8")
    print(table)
    return 130 if interrupted else int(any(row.get("ended") == "failed" for row in rows))


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Not by tyro: a machine that has no more than torch must be able to tell what it lacks."""
    names = [stage.name for stage in STAGES]
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cuda: the first GPU of CUDA_VISIBLE_DEVICES; cpu: a rehearsal",
    )
    add("--quick", action="store_true", help="small numbers, which say little")
    add("--only", nargs="+", choices=names, default=names, metavar="STAGE", help=", ".join(names))
    add("--minutes", type=float, default=8.0, help="most time in all; 8 if left out")
    add("--out", type=Path, help="a folder; runs/gpu-check/DATE-TIME if left out")
    given = parser.parse_args(words)
    try:
        within("--minutes", given.minutes, 0.1, 60)
    except UsageError as error:
        parser.error(str(error))
    return given


if __name__ == "__main__":
    run_main(main)
