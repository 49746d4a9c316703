"""A run's numbers, samples and weights as TensorBoard event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

FOLDER = "tensorboard"  # inside the folder of a run
PANELS = {
    "loss_d": "loss", "loss_g": "loss",
    "d_x": "probability", "d_g_z1": "probability", "d_g_z2": "probability",
    "diversity": "samples", "distance": "samples",
}  # fmt: skip


class EventWriter:
    """Writes ``<run folder>/tensorboard/``; look at it with ``tensorboard --logdir runs``.

    TensorBoard is imported here and not above, as it takes seconds.

    Args:
        run_folder: the folder of the run.
        first_step: the step the run goes on from: what an earlier process wrote later than that
            is hidden.

    Raises:
        OSError: not writable.
    """

    def __init__(self, run_folder: Path, first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_folder / FOLDER), purge_step=first_step + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """One point on the curve of each name; those of one of PANELS are shown together."""
        for name, value in values.items():
            self._writer.add_scalar(f"{PANELS.get(name, 'run')}/{name}", value, step)

    def grid(self, step: int, path: Path) -> None:
        """A grid of samples that lies in a picture file."""
        with Image.open(path) as image:
            self._writer.add_image("samples", np.asarray(image.convert("RGB")), step,
                                   dataformats="HWC")  # fmt: skip

    def weights(self, step: int, name: str, network: torch.nn.Module) -> None:
        """A histogram of each parameter tensor; one with values that are not finite is left out."""
        for part, tensor in network.named_parameters():
            values = tensor.detach().float().cpu().numpy()
            if np.isfinite(values).all():
                self._writer.add_histogram(f"{name}/{part}", values, step)

    def close(self) -> None:
        """All is in the file when this returns."""
        self._writer.close()
