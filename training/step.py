"""One training step: the Discriminator's update, then the Generator's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.distributed import ALONE, World, synchronise
from training.losses import (
    StepDraws,
    add_instance_noise,
    diff_augment,
    loss_discriminator,
    loss_generator,
    opinion,
    r1_penalty,
)
from training.networks import Discriminator, Generator, new_generator
from training.weights import GeneratorEMA

Network = Callable[[Tensor], Tensor]
NewNetworks = Callable[[TrainConfig, int], tuple[Generator, Discriminator]]


@dataclass(frozen=True)
class StepStats:
    """The numbers of one update; 0-dim tensors on the device, so logging decides when to wait.

    ``d_x`` is D's mean opinion (``losses.opinion``) on real pictures, ``d_g_z1`` and ``d_g_z2``
    on generated ones before and after D's update. ``grad_d`` and ``grad_g`` are the Euclidean
    norms of the gradients that the optimisers were given.
    """

    loss_d: Tensor
    loss_g: Tensor
    d_x: Tensor
    d_g_z1: Tensor
    d_g_z2: Tensor
    grad_d: Tensor
    grad_g: Tensor


@dataclass(frozen=True)
class Best:
    """The update after which the samples were closest to real pictures, and how close."""

    step: int
    distance: float


@dataclass(frozen=True)
class Start:
    """What a run begins with; None: a new network. Of D its state, which can be sent to other
    processes (a network with spectral norm cannot be pickled).

    ``inherited``: the sets of pictures that these networks have learned from, see
    ``training.weights.picture_sets``.
    """

    generator: Generator | None = None
    discriminator: dict[str, Tensor] | None = None
    inherited: Sequence[dict[str, Any]] = ()


def new_networks(config: TrainConfig, channels: int) -> tuple[Generator, Discriminator]:
    """Those of a run, with initial weights drawn from torch's global generator."""
    generator = new_generator(config.nz, config.ngf, channels, config.image_size, config.latent)
    return generator, new_discriminator(config, channels)


def new_discriminator(config: TrainConfig, channels: int) -> Discriminator:
    """As of ``new_networks``."""
    return Discriminator(config.ndf, channels, config.image_size, config.d_norm, config.group)


class Trainer:
    """Networks, optimisers and average of a run.

    Args:
        config: the settings.
        channels: 1 or 3, as the pictures have.
        device: where the networks live.
        precision: torch.float32, or torch.bfloat16 for autocast.
        world: the processes that share each batch.
        networks: makes them.
    """

    def __init__(
        self,
        config: TrainConfig,
        channels: int,
        device: torch.device,
        precision: torch.dtype,
        world: World = ALONE,
        networks: NewNetworks = new_networks,
    ) -> None:
        self.config, self.device, self.precision = config, device, precision
        self.world = world
        self.lr_scale = 1.0  # halved with each of:
        self.rollbacks = 0
        self.best: Best | None = None
        torch.manual_seed(config.seed)
        generator, discriminator = networks(config, channels)
        # NHWC weights: faster convolutions on CPUs and tensor cores.
        self.generator = generator.to(device).to(memory_format=torch.channels_last)
        self.discriminator = discriminator.to(device).to(memory_format=torch.channels_last)
        # Before the next line, so that one process alone can measure the average's BatchNorm.
        self.ema = GeneratorEMA(self.generator, config.ema_decay)
        synchronise(self.generator, world)
        synchronise(self.discriminator, world)
        # Only these two are compiled functions; the modules above keep their own names for the
        # weights, and a second derivative, which R1 needs and a compiled function has not.
        self._g: Network = torch.compile(self.generator) if config.compile else self.generator
        self._d: Network = (
            torch.compile(self.discriminator) if config.compile else self.discriminator
        )
        betas = (config.beta1, 0.999)
        self.adam_g = torch.optim.Adam(self.generator.parameters(), config.lr_g, betas, fused=True)
        self.adam_d = torch.optim.Adam(
            self.discriminator.parameters(), config.lr_d, betas, fused=True
        )

    def start_from(self, start: Start) -> None:
        """Begin with other runs' networks, of the same shapes."""
        if start.generator is not None:
            for network in (self.generator, self.ema.generator):
                network.load_state_dict(start.generator.state_dict())
        if start.discriminator is not None:
            self.discriminator.load_state_dict(start.discriminator)

    def step(self, real: Tensor, step: int) -> StepStats:
        """Update D, then G, on one batch.

        Args:
            real: (N, C, H, W) float32 in [-1, 1], on the device: this process's share.
            step: number of this update, from 0.
        """
        config = self.config
        relativistic = config.loss == "relativistic"
        draws = StepDraws(config.seed, step, len(real), self.device, self.world)
        latents = draws.normal(config.nz)

        factor = config.decay(step) * self.lr_scale
        self.adam_g.param_groups[0]["lr"] = config.lr_g * factor * config.rise(step)
        self.adam_d.param_groups[0]["lr"] = config.lr_d * factor
        # Real and generated pictures go through D as separate batches, each with BatchNorm
        # statistics of its own (paper's author code, tutorial), and each with its own bfloat16
        # copy of the weights, whose gradients are added in float32.
        self.adam_d.zero_grad()
        on_real = self._opinions(real, step, draws)
        with self._autocast():
            fake = self._g(latents)
        on_fake = self._opinions(fake.detach(), step, draws)
        error_d = loss_discriminator(on_real, on_fake, config.loss, config.label_smoothing)
        error_d.backward()
        if config.r1_gamma and step % config.r1_every == 0:
            self._regularise(real)
            if relativistic:  # R2: without it the loss need not converge (arXiv:2501.05441)
                self._regularise(fake.detach().float())
        grad_d = self._update(self.adam_d, self.discriminator)

        self.adam_g.zero_grad()
        with _frozen(self.discriminator):
            on_fake_now = self._opinions(fake, step, draws)
            on_real_now = on_real.detach()
            if relativistic:
                with torch.no_grad():
                    on_real_now = self._opinions(real, step, draws)
            error_g = loss_generator(on_fake_now, on_real_now, config.loss)
            error_g.backward()
        grad_g = self._update(self.adam_g, self.generator)
        self.ema.update(self.generator, step)
        return StepStats(
            loss_d=error_d.detach(),
            loss_g=error_g.detach(),
            d_x=opinion(on_real.detach(), on_fake.detach(), config.loss),
            d_g_z1=opinion(on_fake.detach(), on_real.detach(), config.loss),
            d_g_z2=opinion(on_fake_now.detach(), on_real_now, config.loss),
            grad_d=grad_d,
            grad_g=grad_g,
        )

    def _opinions(self, pictures: Tensor, step: int, draws: StepDraws) -> Tensor:
        """D's raw outputs on what it gets to see of these pictures: (N,) float32."""
        with self._autocast():
            outputs = self._d(self._seen(pictures, step, draws))
        return outputs.float()

    def _regularise(self, pictures: Tensor) -> None:
        """Add the gradient of R1 (on generated pictures: R2) on the first half of the whole batch,
        whoever has which of it."""
        config, world = self.config, self.world
        half = (len(pictures) * world.size + 1) // 2
        mine = pictures[: len(range(half)[world.share])]
        penalty = r1_penalty(self.discriminator, mine).sum() / half
        # The gradients of the processes are averaged, this is their sum.
        (penalty * (world.size * config.r1_gamma / 2 * config.r1_every)).backward()

    @torch.no_grad()
    def outputs(self, real: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """D's raw outputs on real pictures, and on as many generated ones, as in an update.

        Nothing of the state changes. All processes are given the same pictures.

        Args:
            real: (N, C, H, W) float32 in [-1, 1], on the device.
            step: chooses the latents and what D gets to see.

        Returns:
            two (N,) float32.
        """
        draws = StepDraws(self.config.seed, step, len(real), self.device)
        latents = draws.normal(self.config.nz)
        with _buffers_kept(self.generator, self.discriminator), self._autocast():
            on_real = self.discriminator(self._seen(real, step, draws))
            on_fake = self.discriminator(self._seen(self.generator(latents), step, draws))
        return on_real.float(), on_fake.float()

    def _update(self, adam: torch.optim.Adam, network: nn.Module) -> Tensor:
        """One update from the gradients of all processes; returns their norm."""
        self.world.average_gradients(network)
        norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        adam.step()
        return norm.detach()

    def _autocast(self) -> torch.autocast:
        enabled = self.precision is torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _seen(self, pictures: Tensor, step: int, draws: StepDraws) -> Tensor:
        """What D gets to see of real or generated pictures."""
        config = self.config
        if config.diffaugment == "on":
            pictures = diff_augment(pictures, draws)
        if config.instance_noise:
            std = config.instance_noise * config.fall(step)
            pictures = add_instance_noise(pictures, std, draws)
        return pictures


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients into these parameters: the Generator's step needs only those of the input."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


@contextmanager
def _buffers_kept(*networks: nn.Module) -> Iterator[None]:
    """Put BatchNorm's running statistics and spectral norm's vectors back afterwards."""
    kept = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)
