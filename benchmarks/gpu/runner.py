"""Runs stages, each in a process of its own, and makes tables of what they found.

It needs no more than psutil and tabulate beside the standard library, and torch is not imported:
this process must not hold a GPU.
"""

from __future__ import annotations

import importlib
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import psutil

from benchmarks.command import end_on_sigterm, markdown

Row = dict[str, Any]  # cells by their columns; ok False makes the stage fail at its end
End = tuple[Literal["passed", "failed", "skipped"], str]  # and why
OWN = ("benchmarks", "client", "deploy", "export", "handler", "training")
_LEAST_S = 5.0  # a stage is not begun with less time left
_GRACE_S = 15.0  # for a stage to end, once it has told its end or was told to: it has servers


class SkipStage(Exception):  # noqa: N818 - it is no error
    """The stage does not fit the machine; the message says why."""


@dataclass(frozen=True)
class Bench:
    """What every stage is given.

    Args:
        on_gpu: on ``cuda:0``; else on the CPU.
        quick: small numbers.
        model: the unpacked archive.
        folder: for files that go away at the end.
        seconds: most time of the stage, which can choose what to leave out.
    """

    on_gpu: bool
    quick: bool
    model: Path
    folder: Path
    seconds: float = 0.0

    @property
    def device(self) -> str:
        return "cuda:0" if self.on_gpu else "cpu"


@dataclass(frozen=True)
class Stage:
    """Some rows of the result.

    Args:
        name: of a function of ``module``: Bench -> rows, one after the other.
        limit_s: after so long it is ended.
    """

    name: str
    limit_s: float
    module: str = "benchmarks.gpu.stages"


class Results:
    """In a folder: the rows so far (``results.jsonl``), what stages print (``stages.log``).

    Raises:
        OSError: it cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.log = folder / "results.jsonl", folder / "stages.log"
        for path in (self.file, self.log):
            path.write_text("", encoding="utf-8")

    def add(self, row: Row) -> None:
        """Write a row, at once."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def rows(self) -> list[Row]:
        """All so far, whichever process has written them; not one that was broken off."""
        found = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return found


def run(chosen: Sequence[Stage], bench: Bench, results: Results, seconds: float) -> None:
    """One stage after the other; how each ended is a row too. None is begun when the time is up,
    nor when the first of all has failed."""
    deadline, barred = time.monotonic() + seconds, ""
    for stage in chosen:
        began = time.monotonic()
        limit_s = min(stage.limit_s, deadline - began)
        if not barred and limit_s < _LEAST_S:
            barred = f"the {seconds:g} s were over"
        if barred:
            ended, reason = "skipped", barred
        else:
            print(f"{stage.name} (at most {limit_s:.0f} s)", file=sys.stderr)
            ended, reason = run_stage(stage, replace(bench, seconds=limit_s), results)
        took_s = round(time.monotonic() - began, 1)
        results.add({"stage": stage.name, "ended": ended, "reason": reason, "seconds": took_s})
        print(f"{stage.name} {ended} after {took_s:g} s. {reason}".rstrip(), file=sys.stderr)
        if stage.name == "machine" and ended != "passed":
            barred = f"machine {ended}: {reason}"


def run_stage(stage: Stage, bench: Bench, results: Results) -> End:
    """Run one in a new process (not a fork: CUDA does not survive one) for ``bench.seconds``."""
    context = multiprocessing.get_context("spawn")
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(stage, bench, results, tell))
    process.start()
    tell.close()
    late = True
    try:
        late = not told.poll(bench.seconds)  # true too when the process has ended without a word
        process.join(0 if late else _GRACE_S)
    finally:
        if process.is_alive() and process.pid is not None:
            _end(process.pid)
        process.join()
    if late:
        return "failed", f"no end after {bench.seconds:.0f} s"
    with suppress(EOFError):
        end: End = told.recv()
        return end
    code = process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return "failed", f"its process crashed ({how}); see {results.log}"


def _work(stage: Stage, bench: Bench, results: Results, parent: Connection) -> None:
    """In the process of a stage."""
    end_on_sigterm()
    log = os.open(results.log, os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    print(f"== {stage.name}", flush=True)
    end: End = "passed", ""
    try:
        wrong = 0
        for row in getattr(importlib.import_module(stage.module), stage.name)(bench):
            results.add({"stage": stage.name, **row})
            wrong += row.get("ok") is False
        if wrong:
            end = "failed", f"rows that are not ok: {wrong}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is this stage's
        traceback.print_exc()
        end = _end_by(error)
    parent.send(end)  # what comes after does not count: without its GPU Python may end in a crash


def _end_by(error: BaseException) -> End:
    """A package that is not installed is no fault; anything else is."""
    if isinstance(error, SkipStage):
        return "skipped", str(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in OWN:
        return "skipped", f"{error.name} is not installed"
    return "failed", f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"


def _end(pid: int) -> None:
    """End a stage: first as Ctrl-C would, so that its servers stop; then with all it started."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        process.terminate()
        for member in psutil.wait_procs(family, _GRACE_S)[1]:
            with suppress(psutil.NoSuchProcess):
                member.kill()


def report(rows: Sequence[Row]) -> str:
    """How the stages ended, then the rows of each, as Markdown."""
    ends = [row for row in rows if "ended" in row]
    columns = ("stage", "ended", "seconds", "reason")
    blocks = [markdown(columns, [[row[column] for column in columns] for row in ends])]
    measured = (row for row in rows if "ended" not in row)
    for name, group in itertools.groupby(measured, lambda row: row["stage"]):
        own = list(group)
        head = list(dict.fromkeys(key for row in own for key in row if key != "stage"))
        lines = [[_cell(row.get(key)) for key in head] for row in own]
        blocks.append(f"{name}:\n\n{markdown(head, lines)}")
    return "\n\n".join(blocks)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value)
