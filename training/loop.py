"""The run: data in, steps, what is written on the way, and the Generator at the end.

A run's folder holds config.json, stats.jsonl, samples/, checkpoints/ and, when it has ended in
any way, generator.safetensors; best.safetensors too, unless it was interrupted.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from handler.hardware import is_out_of_memory
from training import SIGNALS, checkpoint
from training.config import TrainConfig, fitting_group
from training.data.batches import Split, batches, digest_of, split, to_pictures
from training.data.decode import Pictures
from training.distributed import ALONE, PeerError, World, arithmetic
from training.files import remove_partial
from training.health import (
    FEW,
    HEALTHY,
    HealthMonitor,
    Verdict,
    diverged,
    overfitting,
    pairwise_diversity,
)
from training.journal import Journal
from training.networks import Generator
from training.samples import generate, save_grid
from training.sliced import sliced_wasserstein_by_scale
from training.step import Best, NewNetworks, Start, StepStats, Trainer, new_networks
from training.weights import fault_of, recalibrate, save_generator

log = logging.getLogger(__name__)

FINAL_CALIBRATION = 8192  # images that measure BatchNorm's statistics for the saved weights
PREVIEW_CALIBRATION = 512  # images that measure BatchNorm's statistics for a preview
PREVIEW_SEEDS = range(64)
DISTANCE_SEEDS = range(128)  # images compared with as many real ones
DIVERSITY_PICTURES = 256
MOST_ROLLBACKS = 3
STAT_NAMES = tuple(f.name for f in fields(StepStats))
# The settings that the metadata of the weights holds.
PROVENANCE = (
    "recipe",
    "batch_size",
    "loss",
    "latent",
    "r1_gamma",
    "r1_every",
    "ema_decay",
    "d_norm",
    "d_group",
    "diffaugment",
    "label_smoothing",
    "instance_noise",
    "lr_g",
    "lr_d",
    "lr_decay_steps",
    "lr_g_warmup_steps",
    "held_out",
    "deterministic",
    "background",
    "seed",
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``step`` updates are done; ``ended`` is finished, interrupted or dead.

    ``weights`` are those of the last update, ``best`` those of the update whose samples were
    closest to real pictures; None when the run was interrupted, or nothing was measured, or
    nothing of it can be used.
    """

    step: int
    ended: str
    verdict: Verdict
    weights: Path
    best: Path | None


def train(
    config: TrainConfig,
    pictures: Pictures,
    out: Path,
    device: torch.device,
    precision: torch.dtype,
    start: Start = Start(),  # noqa: B008 - it is frozen
    world: World = ALONE,
    networks: NewNetworks = new_networks,
) -> Outcome:
    """Train, or go on training, in the folder ``out``.

    A new run begins with the networks of ``start``, which must fit those that ``networks`` makes.

    Ctrl-C and the other ``SIGNALS`` are ordinary ends, after the update
    that runs: the state is saved and ``ended`` is "interrupted". All processes of ``world``
    return the same.

    Raises:
        KeyboardInterrupt: a second signal; what was saved before is whole.
        CheckpointError: ``config.resume`` and no checkpoint is usable.
        OSError: something could not be written.
        PeerError: one of these happened in the first process, which reads and writes for all.
    """
    if world.is_first:
        remove_partial(out)
    trainer = Trainer(config, pictures.images.shape[-1], device, precision, world, networks)
    step = checkpoint.load_latest(out / "checkpoints", trainer) if config.resume else 0
    if not config.resume:
        trainer.start_from(start)
        if world.is_first:
            save_grid(out / "samples" / "real.png", pictures.images[: len(PREVIEW_SEEDS)])
    with (
        Journal(out / "stats.jsonl", step, world.is_first) as journal,
        ThreadPoolExecutor(1, "checkpoints") as writer,
        arithmetic(precision, deterministic=config.deterministic),
    ):
        run = _Run(config, pictures, out, trainer, journal, step, start.inherited, writer)
        with catch_stop_signals(patient=world.size > 1, speaks=world.is_first) as stop:
            ended = run.go(stop)
            if ended == "interrupted" and world.is_first:
                say(
                    f"saving the state after update {run.step}; then BatchNorm is measured over "
                    f"{FINAL_CALIBRATION:,} latents for generator.safetensors"
                )
            return run.finish(ended)


def batch_that_fits(
    config: TrainConfig,
    channels: int,
    device: torch.device,
    precision: torch.dtype,
    world: World = ALONE,
) -> int | None:
    """The largest half, quarter, ... of the batch of which an update fits into the memory.

    It is tried. None if there is none, or where several processes would have to try together.
    """
    size = config.batch_size // 2 if world.size == 1 else 0
    while size >= 2:
        group = fitting_group(size) if config.group else 0
        if _fits(replace(config, batch_size=size, d_group=group), channels, device, precision):
            return size
        size //= 2
    return None


def _fits(config: TrainConfig, channels: int, device: torch.device, precision: torch.dtype) -> bool:
    """Whether the memory holds one update. What it took is free again at the return."""
    torch.cuda.empty_cache()
    shape = (config.batch_size, channels, config.image_size, config.image_size)
    try:
        with arithmetic(precision, deterministic=config.deterministic):
            trainer = Trainer(config, channels, device, precision)
            trainer.step(torch.zeros(shape, device=device), 0)  # one that has R1
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


class _Run:
    """The state of a running loop, so that an interrupt finds all it has to save.

    What the first process measures is sent to the others, so all of them come to the same
    verdicts and decisions.
    """

    def __init__(
        self,
        config: TrainConfig,
        pictures: Pictures,
        out: Path,
        trainer: Trainer,
        journal: Journal,
        step: int,
        inherited: Sequence[dict[str, Any]],
        writer: Executor,
    ) -> None:
        self.config, self.pictures, self.out = config, pictures, out
        self.inherited = inherited
        self.trainer, self.journal, self.world = trainer, journal, trainer.world
        self.checkpoints = out / "checkpoints"
        self.split = split(pictures.first_equal, config.held_out, config.batch_size, config.seed)
        self.step, self.saved_step = step, step
        self.started = time.monotonic() - journal.seconds
        self.pending: list[Tensor] = []
        self.writer, self.writing = writer, Future[None]()
        self.writing.set_result(None)
        self.done_at = {"samples": -math.inf, "checkpoint": -math.inf}
        self.checks = Checks(pictures, self.split, trainer)
        self._watch()

    def _watch(self) -> None:
        config, different = self.config, self.pictures.different
        held_out = np.unique(self.pictures.first_equal[self.split.held_out])
        too_few = different < FEW or (config.held_out > 0 and len(held_out) < 2)
        self.health = HealthMonitor(
            self.checks.real_diversity,
            config.loss,
            config.label_smoothing,
            different if too_few else None,
            self.step,
        )
        self.verdict = HEALTHY

    def go(self, stop: StopRequest) -> str:
        """Update until the end, whichever it is; returns ``Outcome.ended``."""
        config = self.config
        source = self._batches()
        interval_s = 0.5 if sys.stderr.isatty() else 30.0  # a log file is not flooded
        with tqdm(
            total=config.max_steps,
            initial=self.step,
            unit="step",
            mininterval=interval_s,
            disable=not self.world.is_first,
        ) as bar:
            while self.step < config.max_steps:
                if self.world.highest(int(stop.made)):
                    return "interrupted"
                stats = self.trainer.step(to_pictures(next(source), self.trainer.device), self.step)
                self.step += 1
                bar.update()
                self._after(stats, bar)
                if self.verdict.dead and config.on_dead != "warn":
                    if config.on_dead == "stop" or not self._roll_back(bar):
                        return "dead"
                    source = self._batches()
        return "finished"

    def finish(self, ended: str) -> Outcome:
        """Save what there is; a dead run's state is saved too, for a look at it."""
        if self.step != self.saved_step:
            self._checkpoint()
        self.writing.result()
        generator = self._measured()
        # Losses are those from before an update: what the last one did is seen here alone.
        fault = self.world.from_first(lambda: fault_of(generator) if generator else None)
        if fault is not None and not self.verdict.dead:
            self.verdict = diverged(fault)
            self.journal.write(self.step, verdict=self.verdict.words)
            if ended == "finished" and self.config.on_dead != "warn":
                ended = "dead"
        weights = self._save_weights("generator.safetensors", generator, ended, self.step)
        best = None
        if ended != "interrupted" and (step := self._load_best()) is not None:
            best = self._save_weights("best.safetensors", self._measured(), ended, step)
        return Outcome(self.step, ended, self.verdict, weights, best)

    def _measured(self) -> Generator | None:
        """The averaged Generator with BatchNorm measured on it, in the first process."""
        if not self.world.is_first:
            return None
        return recalibrate(self.trainer.ema.generator, FINAL_CALIBRATION)

    def _load_best(self) -> int | None:
        """Return to the best state; None where there is none, or it cannot be read."""
        if self.trainer.best is None:
            return None
        self.writing.result()
        try:
            return checkpoint.load_best(self.checkpoints, self.trainer)
        except (checkpoint.CheckpointError, PeerError) as error:
            log.warning("left out: %s", error)
            return None

    def _batches(self) -> Iterator[npt.NDArray[np.uint8]]:
        return batches(
            self.pictures.images,
            self.split.train,
            self.config.batch_size,
            self.config.seed,
            self.step,
            self.world,
        )

    def _after(self, stats: StepStats, bar: tqdm[Any]) -> None:
        """Log, sample, save, judge: what is due after an update."""
        config = self.config
        self.pending.append(torch.stack([getattr(stats, name) for name in STAT_NAMES]))
        if config.logs_after(self.step):
            self._log(bar)
        if config.samples_after(self.step) and self._is_time("samples"):
            self._sample()
        if config.saves_after(self.step) and self._is_time("checkpoint"):
            self._checkpoint()
        if config.logs_after(self.step):
            self._judge(bar)

    def _is_time(self, what: str) -> bool:
        """Whether the last of these is long enough ago, by the clock of the first process."""
        least_s = self.config.least_seconds
        if not least_s or self.step == self.config.max_steps:
            return True
        now = self.world.from_first(time.monotonic)
        if now - self.done_at[what] < least_s:
            return False
        self.done_at[what] = now
        return True

    def _log(self, bar: tqdm[Any]) -> None:
        # One transfer for all updates since the last line: waiting for a GPU at every update
        # would keep its queue empty.
        numbers = torch.stack(self.pending)
        self.pending.clear()
        self.world.average_(numbers)
        rows = [dict(zip(STAT_NAMES, row, strict=True)) for row in numbers.tolist()]
        for row in rows:
            self.health.add(row)
        latest = rows[-1]
        self.journal.write(self.step, **latest, seconds=round(self._seconds(), 3))
        bar.set_postfix_str(
            f"Loss_D {latest['loss_d']:.3f} Loss_G {latest['loss_g']:.3f} D(x) "
            f"{latest['d_x']:.3f} D(G(z)) {latest['d_g_z1']:.3f}/{latest['d_g_z2']:.3f}",
            refresh=False,  # shown when the bar is due
        )

    def _sample(self) -> None:
        grid = self.out / "samples" / f"step_{self.step:08d}.png"
        diversity, distance = self.world.from_first(lambda: self.checks.look_at_samples(grid))
        overfit = self.checks.overfitting(self.step)
        self.health.add_check(diversity, overfit)
        self.journal.write(self.step, diversity=diversity, distance=distance, overfit=overfit)
        self.journal.show(self.step, grid)
        best = self.trainer.best
        closest = math.isfinite(distance) and (best is None or distance < best.distance)
        # Pixels of broken weights have a distance too.
        if closest and self.world.from_first(lambda: checkpoint.is_usable(self.trainer)):
            self.trainer.best = Best(self.step, distance)
            if self.world.is_first:
                self._write(partial(checkpoint.write, self.checkpoints / checkpoint.BEST))

    def _checkpoint(self) -> None:
        if self.world.is_first:
            kept = self.config.keep_checkpoints
            self._write(partial(checkpoint.save, self.checkpoints, step=self.step, kept=kept))
        self.saved_step = self.step

    def _write(self, write: Callable[[memoryview], None]) -> None:
        """Let the state be written while the run goes on.

        Raises:
            OSError: the one before could not be.
        """
        packed = checkpoint.pack(self.trainer, self.step)
        self.writing.result()
        self.writing = self.writer.submit(write, packed)

    def _judge(self, bar: tqdm[Any]) -> None:
        """Say what has changed, once."""
        verdict = self.health.judge()
        if verdict.kind != self.verdict.kind:
            self.journal.write(self.step, verdict=verdict.words)
            if self.world.is_first:
                bar.write(f"step {self.step}: {verdict.words}", file=bar.fp)
        self.verdict = verdict

    def _roll_back(self, bar: tqdm[Any]) -> bool:
        """Return to the best checkpoint with half the learning rates, if that is possible."""
        trainer = self.trainer
        if trainer.rollbacks == MOST_ROLLBACKS:
            return False
        lr_scale, rollbacks, died_at = trainer.lr_scale / 2, trainer.rollbacks + 1, self.step
        best = self._load_best()
        if best is None:
            return False
        self.step = best
        trainer.lr_scale, trainer.rollbacks = lr_scale, rollbacks
        self._checkpoint()  # before anything of the way that was lost is deleted
        self.writing.result()
        self.journal.cut(self.step)
        event = (
            f"update {died_at} was dead ({self.verdict.kind}); back to update {self.step} with "
            f"{lr_scale:g} of the learning rates ({rollbacks} of at most {MOST_ROLLBACKS} times)"
        )
        self.journal.write(self.step, event=event)
        if self.world.is_first:
            bar.write(event, file=bar.fp)
        self._watch()
        bar.n = self.step
        return True

    def _save_weights(self, name: str, generator: Generator | None, ended: str, step: int) -> Path:
        path = self.out / name
        if generator is None:
            return path
        provenance = {
            "data": self.pictures.source,
            "pictures": len(self.pictures.images),
            "different": self.pictures.different,
            "digest": digest_of(self.pictures.images),
            "steps": step,
            "ended": ended,
            "precision": str(self.trainer.precision).removeprefix("torch."),
            "device": _device_name(self.trainer.device),
            "processes": self.world.size,
            "torch": str(torch.__version__),
            "start_from": self.config.start_from and str(self.config.start_from),
            "start_d_from": self.config.start_d_from and str(self.config.start_d_from),
            "inherited": list(self.inherited),
            **{name: getattr(self.config, name) for name in PROVENANCE},
        }
        save_generator(path, generator, provenance)
        return path

    def _seconds(self) -> float:
        return time.monotonic() - self.started


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


class Checks:
    """Compares a run's samples and its Discriminator's opinions with its pictures.

    The same latents and the same pictures, chosen by the run's seed, each time: what differs
    between two checks is the networks alone.

    Args:
        pictures: all of the run.
        split: which of them it trains on.
        trainer: the run's networks.
    """

    def __init__(self, pictures: Pictures, split: Split, trainer: Trainer) -> None:
        self.images, self.held_out, self.trainer = pictures.images, split.held_out, trainer
        rng = np.random.default_rng(trainer.config.seed)
        self.trained_on = rng.permutation(split.train)
        self.real_diversity = pairwise_diversity(
            self.images[np.sort(self.trained_on[:DIVERSITY_PICTURES])]
        )

    def look_at_samples(self, path: Path) -> tuple[float, float]:
        """Write the grid of samples.

        Returns:
            diversity: of its tiles (``pairwise_diversity``).
            distance: mean over the scales of the sliced Wasserstein distance between samples and
                real pictures, times 1000: finer textures, edges and shapes, but neither
                composition nor copies count in it.
        """
        generator = recalibrate(self.trainer.ema.generator, PREVIEW_CALIBRATION)
        images = generate(generator, DISTANCE_SEEDS)
        tiles = images[: len(PREVIEW_SEEDS)]
        save_grid(path, tiles)
        real = self.images[np.sort(self.trained_on[: len(images)])]
        distances = sliced_wasserstein_by_scale(
            images[: len(real)], real, device=self.trainer.device
        )
        return pairwise_diversity(tiles), float(np.mean(list(distances.values())))

    def overfitting(self, step: int) -> float | None:
        """How far D knows its pictures by heart, see ``health.overfitting``; all processes.

        Known and unknown pictures share batches, so that BatchNorm treats them alike.
        """
        known: list[float] = []
        unknown: list[float] = []
        generated: list[float] = []
        size = self.trainer.config.batch_size
        for start in range(0, len(self.held_out), size // 2):
            unseen = self.held_out[start : start + size // 2]
            seen = self.trained_on[start : start + size - len(unseen)]
            real = to_pictures(self.images[np.append(unseen, seen)], self.trainer.device)
            on_real, on_fake = (outputs.tolist() for outputs in self.trainer.outputs(real, step))
            unknown += on_real[: len(unseen)]
            known += on_real[len(unseen) :]
            generated += on_fake
        return overfitting(known, unknown, generated) if unknown else None


class StopRequest:
    """Whether a signal has asked the run to stop."""

    made = False


@contextmanager
def catch_stop_signals(patient: bool = False, speaks: bool = True) -> Iterator[StopRequest]:
    """Note the first of these signals instead of dying of it; a second one interrupts at once.

    One that is ignored stays so: SIGHUP under nohup, SIGINT in the background of a script.

    Args:
        patient: let further ones pass too. ``torchrun`` forwards what the terminal has already
            sent to all, so a second one is not a second wish; it kills those that take too long.
        speaks: say on stderr that the wish was heard.

    An exception in the middle of an update would leave D updated and G not, and the saved state
    would be one that no uninterrupted run goes through.
    """
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        if request.made and not patient:
            raise KeyboardInterrupt
        if speaks and not request.made:
            again = "" if patient else "; once more stops at once and saves nothing"
            say(f"{signal.Signals(number).name}: stopping after this update, then saving{again}")
        request.made = True

    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """A line on stderr, where a bar may be; not by ``print``, which a signal may interrupt.

    A terminal that is gone (SIGHUP) is no reason not to save.
    """
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode())
