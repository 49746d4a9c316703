"""The commands of ``python -m training`` beside training itself.

Each prints one JSON object; progress goes to stderr. Those that make a picture write it whole
or not at all. Exit codes: 0 done, 1 not writable, 2 bad usage or unusable input, 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from training.config import ConfigError
from training.data.decode import DataError
from training.lab.addition import ArithmeticConfig
from training.lab.animation import AnimationConfig
from training.lab.command import EvaluateConfig
from training.lab.compare import CompareConfig
from training.lab.curves import CurvesConfig
from training.lab.directions import DirectionsConfig
from training.lab.enlarge import EnlargeConfig
from training.lab.filters import FiltersConfig
from training.lab.layers import LayersConfig
from training.lab.neighbours import NeighboursConfig
from training.lab.usage import UsageError
from training.lab.walk import WalkConfig
from training.weights import WeightsError

Command = (
    Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | Annotated[NeighboursConfig, tyro.conf.subcommand("neighbours")]
    | Annotated[WalkConfig, tyro.conf.subcommand("walk")]
    | Annotated[ArithmeticConfig, tyro.conf.subcommand("arithmetic")]
    | Annotated[DirectionsConfig, tyro.conf.subcommand("directions")]
    | Annotated[FiltersConfig, tyro.conf.subcommand("filters")]
    | Annotated[LayersConfig, tyro.conf.subcommand("layers")]
    | Annotated[CurvesConfig, tyro.conf.subcommand("curves")]
    | Annotated[AnimationConfig, tyro.conf.subcommand("animation")]
    | Annotated[CompareConfig, tyro.conf.subcommand("compare")]
    | Annotated[EnlargeConfig, tyro.conf.subcommand("enlarge")]
)


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code.

    Args:
        arguments: its name and its flags.

    Raises:
        SystemExit: with code 2 (unknown name or flag) or 0 (``--help``).
    """
    command: Command = tyro.cli(
        Command, prog="python -m training", description=__doc__, args=arguments
    )
    try:
        print(json.dumps(command.run(), indent=2))  # in ASCII: names may be any bytes
    except (UsageError, WeightsError, ConfigError, DataError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0
