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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import psutil

from benchmarks.command import end_on_sigterm, markdown
from deploy.java import NoJavaError

Row = dict[str, Any]  # cells by their columns; ok False makes the stage fail at its end
End = tuple[Literal["passed", "failed", "skipped"], str]  # and why
OWN = ("benchmarks", "client", "deploy", "export", "handler", "training")
_LEAST_S = 5.0  # a stage is not begun with less time left
_GRACE_S = 15.0  # for a stage to end, once it has told its end or was told to: it has servers


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


def run(chosen: Sequence[Stage], bench: Bench, out: Path, seconds: float) -> Iterator[Row]:
    """One stage after the other: their rows, each after what it is written to ``results.jsonl`` in
    ``out``; how a stage ended is a row too. None is begun when the time is up, nor when the first
    of all has failed. What stages print is in ``stages.log``."""
    deadline, barred = time.monotonic() + seconds, ""
    with (out / "results.jsonl").open("w", buffering=1, encoding="utf-8") as file:

        def kept(row: Row) -> Row:
            file.write(json.dumps(row) + "\n")
            return row

        for stage in chosen:
            began = time.monotonic()
            limit_s = min(stage.limit_s, deadline - began)
            if not barred and limit_s < _LEAST_S:
                barred = f"the {seconds:g} s were over"
            end: End = "skipped", barred
            if not barred:
                print(f"{stage.name} (at most {limit_s:.0f} s)", file=sys.stderr)
                for told in _run_stage(stage, replace(bench, seconds=limit_s), out / "stages.log"):
                    if isinstance(told, dict):
                        yield kept({"stage": stage.name, **told})
                    else:
                        end = told
            (ended, reason), took_s = end, round(time.monotonic() - began, 1)
            print(f"{stage.name} {ended} after {took_s:g} s. {reason}".rstrip(), file=sys.stderr)
            yield kept({"stage": stage.name, "ended": ended, "reason": reason, "seconds": took_s})
            if stage.name == "machine" and ended != "passed":
                barred = f"machine {ended}: {reason}"


def _run_stage(stage: Stage, bench: Bench, log: Path) -> Iterator[Row | End]:
    """Run one in a new process (not a fork: CUDA does not survive one) for ``bench.seconds``; its
    rows, and then how it ended."""
    context = multiprocessing.get_context("spawn")
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(stage, bench, log, tell))
    process.start()
    tell.close()
    deadline = time.monotonic() + bench.seconds
    try:
        # True too when the process has ended without a word.
        while told.poll(max(0.0, deadline - time.monotonic())):
            said: Row | End = told.recv()
            yield said
            if isinstance(said, tuple):
                process.join(_GRACE_S)
                return
        yield "failed", f"no end after {bench.seconds:.0f} s"
    except EOFError:
        process.join(_GRACE_S)
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        yield "failed", f"its process crashed ({how}); see {log}"
    finally:
        if process.is_alive() and process.pid is not None:
            _end(process.pid)
        process.join(_GRACE_S)  # one that a driver does not let go outlives SIGKILL


def _work(stage: Stage, bench: Bench, log: Path, parent: Connection) -> None:
    """In the process of a stage."""
    end_on_sigterm()
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    print(f"== {stage.name}", flush=True)
    end: End = "passed", ""
    try:
        wrong = 0
        for row in getattr(importlib.import_module(stage.module), stage.name)(bench):
            parent.send(json.loads(json.dumps(row)))  # what is no JSON fails here
            wrong += row.get("ok") is False
        if wrong:
            end = "failed", f"rows that are not ok: {wrong}"
    except NoJavaError as error:
        end = "skipped", str(error)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is this stage's
        traceback.print_exc()
        end = "failed", f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        # A package that is not installed is no fault.
        lacking = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
        if lacking and lacking.split(".")[0] not in OWN:
            end = "skipped", f"{lacking} is not installed"
    parent.send(end)  # what comes after does not count: without its GPU Python may end in a crash


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
