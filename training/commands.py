"""The commands of ``python -m training`` beside training itself: those of ``training.lab``.

Each prints one JSON object; progress goes to stderr. Those that make a picture write it whole
or not at all. Exit codes: 0 done, 1 not writable, 2 bad usage or unusable input, 130 interrupted.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from importlib import import_module

import tyro

from training.checkpoint import CheckpointError
from training.data.decode import DataError
from training.lab.options import Command, UsageError
from training.weights import WeightsError

# Name -> module of training.lab, of which only that one is imported: some take seconds.
COMMANDS = {
    "evaluate": "evaluate",
    "compare": "run_plots",
    "neighbours": "memorisation",
    "walk": "latent_plots",
    "arithmetic": "arithmetic",
    "directions": "latent_plots",
    "filters": "filters",
    "enlarge": "latent_plots",
    "curves": "run_plots",
    "animation": "run_plots",
}


def command_class(name: str) -> type[Command]:
    """The settings of a command, whose ``run`` does it."""
    found: type[Command] = getattr(
        import_module(f"training.lab.{COMMANDS[name]}"), name.capitalize()
    )
    return found


def summary(name: str) -> str:
    """One line on what a command does: the first of its class."""
    return (command_class(name).__doc__ or "").splitlines()[0]


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code.

    Args:
        arguments: its name and its flags.

    Raises:
        SystemExit: with code 2 (unknown flag) or 0 (``--help``).
    """
    name, *flags = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(COMMANDS)
        print(f"error: no command {name!r}; {hint}known: train, {known}", file=sys.stderr)
        return 2
    command = tyro.cli(command_class(name), prog=f"python -m training {name}", args=flags)
    try:
        print(json.dumps(command.run(), indent=2))  # in ASCII: names may be any bytes
    except (UsageError, DataError, CheckpointError, WeightsError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0
