"""Every setting of a training run, with the one place for its default, type, range and help.

Precedence: recipe < configuration file < command-line flag.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from training.data.decode import PictureSpec
from training.losses import Loss
from training.networks import DiscriminatorNorm, LatentLaw, check_geometry

Recipe = Literal["stable", "paper"]
Count = Annotated[int, Ge(1), Lt(10**8)]  # a checkpoint's name has eight digits
Amount = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Lt(1)]

FIRST_SAMPLES = (100, 200)  # so that a collapse shows within the first hundreds of updates
# What may differ between a run and its continuation; everything else changes the result.
RESUMABLE = {
    "cache",
    "checkpoint_every",
    "compile",
    "config",
    "data",  # known by its pictures, wherever they lie now
    "data_root",
    "dry_run",
    "keep_checkpoints",
    "least_seconds",
    "log_every",
    "max_steps",
    "on_dead",
    "out",
    "resume",
    "sample_every",
    "workers",
}
MOST_COMPARED = 32  # pictures that D compares, if nothing is said
AUGMENTED_BELOW = 2000  # different pictures: D begins to learn fewer by heart (docs/training.md)


class ConfigError(ValueError):
    """A setting is unknown or out of range; the message says what is allowed."""


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and what comes when."""

    max_steps: Count = 60_000
    """Updates of the Generator in all, those of a resumed run included."""
    lr_g_warmup_steps: Annotated[int, Ge(0)] = 300
    """G's learning rate rises from 0 over the first so many, which gives D a start."""
    lr_decay_steps: Annotated[int, Ge(0)] = 30_000
    """Both learning rates fall linearly to 0 over the last so many steps, at most over the second
    half of the run; 0 keeps them."""
    log_every: Count = 10
    """Steps between lines in stats.jsonl."""
    sample_every: Count = 500
    """Steps between fixed-noise grids."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    keep_checkpoints: Count = 3
    """The newest so many are kept, and the best one besides."""
    least_seconds: Amount = 0.0
    """Seconds at least between two grids, and between two checkpoints: those due sooner are left
    out. On a fast GPU they could take a good part of the time."""

    def rise(self, step: int) -> float:
        """What the learning rate of G is multiplied by in update ``step``, from 0."""
        return min(1.0, step / self.lr_g_warmup_steps) if self.lr_g_warmup_steps else 1.0

    def decay(self, step: int) -> float:
        """What both learning rates are multiplied by in update ``step``, from 0."""
        over = min(self.lr_decay_steps, self.max_steps // 2)
        return min(1.0, (self.max_steps - step) / over) if over else 1.0

    def fall(self, step: int) -> float:
        """What the instance noise is multiplied by in update ``step``, from 0."""
        return max(0.0, 1.0 - step / self.max_steps)

    def logs_after(self, done: int) -> bool:
        """Whether a line of numbers is due after so many updates."""
        return done % self.log_every == 0 or self.samples_after(done)

    def samples_after(self, done: int) -> bool:
        """Whether a grid of samples is due after so many updates."""
        return done in FIRST_SAMPLES or done % self.sample_every == 0 or done == self.max_steps

    def saves_after(self, done: int) -> bool:
        """Whether a checkpoint is due after so many updates; the end of a run has its own."""
        return done % self.checkpoint_every == 0 and done != self.max_steps


@dataclass(frozen=True)
class TrainConfig(Schedule, PictureSpec):
    """Train a DCGAN on pictures and save its Generator."""

    out: Path | None = None
    """Folder of the run; runs/<date>-<time> when omitted."""
    recipe: Recipe = "stable"
    """stable: one run from nothing. paper: the tutorial's settings, but for --max-steps."""
    config: Path | None = None
    """JSON file of settings, between the recipe and the flags."""
    start_from: Path | None = None
    """generator.safetensors of another run, to start G from (transfer: arXiv:1805.01677)."""
    start_d_from: Path | None = None
    """Checkpoint (.pt) of another run, to start D from; it knows what real pictures look like."""
    batch_size: Annotated[int, Ge(2)] = 16
    """Real pictures (and as many generated ones) an update, over all processes."""
    nz: Annotated[int, Ge(1), Lt(2**14)] = 100
    """Length of a latent."""
    latent: LatentLaw = "normal"
    """What G's first layer sees: normal (the tutorial) or uniform (arXiv:1511.06434)."""
    ngf: Annotated[int, Ge(1), Lt(2**11)] = 64
    """Feature maps of the Generator before its last layer."""
    ndf: Annotated[int, Ge(1), Lt(2**11)] = 64
    """Feature maps of the Discriminator after its first layer."""
    loss: Loss = "relativistic"
    """non-saturating (arXiv:1406.2661), hinge (arXiv:1705.02894), lsgan (arXiv:1611.04076) or
    relativistic, in pairs (arXiv:1807.00734)."""
    d_norm: DiscriminatorNorm = "none"
    """Norm in the Discriminator; spectral replaces BatchNorm (arXiv:1802.05957)."""
    d_group: Annotated[int, Ge(0)] | None = None
    """Pictures that D compares, a divisor of half the batch (after arXiv:1710.10196); 0: none;
    None: as many as that allows, up to 32."""
    lr_g: Amount = 4e-4
    """Adam's learning rate, Generator."""
    lr_d: Amount = 4e-4
    """Adam's learning rate, Discriminator (two rates: arXiv:1706.08500)."""
    beta1: Share = 0.5
    """Adam's beta1; beta2 is 0.999."""
    r1_gamma: Amount = 0.3
    """Weight of the R1 gradient penalty (arXiv:1801.04406); 0 turns it off. A relativistic D has it
    on generated pictures as well (R2; arXiv:2501.05441)."""
    r1_every: Count = 16
    """Apply R1 once in so many updates, scaled up by it (lazy, arXiv:1912.04958)."""
    label_smoothing: Share = 0.0
    """Real targets are 1 minus this (one-sided, arXiv:1606.03498); for non-saturating only."""
    instance_noise: Amount = 0.0
    """Standard deviation of noise on D's input, falling to 0 at max_steps (arXiv:1610.04490)."""
    diffaugment: Literal["auto", "on", "off"] = "auto"
    """Colour, translation and cutout on D's input (arXiv:2006.10738); auto: of fewer than 2,000
    different pictures."""
    ema_decay: Share = 0.999
    """Decay of the Generator's weight average, ramped up; 0 turns it off (arXiv:1806.04498)."""
    held_out: Annotated[int, Ge(0)] = 256
    """Pictures (at most 1/8 of all) kept from D, to see it learn the rest by heart (2006.06676)."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the hardware has it, float32 elsewhere."""
    deterministic: bool = False
    """On a GPU only kernels that give the same bits each time, for an exact --resume: slower."""
    compile: bool = False
    """torch.compile both networks: a slow start, then fewer passes over memory."""
    on_dead: Literal["stop", "warn", "rollback"] = "stop"
    """When D has won, samples do not differ, or NaN. rollback: best checkpoint, half the rates."""
    resume: bool = False
    """Continue the run in --out (or the newest one) from its last checkpoint."""
    dry_run: bool = False
    """Print the settings that would run, and stop."""

    def __post_init__(self) -> None:
        check(self)
        try:
            super().__post_init__()
            check_geometry(self.image_size, 3)
        except ValueError as error:
            raise ConfigError(str(error)) from None
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

    @property
    def group(self) -> int:
        """``d_group`` of one process, which sees the whole batch."""
        return fitting_group(self.batch_size) if self.d_group is None else self.d_group

    def to_json(self) -> str:
        """One JSON object, keys in declaration order, paths as strings."""
        return json.dumps(asdict(self), default=str, indent=2)


def recipe_defaults(recipe: Recipe) -> TrainConfig:
    """The settings that a recipe stands for.

    ``paper`` is the tutorial's: batch 128, ten passes over CelebA are about
    16,000 steps, no averaging, no penalty, all pictures trained on, float32.
    What a run of ``stable`` reaches is in docs/training.md.
    """
    if recipe == "stable":
        return TrainConfig()
    return TrainConfig(
        recipe="paper",
        batch_size=128,
        loss="non-saturating",
        lr_g=2e-4,
        lr_d=2e-4,
        d_norm="batch",
        d_group=0,
        lr_g_warmup_steps=0,
        lr_decay_steps=0,
        r1_gamma=0.0,
        diffaugment="off",
        ema_decay=0.0,
        held_out=0,
        precision="float32",
    )


def fitting_group(batch_size: int, processes: int = 1) -> int:
    """How many pictures D compares where nothing is said: each process has whole groups, and R1,
    which sees half of the batch, too; 0 where there are none of 2 to 32."""
    half, rest = divmod(batch_size, 2 * processes)
    fitting = [n for n in range(2, MOST_COMPARED + 1) if half % n == 0 and not rest]
    return max(fitting, default=0)


def from_mapping(values: dict[str, Any], base: TrainConfig) -> TrainConfig:
    """``base`` with ``values``, as JSON has them, put over it.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named) or a value out of place.
    """
    kinds = _kinds(TrainConfig)
    clean: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kinds:
            hint = nearest(key, kinds) or f"known: {', '.join(kinds)}"
            raise ConfigError(f"unknown setting {key!r}; {hint.rstrip()}")
        if isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{key} is {value!r}; it must not hold NUL")
        clean[key] = _fitting(key, value, kinds[key], of_json=True)
    return replace(base, **clean)


def nearest(word: str, known: Iterable[str]) -> str:
    """What may have been meant by a word that is not known; empty where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def check(settings: object) -> None:
    """Hold each setting of a dataclass against its annotation: type, choices and range.

    Raises:
        ConfigError: the first that does not fit; the message says what is allowed.
    """
    declared: Any = type(settings)  # of any, as mypy sees no hash in a class of object
    for name, kind in _kinds(declared).items():
        _fitting(name, getattr(settings, name), kind)


@cache
def _kinds(settings: type) -> dict[str, TypeAdapter[Any]]:
    """What may stand in each field of a dataclass of settings."""
    hints = get_type_hints(settings, include_extras=True)
    finite = ConfigDict(allow_inf_nan=False)
    return {field.name: TypeAdapter(hints[field.name], config=finite) for field in fields(settings)}


def _fitting(name: str, value: Any, kind: TypeAdapter[Any], of_json: bool = False) -> Any:
    """The value, as the annotation has it; in JSON a text stands for a path."""
    try:
        if of_json:
            value = kind.validate_json(json.dumps(value), strict=True)
        return kind.validate_python(value, strict=True)
    except ValidationError as error:
        why = error.errors()[0]["msg"].replace("Input should be", "it must be")
        raise ConfigError(f"{name} is {value!r}; {why}") from None


def differences(saved: TrainConfig, wanted: TrainConfig) -> list[str]:
    """What a continuation would change that it must not, one line a setting."""
    # What falls towards max_steps makes a longer run another run.
    falling = saved.instance_noise or saved.lr_decay_steps
    allowed = RESUMABLE - {"max_steps"} if falling else RESUMABLE
    return [
        f"{name}: the run has {getattr(saved, name)}, asked for {getattr(wanted, name)}"
        for name in _kinds(TrainConfig)
        if name not in allowed and getattr(saved, name) != getattr(wanted, name)
    ]
