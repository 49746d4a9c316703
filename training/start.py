"""What a run begins with: its settings, its folder, its pictures, the weights it starts from."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from filelock import FileLock, Timeout

from training import checkpoint
from training.config import (
    AUGMENTED_BELOW,
    ConfigError,
    TrainConfig,
    differences,
    fitting_group,
    from_mapping,
    recipe_defaults,
)
from training.data.batches import Identity, identity_of
from training.data.decode import Pictures
from training.data.sources import show_name
from training.distributed import World, choose_device, choose_precision
from training.files import LOCK, atomic_path, is_partial
from training.networks import Generator
from training.step import Start, new_discriminator
from training.weights import WeightsError, load_generator, picture_sets

RUNS = Path("runs")
SETTINGS = "config.json"
PICTURES = "pictures.json"

log = logging.getLogger(__name__)


def settle(arguments: Sequence[str], world: World, held: ExitStack) -> tuple[TrainConfig, Path]:
    """The settings, ``precision`` and ``d_group`` decided, and the folder of the run.

    The folder is this process's own until ``held`` is closed, but for a dry run. ``resume`` is
    False where there is nothing to go on from.

    Raises:
        ConfigError: they cannot be used, or another process has the folder.
        OSError: the folder cannot be looked at or written to.
    """
    config = parse(arguments)
    if config.d_group is None:
        config = replace(config, d_group=fitting_group(config.batch_size, world.size))
    multiple = world.size * max(1, 2 * config.group)
    if config.batch_size % multiple:
        groups = f" in groups of {config.group}" if config.group else ""
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be shared by {world.size} processes{groups}; "
            f"give a multiple of {multiple}"
        )
    out = _run_folder(config)
    if not config.dry_run:
        held.enter_context(_claimed(config, out))
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
    given = {} if first.config is None else _read(first.config)
    # What says which settings the others are put over, may itself stand in the file.
    first = _from_flags(
        arguments,
        from_mapping({n: given[n] for n in ("recipe", "resume", "out") if n in given}, first),
    )
    base = recipe_defaults(first.recipe)
    if first.resume:
        base = replace(saved_settings(_run_folder(first)), resume=False, dry_run=False)
    return _from_flags(arguments, from_mapping(given, base))


def _from_flags(arguments: Sequence[str] | None, base: TrainConfig) -> TrainConfig:
    return tyro.cli(TrainConfig, prog="python -m training", args=arguments, default=base)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())  # of bytes: editors also write UTF-16, or a mark
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read settings from {path}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}; a JSON object is needed")
    return values


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
    _check_empty(out)
    return out


def _check_empty(out: Path) -> None:
    """But for what a process that was killed at its start has left."""
    if out.exists() and not (
        out.is_dir() and all(path.name == LOCK or is_partial(path) for path in out.iterdir())
    ):
        raise ConfigError(f"{out} exists and is not empty; add --resume or give another --out")


@contextmanager
def _claimed(config: TrainConfig, out: Path) -> Iterator[None]:
    """The folder, locked; it is made if need be, and goes again if nothing is written to it.

    The lock is the system's, so it ends with the process.
    """
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(
            f"another process is writing the run in {out}; wait for its end or stop it, or start "
            "another run with another --out"
        ) from None
    try:
        if not config.resume:
            _check_empty(out)  # again: another run may have come and gone
        yield
    finally:
        (out / LOCK).unlink(missing_ok=True)
        lock.release()
        if made:
            with suppress(OSError):
                out.rmdir()


def saved_settings(out: Path) -> TrainConfig:
    """Those that the run in this folder was last started with.

    Raises:
        ConfigError: there is no run, they cannot be read, or an earlier version wrote them.
    """
    values = _read(out / SETTINGS)
    if missing := [field.name for field in fields(TrainConfig) if field.name not in values]:
        raise ConfigError(
            f"{out / SETTINGS} does not have {', '.join(missing)}: the run is of an earlier "
            "version, and cannot be used any more; start a new one"
        )
    return from_mapping(values, TrainConfig())


def settled_precision(config: TrainConfig) -> TrainConfig:
    """``auto`` decided, once for the whole run: another machine may decide otherwise."""
    chosen = choose_precision(config.precision, choose_device())
    return replace(config, precision="bfloat16" if chosen is torch.bfloat16 else "float32")


def settled_augmentation(config: TrainConfig, different: int) -> TrainConfig:
    """``auto`` decided, and why it is on said in a line.

    Args:
        config: the settings of a run.
        different: how many different pictures it has.
    """
    if config.diffaugment != "auto":
        return config
    few = different < AUGMENTED_BELOW
    if few:
        log.info(
            "%s different pictures are fewer than %s: D sees them, and the samples, shifted, in "
            "other colours and in part (--diffaugment off: as they are)",
            f"{different:,}",
            f"{AUGMENTED_BELOW:,}",
        )
    return replace(config, diffaugment="on" if few else "off")


def _check_resumed(config: TrainConfig, out: Path) -> None:
    changed = differences(saved_settings(out), config)
    if changed:
        raise ConfigError(
            f"the run in {out} was started with other settings, which a continuation cannot "
            "change:\n  " + "\n  ".join(changed) + "\nleave these flags out, or start a new run"
        )


def identify_pictures(config: TrainConfig, out: Path, pictures: Pictures) -> Identity:
    """Which pictures a run is on; a continuation needs those that it began with.

    With others, some that were held out would be trained on.

    Raises:
        ConfigError: they are others.
    """
    path, found = out / PICTURES, identity_of(pictures)
    if not config.resume:
        return found
    try:
        had = Identity(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"cannot read {path}: {error}; start a new run") from None
    if found != had:
        raise ConfigError(
            f"the run in {out} was started on {had}, {config.data} now holds {found}: a "
            "continuation needs the same ones in the same order. Bring them back, or start a new "
            f"run, which may begin with the weights of this one: --start-from {out}/"
            "generator.safetensors"
        )
    return found


def write_start(config: TrainConfig, out: Path, pictures: Identity) -> None:
    """Write the settings, by which a folder is known as a run, and which pictures it is on.

    Raises:
        OSError: not writable.
    """
    settings = replace(config, resume=False)  # those of a new run that would be this one
    for name, text in ((SETTINGS, settings.to_json()), (PICTURES, json.dumps(asdict(pictures)))):
        with atomic_path(out / name) as beside:
            beside.write_text(text + "\n", encoding="utf-8")


def starting_networks(config: TrainConfig, channels: int) -> Start:
    """What ``start_from`` and ``start_d_from`` hold.

    A resumed run has networks of its own, but what these have learned from stays the same.

    Raises:
        ConfigError: a shape is not that of this run.
        CheckpointError, FileNotFoundError, WeightsError: there is no such network.
    """
    generator = discriminator = None
    inherited: list[dict[str, Any]] = []
    if config.start_from is not None:
        try:
            loaded, info = load_generator(config.start_from)
        except (FileNotFoundError, WeightsError):
            if not config.resume:
                raise
            inherited += picture_sets(config.start_from, {})
        else:
            inherited += picture_sets(config.start_from, info.provenance)
            if not config.resume:
                generator = _fitting(config, config.start_from, loaded, channels)
    if config.start_d_from is not None:
        inherited += picture_sets(config.start_d_from, {})  # a checkpoint does not say it
        if not config.resume:
            discriminator = _starting_discriminator(config, config.start_d_from, channels)
    return Start(generator, discriminator, inherited)


def _fitting(config: TrainConfig, path: Path, generator: Generator, channels: int) -> Generator:
    names = ("nz", "ngf", "channels", "image_size", "latent")
    needed = {name: getattr(config, name) for name in names} | {"channels": channels}
    other = [
        f"{name} {getattr(generator, name)}"
        for name in names
        if getattr(generator, name) != needed[name]
    ]
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
    discriminator, saved = new_discriminator(config, channels), checkpoint.read_discriminator(path)
    try:
        discriminator.load_state_dict(saved)
    except RuntimeError as error:
        raise ConfigError(
            f"the Discriminator in {path} is not of the shape of this run's, which has ndf "
            f"{config.ndf}, channels {channels}, image_size {config.image_size}, d_norm "
            f"{config.d_norm}, d_group {config.group}: {str(error).splitlines()[-1]}; give the run "
            "the same settings, or leave --start-d-from out"
        ) from None
    return discriminator.state_dict()
