"""Everything random in one update, from (seed, step) alone: a resumed run needs no saved state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.distributed import ALONE, World


class StepDraws:
    """Random numbers for the pictures of one update.

    They are drawn on the CPU for the whole batch, of which a process keeps its own share: what
    happens to a picture does not depend on how many devices there are, nor on their kind.

    Args:
        seed: of the run.
        step: number of the update, from 0.
        count: pictures of this process; each of the others has as many.
        world: which process this is.
        device: where the numbers are wanted.
    """

    def __init__(
        self, seed: int, step: int, count: int, device: torch.device, world: World = ALONE
    ) -> None:
        (state,) = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
        self._rng = torch.Generator().manual_seed(int(state))
        self._total, self._share, self.device = count * world.size, world.share, device

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), float32 (count, *shape)."""
        return self._mine(torch.randn(self._total, *shape, generator=self._rng))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """U(low, high), float32 (count, *shape)."""
        drawn = torch.rand(self._total, *shape, generator=self._rng)
        return self._mine(drawn * (high - low) + low)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """From low to high - 1, int64 (count, *shape)."""
        return self._mine(torch.randint(low, high, (self._total, *shape), generator=self._rng))

    def _mine(self, drawn: Tensor) -> Tensor:
        mine = drawn[self._share]
        if self.device.type == "cuda":  # a copy from ordinary memory would wait for the GPU
            mine = mine.contiguous().pin_memory()
        return mine.to(self.device, non_blocking=True)
