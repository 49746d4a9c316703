"""What a run begins with: its settings, its folder, its pictures, the weights it starts from."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import tyro

from training import checkpoint, networks
from training.config import (
    BEFORE,
    ConfigError,
    TrainConfig,
    differences,
    from_mapping,
    recipe_defaults,
)
from training.data.folders import show_name
from training.data.identity import Identity, identity_of
from training.data.pictures import Pictures
from training.devices import choose_device, choose_precision
from training.distributed import World
from training.files import atomic_path, is_partial
from training.step import Start
from training.weights import load_generator

RUNS = Path("runs")
SETTINGS = "config.json"
PICTURES = "pictures.json"

log = logging.getLogger(__name__)


def settle(arguments: Sequence[str], world: World) -> tuple[TrainConfig, Path]:
    """The settings, ``precision`` no longer auto, and the folder of the run.

    ``resume`` is False where there is nothing to go on from.

    Raises:
        ConfigError: they cannot be used.
        OSError: the folder cannot be looked at.
    """
    config = parse(arguments)
    multiple = world.size * max(1, 2 * config.d_group)
    if config.batch_size % multiple:
        groups = f" in groups of {config.d_group}" if config.d_group else ""
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be shared by {world.size} processes{groups}; "
            f"give a multiple of {multiple}"
        )
    out = _run_folder(config)
    config = settled_precision(config)
    if config.resume:
        _check_resumed(config, out)
        if not checkpoint.exist(out / "checkpoints"):  # killed before there was any
            log.info("%s has no checkpoint yet: starting at update 0", out)
            config = replace(config, resume=False)
    return config, out


def parse(arguments: Sequence[str] | None) -> TrainConfig:
    """Flags over the configuration file over the recipe (or, resuming, the run's settings).

    Raises:
        ConfigError: a setting is unknown or out of range.
        SystemExit: with code 2 (bad flag) or 0 (``--help``).
    """
    first = _from_flags(arguments, TrainConfig())
    base = recipe_defaults(first.recipe)
    if first.resume:
        saved = _run_folder(first) / SETTINGS
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
        candidates = [config.out] if config.out is not None else RUNS.glob("*")
        runs = [folder for folder in candidates if (folder / SETTINGS).is_file()]
        if not runs:
            where = config.out or RUNS
            raise ConfigError(f"no run to resume in {where}; start one without --resume")
        return max(runs, key=lambda folder: folder.stat().st_mtime)
    out = config.out or RUNS / time.strftime("%Y%m%d-%H%M%S")
    if any("\ud800" <= character <= "\udfff" for character in str(out)):  # bytes of no UTF-8
        raise ConfigError(f"--out {show_name(str(out))} is not UTF-8, as TensorBoard needs it")
    if out.exists() and not (out.is_dir() and all(map(is_partial, out.iterdir()))):
        raise ConfigError(f"{out} exists and is not empty; add --resume or give another --out")
    return out


def saved_settings(out: Path) -> TrainConfig:
    """Those that the run in this folder was last started with, ``precision`` no longer auto.

    Raises:
        ConfigError: there is no run, or they cannot be read.
    """
    return settled_precision(_from_file(out / SETTINGS, TrainConfig(), BEFORE))


def settled_precision(config: TrainConfig) -> TrainConfig:
    """``auto`` decided, once for the whole run: another machine may decide otherwise."""
    chosen = choose_precision(config.precision, choose_device())
    return replace(config, precision="bfloat16" if chosen is torch.bfloat16 else "float32")


def _check_resumed(config: TrainConfig, out: Path) -> None:
    changed = differences(saved_settings(out), config)
    if changed:
        raise ConfigError(
            f"the run in {out} was started with other settings, which a continuation cannot "
            "change:\n  " + "\n  ".join(changed) + "\nleave these flags out, or start a new run"
        )


def identify_pictures(config: TrainConfig, out: Path, pictures: Pictures) -> Identity:
    """Which pictures a run is on; a continuation needs those that it began with.

    With others, some that were held out would be trained on. Older runs do not say which.

    Raises:
        ConfigError: they are others.
    """
    path, found = out / PICTURES, identity_of(pictures.images)
    if not config.resume:
        return replace(found, different=pictures.different)
    if not path.exists():
        return found
    try:
        had = Identity(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; without the file any will do") from None
    if found != had:
        raise ConfigError(
            f"the run in {out} was started on {had}, {config.data} now holds {found}: a "
            "continuation needs the same ones in the same order. Bring them back, or start a new "
            f"run, which may begin with the weights of this one: --start-from {out}/"
            "generator.safetensors"
        )
    return had


def write_start(config: TrainConfig, out: Path, pictures: Identity) -> None:
    """Write the settings, by which a folder is known as a run, and which pictures it is on.

    Raises:
        OSError: not writable.
    """
    for name, text in ((SETTINGS, config.to_json()), (PICTURES, json.dumps(asdict(pictures)))):
        with atomic_path(out / name) as beside:
            beside.write_text(text + "\n", encoding="utf-8")


def starting_networks(config: TrainConfig, channels: int) -> Start:
    """What ``start_from`` and ``start_d_from`` hold; a resumed run has networks of its own.

    Raises:
        ConfigError: a shape is not that of this run.
        CheckpointError, FileNotFoundError, WeightsError: there is no such network.
    """
    if config.resume:
        return Start()
    generator = discriminator = None
    if config.start_from is not None:
        generator = _starting_generator(config, config.start_from, channels)
    if config.start_d_from is not None:
        discriminator = _starting_discriminator(config, config.start_d_from, channels)
    return Start(generator, discriminator)


def _starting_generator(config: TrainConfig, path: Path, channels: int) -> networks.Generator:
    generator, info = load_generator(path)
    needed = {"nz": config.nz, "ngf": config.ngf, "channels": channels,
              "image_size": config.image_size, "latent": config.latent}  # fmt: skip
    other = [f"{name} {getattr(info, name)}" for name in needed
             if getattr(info, name) != needed[name]]  # fmt: skip
    if other:
        raise ConfigError(
            f"{path} was trained with {', '.join(other)}, this run has "
            f"{', '.join(f'{name} {value}' for name, value in needed.items())}; "
            "give the run the same settings, or leave --start-from out"
        )
    return generator


def _starting_discriminator(
    config: TrainConfig, path: Path, channels: int
) -> dict[str, torch.Tensor]:
    discriminator = networks.Discriminator(
        config.ndf, channels, config.image_size, config.d_norm, config.d_group
    )
    # The only part with which a D that compares pictures differs from one that does not; it
    # begins with zeros.
    comparing = {n for n, _ in discriminator.named_parameters() if n.endswith("deviation_weight")}
    saved = checkpoint.read_discriminator(path)
    try:
        told = discriminator.load_state_dict(saved, strict=False)
    except RuntimeError as error:
        raise _other_discriminator(config, path, channels, str(error).splitlines()[-1]) from None
    other = [*(set(told.missing_keys) - comparing), *told.unexpected_keys]
    if other:
        raise _other_discriminator(config, path, channels, f"it differs in {', '.join(other)}")
    return discriminator.state_dict()


def _other_discriminator(config: TrainConfig, path: Path, channels: int, why: str) -> ConfigError:
    return ConfigError(
        f"the Discriminator in {path} is not of the shape of this run's, which has ndf "
        f"{config.ndf}, channels {channels}, image_size {config.image_size}, d_norm "
        f"{config.d_norm}, d_group {config.d_group}: {why}; give the run the same settings, or "
        "leave --start-d-from out"
    )
