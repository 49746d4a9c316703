"""``python -m training``: train a DCGAN on pictures, or look at one (see ``commands``).

Exit codes: 0 finished, 1 failed or dead run, 2 bad usage, 130 interrupted (all saved).
The result, a JSON object, goes to stdout; everything else to stderr.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tyro

from training import data, distributed, networks
from training.checkpoint import CheckpointError
from training.config import (
    BEFORE,
    ConfigError,
    TrainConfig,
    differences,
    from_mapping,
    recipe_defaults,
)
from training.devices import choose_device, choose_precision
from training.distributed import PeerError, World
from training.files import atomic_path
from training.loop import train
from training.weights import WeightsError, load_generator

RUNS = Path("runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] != "train":
            from training import commands  # what they need would make training start later

            return commands.main(arguments)
        arguments = arguments[1:]
    with distributed.joined() as world:
        return _train(arguments, world)


def _train(arguments: Sequence[str], world: World) -> int:
    if not world.is_first:
        logging.disable(logging.INFO)
    try:
        config, out = world.from_first(lambda: _settle(arguments, world))
        pictures = world.in_turn(lambda: data.load(
            config.data, data_root=config.data_root, image_size=config.image_size,
            channels=config.channels, background=config.background, seed=config.seed,
            workers=config.workers, batch_size=config.batch_size, cache=config.cache,
        ))  # fmt: skip
        start = world.from_first(lambda: _starting_weights(config, pictures.images.shape[-1]))
    except (ConfigError, WeightsError, data.DataError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted before the first step; nothing to save", file=sys.stderr)
        return 130
    except PeerError:
        return 1
    device = choose_device(world.local_rank)
    precision = choose_precision(config.precision, device)
    if world.is_first:
        print(data.report(pictures), file=sys.stderr)
        print(f"device {device}, {precision}, folder {out}", file=sys.stderr)
        if config.dry_run:
            print(_describe(config, pictures.images.shape[-1]))
    if config.dry_run:
        return 0
    try:
        if world.is_first:
            with atomic_path(out / "config.json") as beside:
                beside.write_text(config.to_json() + "\n", encoding="utf-8")
        outcome = train(config, pictures, out, device, precision, start, world)
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except PeerError:
        return 1
    if world.is_first:
        words = f"{outcome.ended} after {outcome.step} steps; {outcome.verdict.words}"
        print(words, file=sys.stderr)
        print(json.dumps({
            "out": str(out), "weights": str(outcome.weights),
            "best": outcome.best and str(outcome.best), "steps": outcome.step,
            "ended": outcome.ended, "verdict": outcome.verdict.words,
        }))  # fmt: skip
    return {"finished": 0, "interrupted": 130, "dead": 1}[outcome.ended]


def _settle(arguments: Sequence[str], world: World) -> tuple[TrainConfig, Path]:
    """The settings and the folder of the run.

    Raises:
        ConfigError: they cannot be used.
    """
    config = parse(arguments)
    if config.batch_size % world.size:
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be shared by {world.size} processes; give a "
            f"multiple of {world.size}"
        )
    out = _run_folder(config)
    return _check_resumed(config, out), out


def parse(arguments: Sequence[str] | None) -> TrainConfig:
    """Flags over the configuration file over the recipe (or, resuming, the run's settings).

    Raises:
        ConfigError: a setting is unknown or out of range.
        SystemExit: with code 2 (bad flag) or 0 (``--help``).
    """
    first = _from_flags(arguments, TrainConfig())
    base = recipe_defaults(first.recipe)
    if first.resume:
        saved = _run_folder(first) / "config.json"
        base = replace(_from_file(saved, base, BEFORE), resume=False, dry_run=False)
    if first.config is not None:
        base = _from_file(first.config, base)
    return _from_flags(arguments, base)


def _from_flags(arguments: Sequence[str] | None, base: TrainConfig) -> TrainConfig:
    about = (
        "Train a DCGAN on pictures and save its Generator. Other commands measure one or draw what "
        "it has learned: python -m training evaluate, walk, arithmetic, ...; wrong names list all."
    )
    return tyro.cli(
        TrainConfig, prog="python -m training", description=about, args=arguments, default=base
    )


def _from_file(
    path: Path, base: TrainConfig, before: Mapping[str, Any] = MappingProxyType({})
) -> TrainConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read settings from {path}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}; a JSON object is needed")
    return from_mapping({**before, **values}, base)


def _run_folder(config: TrainConfig) -> Path:
    if config.resume:
        if config.out is not None:
            candidates = [config.out]
        else:
            candidates = sorted(RUNS.glob("*"), key=lambda p: p.stat().st_mtime, reverse=True)
        for folder in candidates:
            if (folder / "config.json").is_file():
                return folder
        where = config.out or RUNS
        raise ConfigError(f"no run to resume in {where}; start one without --resume")
    out = config.out or RUNS / time.strftime("%Y%m%d-%H%M%S")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty; add --resume or give another --out")
    return out


def _check_resumed(config: TrainConfig, out: Path) -> TrainConfig:
    if not config.resume:
        return config
    saved = _from_file(out / "config.json", TrainConfig(), BEFORE)
    changed = differences(saved, config)
    if changed:
        raise ConfigError(
            f"the run in {out} was started with other settings, which a continuation cannot "
            "change:\n  " + "\n  ".join(changed) + "\nleave these flags out, or start a new run"
        )
    return config


def _starting_weights(config: TrainConfig, channels: int) -> networks.Generator | None:
    """What ``start_from`` holds; a resumed run has weights of its own.

    Raises:
        ConfigError: its shape is not that of this run.
        FileNotFoundError, WeightsError: it holds no Generator.
    """
    if config.start_from is None or config.resume:
        return None
    generator, info = load_generator(config.start_from)
    needed = {"nz": config.nz, "ngf": config.ngf, "channels": channels,
              "image_size": config.image_size, "latent": config.latent}  # fmt: skip
    other = [f"{name} {getattr(info, name)}" for name in needed
             if getattr(info, name) != needed[name]]  # fmt: skip
    if other:
        raise ConfigError(
            f"{config.start_from} was trained with {', '.join(other)}, this run has "
            f"{', '.join(f'{name} {value}' for name, value in needed.items())}; "
            "give the run the same settings, or leave --start-from out"
        )
    return generator


def _describe(config: TrainConfig, channels: int) -> str:
    """Settings, and each network layer by layer with its output shape for one picture."""
    generator = networks.Generator(
        config.nz, config.ngf, channels, config.image_size, config.latent
    )
    discriminator = networks.Discriminator(config.ndf, channels, config.image_size, config.d_norm)
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
