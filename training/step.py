"""One training step: the Discriminator's update, then the Generator's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from training.augment import add_instance_noise, diff_augment
from training.config import TrainConfig
from training.ema import GeneratorEMA
from training.losses import loss_fake, loss_generator, loss_real, r1_penalty
from training.networks import Discriminator, Generator, as_channels_last, new_generator


@dataclass(frozen=True)
class StepStats:
    """The tutorial's five numbers; 0-dim tensors on the device, so logging decides when to wait.

    ``d_x`` is D's mean probability on real pictures, ``d_g_z1`` and ``d_g_z2`` on generated
    ones before and after D's update.
    """

    loss_d: Tensor
    loss_g: Tensor
    d_x: Tensor
    d_g_z1: Tensor
    d_g_z2: Tensor


def step_rng(seed: int, step: int) -> torch.Generator:
    """The generator of everything random in one step.

    It depends on nothing but (seed, step), so a resumed run needs no saved state.
    """
    (state,) = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))


class Trainer:
    """Networks, optimisers and average of a run.

    Args:
        config: the settings.
        channels: 1 or 3, as the pictures have.
        device: where the networks live.
        precision: torch.float32, or torch.bfloat16 for autocast.
    """

    def __init__(
        self, config: TrainConfig, channels: int, device: torch.device, precision: torch.dtype
    ) -> None:
        self.config, self.device, self.precision = config, device, precision
        torch.manual_seed(config.seed)
        self.generator: Generator = new_generator(
            config.nz, config.ngf, channels, config.image_size
        ).to(device)
        self.discriminator = Discriminator(
            config.ndf, channels, config.image_size, config.d_norm
        ).to(device)
        as_channels_last(self.generator)
        as_channels_last(self.discriminator)
        self.ema = GeneratorEMA(self.generator, config.ema_decay)
        betas = (config.beta1, 0.999)
        self.adam_g = torch.optim.Adam(self.generator.parameters(), config.lr_g, betas, fused=True)
        self.adam_d = torch.optim.Adam(
            self.discriminator.parameters(), config.lr_d, betas, fused=True
        )

    def start_from(self, generator: Generator) -> None:
        """Begin with another run's Generator, of the same shape; D keeps its initial weights."""
        for network in (self.generator, self.ema.generator):
            network.load_state_dict(generator.state_dict())

    def step(self, real: Tensor, step: int) -> StepStats:
        """Update D, then G, on one batch.

        Args:
            real: (N, C, H, W) float32 in [-1, 1], on the device.
            step: number of this update, from 0.
        """
        config = self.config
        rng = step_rng(config.seed, step)
        latents = torch.randn(real.shape[0], config.nz, generator=rng).to(self.device)

        self._set_learning_rates(step)
        # Real and generated pictures go through D as separate batches, each with BatchNorm
        # statistics of its own, and a backward pass each (paper's author code, tutorial).
        self.adam_d.zero_grad()
        with self._autocast():
            logits_real = self.discriminator(self._seen(real, step, rng))
        error_real = loss_real(logits_real.float(), config.label_smoothing)
        error_real.backward()
        with self._autocast():
            fake = self.generator(latents)
            logits_fake = self.discriminator(self._seen(fake.detach(), step, rng))
        error_fake = loss_fake(logits_fake.float())
        error_fake.backward()
        if config.r1_gamma and step % config.r1_every == 0:
            half = real[: (real.shape[0] + 1) // 2]
            penalty = r1_penalty(self.discriminator, half)
            (penalty * (config.r1_gamma / 2 * config.r1_every)).backward()
        self.adam_d.step()

        self.adam_g.zero_grad()
        with _frozen(self.discriminator):
            with self._autocast():
                logits = self.discriminator(self._seen(fake, step, rng))
            error_g = loss_generator(logits.float())
            error_g.backward()
        self.adam_g.step()
        self.ema.update(self.generator, step)
        return StepStats(
            loss_d=(error_real + error_fake).detach(),
            loss_g=error_g.detach(),
            d_x=logits_real.detach().float().sigmoid().mean(),
            d_g_z1=logits_fake.detach().float().sigmoid().mean(),
            d_g_z2=logits.detach().float().sigmoid().mean(),
        )

    def _set_learning_rates(self, step: int) -> None:
        config = self.config
        left = (config.max_steps - step) / max(1, config.lr_decay_steps)
        factor = min(1.0, left) if config.lr_decay_steps else 1.0
        rise = (
            min(1.0, step / max(1, config.lr_g_warmup_steps)) if config.lr_g_warmup_steps else 1.0
        )
        self.adam_g.param_groups[0]["lr"] = config.lr_g * factor * rise
        self.adam_d.param_groups[0]["lr"] = config.lr_d * factor

    def _autocast(self) -> torch.autocast:
        enabled = self.precision is torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _seen(self, pictures: Tensor, step: int, rng: torch.Generator) -> Tensor:
        """What D gets to see of real or generated pictures."""
        config = self.config
        if config.diffaugment:
            pictures = diff_augment(pictures, rng)
        if config.instance_noise:
            std = config.instance_noise * max(0.0, 1.0 - step / config.max_steps)
            pictures = add_instance_noise(pictures, std, rng)
        return pictures


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients into these parameters: the Generator's step needs only those of the input."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
