"""What a run has been through: ``stats.jsonl``, a JSON object a line, and TensorBoard's events."""

from __future__ import annotations

import json
import math
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.config import ConfigError
from training.files import atomic_path, naming

FOLDER = "tensorboard"  # inside the folder of a run; see tensorboard --logdir runs
PANELS = {  # of numbers that are shown together; of others it is "run"
    "loss_d": "loss",
    "loss_g": "loss",
    "d_x": "probability",
    "d_g_z1": "probability",
    "d_g_z2": "probability",
    "diversity": "samples",
    "distance": "samples",
}


def entries(path: Path) -> list[dict[str, Any]]:
    """The lines of a journal, none if there is no file.

    Half a line, which a killed run may have left at the end, is left out.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


class Journal:
    """The files of one run, opened to be written on; a context manager.

    Args:
        path: may hold lines of earlier parts of the run.
        step: the last update of which lines are kept.
        writes: False in the processes that only read along.

    Raises:
        ConfigError: the file holds something else.

    Attributes:
        seconds: of training, up to the last line that was kept.
    """

    def __init__(self, path: Path, step: int, writes: bool) -> None:
        self.path, self.writes = path, writes
        self._folder = path.parent / FOLDER
        self.seconds = 0.0
        if writes:
            self._open(step)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self.writes:
            # What could not be written before cannot be now, and the error says that already.
            with suppress(OSError) if error else nullcontext():
                self._close()

    def write(self, step: int, **entry: Any) -> None:
        """Add a line; it is in the file when this returns."""
        if self.writes:
            with naming(self.path):
                self._file.write(_line({"step": step, **entry}))
                self._file.flush()
            numbers = {n: v for n, v in entry.items() if isinstance(v, float) and math.isfinite(v)}
            with naming(self._folder):
                for name, value in numbers.items():
                    self._events.add_scalar(f"{PANELS.get(name, 'run')}/{name}", value, step)

    def show(self, step: int, grid: Path) -> None:
        """A picture file of samples, for TensorBoard."""
        if self.writes:
            with naming(self._folder), Image.open(grid) as image:
                pixels = np.asarray(image.convert("RGB"))
                self._events.add_image("samples", pixels, step, dataformats="HWC")

    def cut(self, step: int) -> None:
        """Drop what was written after update ``step``."""
        if self.writes:
            self._close()
            self._open(step)

    def _close(self) -> None:
        self._file.close()
        try:
            with naming(self._folder):
                self._events.close()
        finally:
            threading.excepthook = self._before

    def _open(self, step: int) -> None:
        """Keep the lines up to ``step``."""
        from torch.utils.tensorboard import SummaryWriter  # here, as it takes seconds

        try:
            kept = [entry for entry in entries(self.path) if entry["step"] <= step]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"cannot read {self.path}: {error}; mend or move the file, without it the curves "
                "begin here"
            ) from None
        with atomic_path(self.path) as beside:
            beside.write_text("".join(map(_line, kept)), encoding="utf-8")
        self.seconds = next((e["seconds"] for e in reversed(kept) if "seconds" in e), 0.0)
        self._file = self.path.open("a", encoding="utf-8")
        # TensorBoard reads files in the order of their names: by second, then by a number as text.
        names = [path.name.split(".") for path in self._folder.glob("events.out.tfevents.[0-9]*.*")]
        wait_s = max((int(name[3]) + 1 - time.time() for name in names), default=0)
        time.sleep(wait_s if 0 < wait_s <= 1 else 0)
        # What an earlier process wrote later than the step is hidden.
        self._events = SummaryWriter(str(self._folder), purge_step=step + 1)
        # What its thread could not write is told by the next call; Python would print it besides.
        self._before, threading.excepthook = threading.excepthook, self._leave_to_caller

    def _leave_to_caller(self, ended: threading.ExceptHookArgs) -> None:
        if not type(ended.thread).__module__.startswith("tensorboard."):
            self._before(ended)
