"""The run: data in, steps, what is written on the way, and the Generator at the end.

A run's folder holds config.json, stats.jsonl, samples/, checkpoints/ and, when it has
finished or was interrupted, generator.safetensors.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from training import checkpoint
from training.config import TrainConfig
from training.data.pictures import Pictures
from training.ema import recalibrate
from training.files import atomic_path
from training.health import HealthMonitor, Verdict
from training.interrupts import StopRequest, catch_stop_signals
from training.metrics import pairwise_diversity
from training.networks import Generator
from training.samples import generate, save_grid
from training.step import StepStats, Trainer
from training.weights import save_generator

PREVIEW_CALIBRATION = 512  # images that measure BatchNorm's statistics for a preview
FINAL_CALIBRATION = 8192  # and for the saved weights
PREVIEW_SEEDS = range(64)
FIRST_SAMPLES = (100, 200)  # so that a collapse shows within the first hundreds of updates
STAT_NAMES = tuple(f.name for f in fields(StepStats))


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``step`` updates are done; ``ended`` is finished, interrupted or dead."""

    step: int
    ended: str
    verdict: Verdict
    weights: Path


def batches(pictures: Pictures, batch_size: int, seed: int, first_step: int) -> Iterator[Tensor]:
    """Real batches without end: each epoch a new order, the incomplete last batch dropped.

    The order follows from (seed, epoch), so a run that starts at ``first_step`` sees what an
    uninterrupted one would see from there.

    Yields:
        (batch_size, C, H, W) float32 in [-1, 1], channels last in memory, on the CPU.
    """
    per_epoch = len(pictures.images) // batch_size
    epoch, position = divmod(first_step, per_epoch)
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(pictures.images))
        for batch in range(position, per_epoch):
            chosen = np.sort(order[batch * batch_size : (batch + 1) * batch_size])
            pixels = torch.from_numpy(pictures.images[chosen]).permute(0, 3, 1, 2)
            yield pixels.to(torch.float32).div_(127.5).sub_(1.0)
        epoch, position = epoch + 1, 0


def train(
    config: TrainConfig,
    pictures: Pictures,
    out: Path,
    device: torch.device,
    precision: torch.dtype,
    start: Generator | None = None,
) -> Outcome:
    """Train, or go on training, in the folder ``out``.

    A new run begins with the weights of ``start``, where there is one.

    Ctrl-C and SIGTERM are ordinary ends, after the update that runs: the state is saved and
    ``ended`` is "interrupted".

    Raises:
        CheckpointError: ``config.resume`` and no checkpoint is usable.
        OSError: something could not be written.
    """
    torch.backends.cudnn.benchmark = True
    trainer = Trainer(config, pictures.images.shape[-1], device, precision)
    step = checkpoint.load_latest(out / "checkpoints", trainer) if config.resume else 0
    if not config.resume:
        if start is not None:
            trainer.start_from(start)
        save_grid(out / "samples" / "real.png", pictures.images[: len(PREVIEW_SEEDS)])
    seconds = _cut_stats(out / "stats.jsonl", step)
    with (out / "stats.jsonl").open("a", encoding="utf-8") as stats_file:
        run = _Run(config, pictures, out, trainer, stats_file, step, seconds)
        with catch_stop_signals() as stop:
            ended, verdict = run.go(stop)
        return run.finish(ended, verdict)


class _Run:
    """The state of a running loop, so that an interrupt finds all it has to save."""

    def __init__(
        self,
        config: TrainConfig,
        pictures: Pictures,
        out: Path,
        trainer: Trainer,
        stats_file: TextIO,
        step: int,
        seconds: float,
    ) -> None:
        self.config, self.pictures, self.out = config, pictures, out
        self.trainer, self.stats_file = trainer, stats_file
        self.step, self.saved_step, self.seconds_before = step, step, seconds
        self.started = time.monotonic()
        self.health = HealthMonitor(pairwise_diversity(pictures.images[:256]))
        self.pending: list[Tensor] = []
        self.warned = ""

    def go(self, stop: StopRequest) -> tuple[str, Verdict]:
        config = self.config
        source = batches(self.pictures, config.batch_size, config.seed, self.step)
        verdict = self.health.judge()
        interval_s = 0.5 if sys.stderr.isatty() else 30.0  # a log file is not flooded
        with tqdm(
            total=config.max_steps, initial=self.step, unit="step", mininterval=interval_s
        ) as bar:
            while self.step < config.max_steps and not stop.made:
                real = next(source).to(self.trainer.device, non_blocking=True)
                stats = self.trainer.step(real, self.step)
                self.step += 1
                bar.update()
                self._log(stats, bar)
                last = self.step == config.max_steps
                if self.step in FIRST_SAMPLES or self.step % config.sample_every == 0 or last:
                    self._sample()
                if self.step % config.checkpoint_every == 0 and not last:
                    self._checkpoint()
                verdict = self.health.judge()
                if verdict.dead and self._is_final(verdict, bar):
                    return "dead", verdict
        return ("interrupted" if self.step < config.max_steps else "finished"), verdict

    def finish(self, ended: str, verdict: Verdict) -> Outcome:
        """Save what there is; a dead run's state is saved too, for a look at it."""
        if self.step != self.saved_step:
            self._checkpoint()
        weights = self.out / "generator.safetensors"
        generator = recalibrate(self.trainer.ema.generator, FINAL_CALIBRATION)
        save_generator(weights, generator, self._provenance(ended))
        return Outcome(self.step, ended, verdict, weights)

    def _log(self, stats: StepStats, bar: tqdm[Any]) -> None:
        self.pending.append(torch.stack([getattr(stats, name) for name in STAT_NAMES]))
        if self.step % self.config.log_every and self.step != self.config.max_steps:
            return
        # One transfer for all updates since the last line: waiting for a GPU at every update
        # would keep its queue empty.
        rows = torch.stack(self.pending).tolist()
        self.pending.clear()
        for row in rows:
            self.health.add(dict(zip(STAT_NAMES, row, strict=True)))
        latest = dict(zip(STAT_NAMES, rows[-1], strict=True))
        self._write({**latest, "seconds": round(self._seconds(), 3)})
        bar.set_postfix_str(
            f"Loss_D {latest['loss_d']:.3f} Loss_G {latest['loss_g']:.3f} D(x) "
            f"{latest['d_x']:.3f} D(G(z)) {latest['d_g_z1']:.3f}/{latest['d_g_z2']:.3f}"
        )

    def _sample(self) -> None:
        generator = recalibrate(self.trainer.ema.generator, PREVIEW_CALIBRATION)
        images = generate(generator, PREVIEW_SEEDS)
        save_grid(self.out / "samples" / f"step_{self.step:08d}.png", images)
        diversity = pairwise_diversity(images)
        self.health.add_diversity(diversity)
        self._write({"diversity": diversity, "verdict": self.health.judge().words})

    def _checkpoint(self) -> None:
        checkpoint.save(self.out / "checkpoints", self.trainer, self.step)
        self.saved_step = self.step

    def _is_final(self, verdict: Verdict, bar: tqdm[Any]) -> bool:
        kind = verdict.words.split(":")[0]
        if self.warned != kind:
            self.warned = kind
            bar.write(f"step {self.step}: {verdict.words}", file=bar.fp)
            self._write({"verdict": verdict.words})
        return self.config.on_dead == "stop"

    def _write(self, entry: dict[str, Any]) -> None:
        self.stats_file.write(json.dumps({"step": self.step, **entry}) + "\n")
        self.stats_file.flush()

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _provenance(self, ended: str) -> dict[str, Any]:
        kept = ("recipe", "batch_size", "r1_gamma", "r1_every", "ema_decay", "d_norm",
                "diffaugment", "label_smoothing", "instance_noise", "lr_g", "lr_d",
                "lr_decay_steps", "lr_g_warmup_steps",
                "background", "seed")  # fmt: skip
        return {
            "data": self.pictures.source,
            "pictures": len(self.pictures.images),
            "steps": self.step,
            "ended": ended,
            "seconds": round(self._seconds()),
            "precision": str(self.trainer.precision).removeprefix("torch."),
            "device": _device_name(self.trainer.device),
            "torch": str(torch.__version__),
            "start_from": self.config.start_from and str(self.config.start_from),
            **{name: getattr(self.config, name) for name in kept},
        }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _cut_stats(path: Path, step: int) -> float:
    """Drop what was written after the checkpoint, and the half line of a killed run.

    Returns:
        seconds of training up to the checkpoint.
    """
    kept, seconds = [], 0.0
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if entry["step"] > step:
            break
        kept.append(line + "\n")
        seconds = entry.get("seconds", seconds)
    with atomic_path(path) as beside:
        beside.write_text("".join(kept), encoding="utf-8")
    return float(seconds)
