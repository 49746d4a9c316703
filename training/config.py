"""Every setting of a training run, with the one place for its default, type and help.

Precedence: recipe < configuration file < command-line flag.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from training.data.decode import parse_colour
from training.data.sources import SOURCES
from training.losses import Loss
from training.networks import DiscriminatorNorm, LatentLaw, check_geometry

Recipe = Literal["stable", "paper"]

# What may differ between a run and its continuation; everything else changes the result.
RESUMABLE = {"out", "max_steps", "workers", "resume", "dry_run", "config", "data_root",
             "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "on_dead",
             "cache", "compile"}  # fmt: skip
PATHS = {"out", "config", "data_root", "start_from", "start_d_from", "cache"}
# What a run did that was started before there was the setting.
BEFORE = {"held_out": 0}


class ConfigError(ValueError):
    """A setting is unknown or out of range; the message says what is allowed."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a DCGAN on pictures and save its Generator."""

    data: str = "avatars"
    """avatars, a folder, a zip, or cifar10 | celeba | fashionmnist | mnist | lsun."""
    data_root: Path = Path("data")
    """Where torchvision's named data sets lie (nothing is downloaded)."""
    cache: Path | None = Path("data/cache")
    """Decoded pictures are kept here for the next run; None decodes each time."""
    out: Path | None = None
    """Folder of the run; runs/<date>-<time> when omitted."""
    recipe: Recipe = "stable"
    """stable: does not collapse on small data. paper: the tutorial's settings to the letter."""
    config: Path | None = None
    """JSON file of settings, between the recipe and the flags."""
    start_from: Path | None = None
    """generator.safetensors of another run, to start G from (transfer: arXiv:1805.01677)."""
    start_d_from: Path | None = None
    """Checkpoint (.pt) of another run, to start D from; it knows what real pictures look like."""
    max_steps: int = 4000
    """Updates of the Generator in all, those of a resumed run included."""
    batch_size: int = 32
    """Real pictures (and as many generated ones) an update, over all processes."""
    image_size: int = 64
    """Height and width, px: 32, 64, 128 or 256."""
    channels: Literal["auto", "1", "3"] = "auto"
    """auto: 1 when every picture is grey, else 3."""
    nz: int = 100
    """Length of a latent."""
    latent: LatentLaw = "normal"
    """What G's first layer sees: normal (the tutorial) or uniform (arXiv:1511.06434)."""
    ngf: int = 64
    """Feature maps of the Generator before its last layer."""
    ndf: int = 64
    """Feature maps of the Discriminator after its first layer."""
    background: str = "#c8d4e0"
    """Colour behind transparent pictures and the avatars."""
    loss: Loss = "non-saturating"
    """non-saturating (arXiv:1406.2661), hinge (arXiv:1705.02894) or lsgan (arXiv:1611.04076)."""
    d_norm: DiscriminatorNorm = "batch"
    """Norm in the Discriminator; spectral replaces BatchNorm (arXiv:1802.05957)."""
    d_group: int = 0
    """Pictures that D compares, a divisor of half the batch (after arXiv:1710.10196); 0: none."""
    lr_g: float = 2e-4
    """Adam's learning rate, Generator."""
    lr_d: float = 2e-4
    """Adam's learning rate, Discriminator (two rates: arXiv:1706.08500)."""
    lr_g_warmup_steps: int = 0
    """G's learning rate rises from 0 over the first so many; gives D a start with --start-from."""
    lr_decay_steps: int = 0
    """Both learning rates fall linearly to 0 over the last so many steps; 0 keeps them."""
    beta1: float = 0.5
    """Adam's beta1; beta2 is 0.999."""
    r1_gamma: float = 1.0
    """Weight of the R1 gradient penalty (arXiv:1801.04406); 0 turns it off."""
    r1_every: int = 16
    """Apply R1 once in so many updates, scaled up by it (lazy, arXiv:1912.04958)."""
    label_smoothing: float = 0.0
    """Real targets are 1 minus this (one-sided, arXiv:1606.03498); for non-saturating only."""
    instance_noise: float = 0.0
    """Standard deviation of noise on D's input, falling to 0 at max_steps (arXiv:1610.04490)."""
    diffaugment: bool = False
    """Colour, translation and cutout on D's input (arXiv:2006.10738)."""
    ema_decay: float = 0.999
    """Decay of the Generator's weight average, ramped up; 0 turns it off (arXiv:1806.04498)."""
    held_out: int = 256
    """Pictures (at most 1/8 of all) kept from D, to see it learn the rest by heart (2006.06676)."""
    seed: int = 999
    """Seed of everything random."""
    workers: int = 2
    """Threads that decode pictures."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the hardware has it, float32 elsewhere."""
    compile: bool = False
    """torch.compile both networks: a slow start, then fewer passes over memory."""
    log_every: int = 10
    """Steps between lines in stats.jsonl."""
    sample_every: int = 250
    """Steps between fixed-noise grids."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    keep_checkpoints: int = 3
    """The newest so many are kept, and the best one besides."""
    on_dead: Literal["stop", "warn", "rollback"] = "stop"
    """When D has won, samples do not differ, or NaN. rollback: best checkpoint, half the rates."""
    resume: bool = False
    """Continue the run in --out (or the newest one) from its last checkpoint."""
    dry_run: bool = False
    """Print what would run, and stop."""

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_ranges()
        try:
            check_geometry(self.image_size, 3)
            parse_colour(self.background)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def _check_choices(self) -> None:
        for name, hint in get_type_hints(TrainConfig).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                allowed = ", ".join(get_args(hint))
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {allowed}")

    def _check_ranges(self) -> None:
        least = {"max_steps": 1, "batch_size": 2, "nz": 1, "ngf": 1, "ndf": 1, "workers": 1,
                 "r1_every": 1, "log_every": 1, "sample_every": 1, "checkpoint_every": 1,
                 "lr_decay_steps": 0, "lr_g_warmup_steps": 0, "held_out": 0,
                 "keep_checkpoints": 1, "d_group": 0, "seed": 0,
                 "lr_g": 0, "lr_d": 0, "r1_gamma": 0, "instance_noise": 0}  # fmt: skip
        for name, minimum in least.items():
            if not minimum <= getattr(self, name) < float("inf"):  # NaN is not in it either
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be >= {minimum}")
        for name in ("beta1", "ema_decay", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        if self.seed >= 2**53:
            raise ConfigError(f"seed is {self.seed}; it must be below 2^53")
        if self.d_group == 1 or (self.d_group and self.batch_size % (2 * self.d_group)):
            raise ConfigError(
                f"d_group is {self.d_group} with batch_size {self.batch_size}; it must be 0 (none) "
                "or 2 and more, and divide half of the batch, which is what R1 sees"
            )
        if self.label_smoothing and self.loss != "non-saturating":
            raise ConfigError(
                f"label_smoothing is {self.label_smoothing} with loss {self.loss}, which has no "
                "labels to smooth; leave it 0, or use loss non-saturating"
            )

    def to_json(self) -> str:
        """One JSON object, keys in declaration order, paths as strings."""
        return json.dumps(asdict(self), default=str, indent=2)


def recipe_defaults(recipe: Recipe) -> TrainConfig:
    """The settings that a recipe stands for.

    ``paper`` is the tutorial to the letter: batch 128, ten passes over CelebA are about
    16,000 steps, no averaging, no penalty, all pictures trained on, float32.
    ``stable`` was chosen by measurement, see docs/training.md.
    """
    if recipe == "paper":
        return TrainConfig(
            recipe="paper", batch_size=128, r1_gamma=0.0, ema_decay=0.0, held_out=0,
            precision="float32",
        )  # fmt: skip
    return TrainConfig()


def from_mapping(values: dict[str, Any], base: TrainConfig) -> TrainConfig:
    """``base`` with ``values`` put over it.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named) or a wrong type.
    """
    types = {f.name: type(getattr(TrainConfig(), f.name)) for f in fields(TrainConfig)}
    hints = get_type_hints(TrainConfig)
    clean: dict[str, Any] = {}
    for key, value in values.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(types)}"
            raise ConfigError(f"unknown setting {key!r}; {hint}")
        if key in PATHS:
            value = _as_path(key, value, optional=type(None) in get_args(hints[key]))
        elif types[key] is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        elif type(value) is not types[key]:
            raise ConfigError(f"{key} is {value!r}; it must be of type {types[key].__name__}")
        clean[key] = value
    return replace(base, **clean)


def _as_path(key: str, value: object, optional: bool) -> Path | None:
    if value is None and optional:
        return None
    if not isinstance(value, str) or "\0" in value:
        allowed = "a path, as text, or null" if optional else "a path, as text"
        raise ConfigError(f"{key} is {value!r}; it must be {allowed}")
    return Path(value)


def differences(saved: TrainConfig, wanted: TrainConfig) -> list[str]:
    """What a continuation would change that it must not, one line a setting."""
    # What falls towards max_steps makes a longer run another run.
    falling = saved.instance_noise or saved.lr_decay_steps
    allowed = RESUMABLE - {"max_steps"} if falling else RESUMABLE
    return [
        f"{f.name}: the run has {_shown(saved, f.name)}, asked for {_shown(wanted, f.name)}"
        for f in fields(TrainConfig)
        if f.name not in allowed and _meant(saved, f.name) != _meant(wanted, f.name)
    ]


def _shown(config: TrainConfig, name: str) -> str:
    value = getattr(config, name)
    return repr(str(value) if isinstance(value, Path) else value)


def _meant(config: TrainConfig, name: str) -> object:
    """A setting's value, for a path the file or folder that it leads to."""
    value = getattr(config, name)
    is_path = name in PATHS or (name == "data" and value not in SOURCES)
    return Path(value).expanduser().resolve() if is_path and value is not None else value
