"""A run's numbers, samples and weights as TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch

from handler.images import Images, compose_grid, default_columns
from training.samples import WHITE

FOLDER = "tensorboard"  # inside the folder of a run


class EventWriter:
    """Writes ``<run folder>/tensorboard/``; look at it with ``tensorboard --logdir runs``.

    A context manager. TensorBoard is imported here and not above, as it takes seconds.

    Args:
        run_folder: the folder of the run.
        first_step: of a resumed run the step it goes on from: what an earlier process wrote
            later than that is hidden.

    Raises:
        OSError: not writable.
    """

    def __init__(self, run_folder: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            str(run_folder / FOLDER), purge_step=first_step + 1 if first_step else None
        )

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One point on the curve of each name; names with a common ``group/`` share a panel."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def samples(self, step: int, name: str, images: Images) -> None:
        """A grid of uint8 (N, H, W, C)."""
        grid = compose_grid(images, default_columns(len(images)), 2, WHITE)
        self._writer.add_image(name, grid, step, dataformats="HWC")

    def weights(self, step: int, name: str, network: torch.nn.Module) -> None:
        """A histogram of each parameter tensor; one with values that are not finite is left out."""
        for part, tensor in network.named_parameters():
            values = tensor.detach().float().cpu().numpy()
            if np.isfinite(values).all():
                self._writer.add_histogram(f"{name}/{part}", values, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
