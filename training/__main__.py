"""``python -m training``: train a DCGAN on pictures, or look at one (see ``commands``).

Exit codes: 0 finished, 1 failed or dead run, 2 bad usage, 130 interrupted (all saved, unless it
was twice).
The result, a JSON object, goes to stdout; everything else to stderr.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from training import distributed, networks
from training.checkpoint import CheckpointError
from training.config import ConfigError, TrainConfig
from training.data import sources
from training.data.decode import DataError
from training.distributed import DevicesError, PeerError, World, choose_device, choose_precision
from training.loop import train
from training.start import identify_pictures, settle, starting_networks, write_start
from training.weights import WeightsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] != "train":
            from training import commands  # what they need would make training start later

            return commands.main(arguments)
        arguments = arguments[1:]
    try:
        with distributed.joined() as world, ExitStack() as held:
            return _train(arguments, world, held)
    except DevicesError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PeerError:
        return 1
    except KeyboardInterrupt:
        print("interrupted before the first step; nothing to save", file=sys.stderr)
        return 130


def _train(arguments: Sequence[str], world: World, held: ExitStack) -> int:
    if not world.is_first:
        logging.disable(logging.INFO)
    try:
        config, out = world.from_first(lambda: settle(arguments, world, held))
        pictures = world.in_turn(lambda: sources.load(
            config.data, data_root=config.data_root, image_size=config.image_size,
            channels=config.channels, background=config.background, seed=config.seed,
            workers=config.workers, batch_size=config.batch_size, cache=config.cache,
        ))  # fmt: skip
        identity = world.from_first(lambda: identify_pictures(config, out, pictures))
        start = world.from_first(lambda: starting_networks(config, pictures.images.shape[-1]))
        if not config.dry_run:
            world.from_first(lambda: write_start(config, out, identity))
    except DataError as error:
        moved = " If they were moved, say where to: --data" if config.resume else ""
        print(f"error: {error}{moved}", file=sys.stderr)
        return 2
    except (CheckpointError, ConfigError, WeightsError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if identity.different is None:  # it goes on with the pictures that it began to hold out
        pictures = replace(pictures, equal=None)
    device = choose_device(world.local_rank)
    precision = choose_precision(config.precision, device)
    if world.is_first:
        print(sources.report(pictures), file=sys.stderr)
        print(f"device {device}, {precision}, folder {out}", file=sys.stderr)
        if config.dry_run:
            print(_describe(config, pictures.images.shape[-1]))
    if config.dry_run:
        return 0
    try:
        outcome = train(config, pictures, out, device, precision, start, world)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, KeyboardInterrupt) as error:
        # What is written is written whole or not at all.
        left = f"; {out} is as after its last checkpoint: go on with --resume"
        if isinstance(error, OSError):
            print(f"error: {error}{left}", file=sys.stderr)
            return 1
        print(f"interrupted at once{left}", file=sys.stderr)
        return 130
    if world.is_first:
        words = f"{outcome.ended} after {outcome.step} steps; {outcome.verdict.words}"
        print(words, file=sys.stderr)
        print(json.dumps({
            "out": str(out), "weights": str(outcome.weights),
            "best": outcome.best and str(outcome.best), "steps": outcome.step,
            "ended": outcome.ended, "verdict": outcome.verdict.words,
        }))  # fmt: skip
    return {"finished": 0, "interrupted": 130, "dead": 1}[outcome.ended]


def _describe(config: TrainConfig, channels: int) -> str:
    """Settings, and each network layer by layer with its output shape for one picture."""
    generator = networks.Generator(
        config.nz, config.ngf, channels, config.image_size, config.latent
    )
    discriminator = networks.Discriminator(
        config.ndf, channels, config.image_size, config.d_norm, config.d_group
    )
    lines = [config.to_json()]
    for network, shape in (
        (generator, (1, config.nz, 1, 1)),
        (discriminator, (1, channels, config.image_size, config.image_size)),
    ):
        lines.append(f"{type(network).__name__}: {networks.count_parameters(network):,} parameters")
        lines += networks.layer_table(network.layers, shape)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
