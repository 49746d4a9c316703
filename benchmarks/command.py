"""What the commands share: the ranges of their settings, how they end, what they write."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NoReturn, get_type_hints

import psutil
from tabulate import tabulate  # type: ignore[import-untyped]

from client import files
from deploy.java import NoJavaError
from deploy.lifecycle import ServerError
from handler.hardware import processor_name


class UsageError(ValueError):
    """A setting that cannot be used; the text says what can."""


@dataclass(frozen=True)
class Range:
    """What a number in the settings may be: ``Annotated[float, Range(0, 1)]``."""

    low: float
    high: float


def check(config: object) -> None:
    """Refuse a dataclass with a number out of its range; of a tuple each counts.

    Raises:
        UsageError: the first such setting, what was seen and what is allowed.
    """
    for name, hint in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        for allowed in getattr(hint, "__metadata__", ()):
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(allowed, Range) and number is not None:
                    within(name, number, allowed.low, allowed.high)


def within(name: str, number: float, low: float, high: float) -> None:
    """Refuse a number out of its range, or none at all (NaN).

    Raises:
        UsageError: it is.
    """
    if not low <= number <= high:
        raise UsageError(f"{name}: seen {number:g}; allowed is {low:g} to {high:g}")


def run_main(main: Callable[[], int]) -> NoReturn:
    """Call it and exit with its code; quietly, with 1, where who reads stdout has seen enough.
    SIGTERM is what Ctrl-C is."""
    end_on_sigterm()
    try:
        try:
            sys.exit(main())
        finally:  # --help too
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def ending(work: Callable[[], int]) -> int:
    """The exit code that the work gives; 130 after Ctrl-C. What the user can mend goes to stderr in
    a sentence, with 2 for a setting and 1 for what is not as it must be here; any other error is a
    fault of ours and keeps its traceback."""
    try:
        return work()
    except KeyboardInterrupt:
        return 130
    except (UsageError, ServerError, NoJavaError, OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def end_on_sigterm() -> None:
    """Make SIGTERM what Ctrl-C is: ``with`` blocks end, and no server is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def provenance(module: str, given: Sequence[str]) -> dict[str, str]:
    """How, when and where a result was measured."""
    command = shlex.join(["python", "-m", f"benchmarks.{module}", *given])
    return {"command": command, "date": today(), "machine": machine()}


def machine() -> str:
    """Processors, memory and GPU, such as ``2 x AMD EPYC, 24 GiB, no GPU``."""
    import torch

    memory = psutil.virtual_memory().total / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} x {processor_name('cpu')}, {memory:.0f} GiB, {gpu}"


def median_ms(step: Callable[[], Any], repeats: int) -> float:
    """Median milliseconds of a step, after one that is not counted."""
    step()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - began))
    return median(times)


def today() -> str:
    """The date, as results give it."""
    return time.strftime("%Y-%m-%d")


def markdown(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A table; cells are shown as they are."""
    table: str = tabulate(lines, head, tablefmt="github", disable_numparse=True)
    return table


def write(result: dict[str, Any], out: Path | None) -> None:
    """JSON to stdout, or to a file, whole or not at all; a folder that is missing is made."""
    if out is None:
        print(json.dumps(result, indent=1))
        return
    files.write(out, (json.dumps(result, indent=1) + "\n").encode())
