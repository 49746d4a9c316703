"""``python -m training``: train a DCGAN on pictures, measure one, or draw what it has learned.

Exit codes: 0 finished, 1 failed or dead run, 2 bad usage or unusable input, 130 interrupted (of a
run all is saved, unless it was twice).
The result, a JSON object, goes to stdout; everything else to stderr. Files are written whole or
not at all.
"""

from __future__ import annotations

import os
import signal
import sys

from training import SIGNALS

if __name__ == "__main__":

    def _leave(*_: object) -> None:
        os.write(2, b"interrupted; nothing was written\n")
        os._exit(130)

    # The imports below take seconds, and some of them hide a KeyboardInterrupt. What is ignored, as
    # SIGINT in the background of a script and SIGHUP under nohup, stays so.
    _caught = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for _number in _caught:
        signal.signal(_number, _leave)

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from typing import Any, TextIO, cast

import torch
import tyro

from handler.hardware import is_out_of_memory
from training import distributed
from training.checkpoint import CheckpointError
from training.config import ConfigError, TrainConfig, fitting_group, nearest
from training.data.decode import DataError
from training.data.sources import load, report
from training.distributed import DevicesError, PeerError, World, choose_device, choose_precision
from training.lab.commands import Command, UsageError
from training.loop import batch_that_fits, train
from training.start import (
    identify_pictures,
    settle,
    settled_augmentation,
    starting_networks,
    write_start,
)
from training.weights import WeightsError

UNUSABLE = (
    CheckpointError,
    ConfigError,
    DataError,
    DevicesError,
    FileNotFoundError,
    NotADirectoryError,
    UsageError,
    WeightsError,
)

# Name -> module of training.lab, of which only that one is imported: some take seconds.
COMMANDS = {
    "evaluate": "evaluate",
    "compare": "run_plots",
    "neighbours": "memorisation",
    "walk": "latent_plots",
    "arithmetic": "arithmetic",
    "directions": "directions",
    "filters": "filters",
    "probe": "probe",
    "layers": "latent_plots",
    "enlarge": "latent_plots",
    "ablations": "ablations",
    "curves": "run_plots",
    "animation": "run_plots",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Raises:
        SystemExit: with code 2 (unknown flag) or 0 (``--help``).
    """
    if not isinstance(sys.stderr, Losable):
        sys.stderr = cast(TextIO, Losable(sys.stderr))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    name = "train"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    try:
        if name == "train" and {"-h", "--help"} & set(arguments):
            tell(_overview())
        if name != "train":
            kind = command_class(name)
            command = tyro.cli(kind, prog=f"python -m training {name}", args=arguments)
            tell(json.dumps(command.run(), indent=2))  # in ASCII: names may be any bytes
            return 0
        with distributed.joined() as world, ExitStack() as held:
            return _train(arguments, world, held)
    except UNUSABLE as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except PeerError:
        return 1
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"error: there is not enough memory ({str(error).splitlines()[0]}); lower "
            "--batch-size, --image-size, --ngf or --ndf",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130


class Losable:
    """A stream for progress, which may go away: what cannot be written is dropped.

    Args:
        stream: None where the process was started without it.
    """

    def __init__(self, stream: TextIO | None) -> None:
        # Also keeps number 2 from being given to a file of the run.
        self._stream = stream or open(os.devnull, "w")  # noqa: PTH123, SIM115 - for the process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def tell(result: str) -> None:
    """Write a line to stdout, at once.

    Raises:
        OSError: nobody reads it, or the disk is full.
    """
    try:
        print(result, flush=True)
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - Python tries again at its end
        raise OSError(
            f"the result could not be written to stdout ({error.strerror}); the files are written"
        ) from None


def command_class(name: str) -> type[Command]:
    """The settings of a command beside training, whose ``run`` does it.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in COMMANDS:
        known = ["train", *COMMANDS]
        hint = nearest(name, known)
        raise UsageError(f"no command {name!r}; {hint}known: {', '.join(known)}")
    module = import_module(f"training.lab.{COMMANDS[name]}")
    found: type[Command] = getattr(module, name.capitalize())
    return found


def summary(name: str) -> str:
    """One line on what a command does: the first of its class."""
    kind: type = TrainConfig if name == "train" else command_class(name)
    return (kind.__doc__ or "").splitlines()[0]


def _overview() -> str:
    """A line for each command."""
    lines = [f"  {name:<12}{summary(name)}" for name in ("train", *COMMANDS)]
    head = "usage: python -m training [COMMAND] [OPTIONS]; without one it is train"
    foot = "python -m training COMMAND --help shows the options of one; these are those of train:"
    return "\n".join([head, "", *lines, "", foot, ""])


def _train(arguments: Sequence[str], world: World, held: ExitStack) -> int:
    if not world.is_first:
        logging.disable(logging.INFO)
    config, out = world.from_first(lambda: settle(arguments, world, held))
    try:
        pictures = world.in_turn(lambda: load(config, config.batch_size))
    except DataError as error:
        if config.resume:
            raise DataError(f"{error} If they were moved, say where to: --data") from None
        raise
    if world.is_first:
        print(report(pictures), file=sys.stderr)
    config = settled_augmentation(config, pictures.different)
    identity = world.from_first(lambda: identify_pictures(config, out, pictures))
    start = world.from_first(lambda: starting_networks(config, pictures.images.shape[-1]))
    if not config.dry_run:
        world.from_first(lambda: write_start(config, out, identity))
    device = choose_device(world.local_rank)
    precision = choose_precision(config.precision, device)
    if world.is_first:
        print(f"device {device}, {precision}, folder {out}", file=sys.stderr)
        if config.dry_run:
            tell(config.to_json())
    if config.dry_run:
        return 0
    try:
        outcome = train(config, pictures, out, device, precision, start, world)
    except (OSError, KeyboardInterrupt) as error:
        # What is written is written whole or not at all.
        left = f"; {out} is as after its last checkpoint: go on with --resume"
        if isinstance(error, OSError):
            print(f"error: {error}{left}", file=sys.stderr)
            return 1
        print(f"interrupted at once{left}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError) or device.type == "cuda"
        if not (on_gpu and is_out_of_memory(error)):
            raise
        outcome, why = None, str(error).splitlines()[0]
    if outcome is None:  # outside of the handler, whose traceback holds what fills the memory
        size = batch_that_fits(config, pictures.images.shape[-1], device, precision, world)
        print(f"error: {_too_little_memory(config, why, size)}", file=sys.stderr)
        return 1
    if world.is_first:
        words = f"{outcome.ended} after {outcome.step} steps; {outcome.verdict.words}"
        print(words, file=sys.stderr)
        result = {
            "out": str(out),
            "weights": str(outcome.weights),
            "best": outcome.best and str(outcome.best),
            "steps": outcome.step,
            "ended": outcome.ended,
            "verdict": outcome.verdict.words,
        }
        tell(json.dumps(result))
    return {"finished": 0, "interrupted": 130, "dead": 1}[outcome.ended]


def _too_little_memory(config: TrainConfig, why: str, fits: int | None) -> str:
    advice = "try a smaller --batch-size, --ngf and --ndf"
    if fits:
        groups = f" --d-group {fitting_group(fits)}" if config.group else ""
        advice = f"--batch-size {fits}{groups} fits"
    return (
        f"an update of --batch-size {config.batch_size} at {config.image_size} px does not fit "
        f"into the memory of the GPU; {advice}, in a new run with another --out ({why})"
    )


if __name__ == "__main__":
    for _number in _caught:
        signal.signal(_number, signal.default_int_handler)  # a KeyboardInterrupt
    sys.exit(main())
