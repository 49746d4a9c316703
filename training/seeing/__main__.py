"""``python -m training.seeing``: pictures that show what a DCGAN has learned.

Each command writes one picture, whole or not at all, and prints one JSON object; progress goes
to stderr. Exit codes: 0 written, 1 not writable, 2 bad usage or unusable input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from training.config import ConfigError
from training.data import DataError
from training.seeing.addition import ArithmeticConfig
from training.seeing.animation import AnimationConfig
from training.seeing.canvas import SeeingError
from training.seeing.compare import CompareConfig
from training.seeing.curves import CurvesConfig
from training.seeing.enlarge import EnlargeConfig
from training.seeing.filters import FiltersConfig
from training.seeing.layers import LayersConfig
from training.seeing.walk import WalkConfig
from training.weights import WeightsError

Command = (
    Annotated[WalkConfig, tyro.conf.subcommand("walk")]
    | Annotated[ArithmeticConfig, tyro.conf.subcommand("arithmetic")]
    | Annotated[FiltersConfig, tyro.conf.subcommand("filters")]
    | Annotated[LayersConfig, tyro.conf.subcommand("layers")]
    | Annotated[CurvesConfig, tyro.conf.subcommand("curves")]
    | Annotated[AnimationConfig, tyro.conf.subcommand("animation")]
    | Annotated[CompareConfig, tyro.conf.subcommand("compare")]
    | Annotated[EnlargeConfig, tyro.conf.subcommand("enlarge")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command: Command = tyro.cli(
        Command, prog="python -m training.seeing", description=__doc__, args=arguments
    )
    try:
        print(json.dumps(command.run(), indent=2))
    except (SeeingError, WeightsError, ConfigError, DataError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
