"""Checkpoints: everything a run needs to go on as if it had never stopped.

One file a checkpoint, written atomically and read with ``weights_only``. There is no random
state in it: all that is random in a step follows from (seed, step), see training/draws.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from training.files import atomic_path
from training.step import Best, Trainer
from training.weights import strip_prefixes

BEST = "best.pt"
_FORMAT = "dcgan-checkpoint-1"
_NAME = re.compile(r"step_(\d{8})\.pt")


class CheckpointError(RuntimeError):
    """No checkpoint of the run can be used; the message lists what was tried."""


def save(folder: Path, trainer: Trainer, step: int, kept: int) -> Path:
    """Write the state after ``step`` updates and delete all but the newest ``kept``.

    Raises:
        OSError: the checkpoint could not be written; the earlier ones are still there.
    """
    path = folder / f"step_{step:08d}.pt"
    _write(path, trainer, step)
    for old in _newest_first(folder)[kept:]:
        old.unlink()
    return path


def save_best(folder: Path, trainer: Trainer, step: int) -> None:
    """Write the state after ``step`` updates as the best one so far, in place of the last best.

    Raises:
        OSError: it could not be written; the last best is still there.
    """
    _write(folder / BEST, trainer, step)


def load_latest(folder: Path, trainer: Trainer) -> int:
    """Restore the newest usable checkpoint, in all processes, and return its step.

    Raises:
        CheckpointError: none is usable.
        PeerError: that happened in the first process, which reads for all.
    """
    return _restore(trainer.world.from_first(lambda: _read_latest(folder)), trainer)


def load_best(folder: Path, trainer: Trainer) -> int:
    """Restore the best checkpoint, in all processes, and return its step.

    Raises:
        CheckpointError: it is not usable.
        PeerError: that happened in the first process, which reads for all.
    """

    def read() -> dict[str, Any]:
        try:
            return _read(folder / BEST)
        except Exception as error:  # noqa: BLE001 - as below
            raise CheckpointError(f"{folder / BEST} is not usable: {error}") from None

    return _restore(trainer.world.from_first(read), trainer)


def drop_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of later updates than ``step``."""
    for path in _newest_first(folder):
        if path.name > f"step_{step:08d}.pt":
            path.unlink()


def _write(path: Path, trainer: Trainer, step: int) -> None:
    state = {
        "format": _FORMAT,
        "step": step,
        "generator": trainer.generator.state_dict(),
        "discriminator": trainer.discriminator.state_dict(),
        "ema": trainer.ema.generator.state_dict(),
        "adam_g": trainer.adam_g.state_dict(),
        "adam_d": trainer.adam_d.state_dict(),
        "lr_scale": trainer.lr_scale,
        "rollbacks": trainer.rollbacks,
        "best": trainer.best and {"step": trainer.best.step, "distance": trainer.best.distance},
    }
    with atomic_path(path) as beside:
        torch.save(state, beside)


def _read_latest(folder: Path) -> dict[str, Any]:
    problems = []
    for path in _newest_first(folder):
        try:
            return _read(path)
        except Exception as error:  # noqa: BLE001 - torch raises many kinds for damaged files
            problems.append(f"{path.name}: {type(error).__name__}: {error}".splitlines()[0])
    tried = "; ".join(problems) if problems else "there is none"
    raise CheckpointError(f"no usable checkpoint in {folder}: {tried}")


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("format") != _FORMAT:
        raise CheckpointError(f"checkpoint format {state.get('format')!r} is not {_FORMAT!r}")
    return state


def _restore(state: dict[str, Any], trainer: Trainer) -> int:
    trainer.generator.load_state_dict(strip_prefixes(state["generator"]))
    trainer.discriminator.load_state_dict(strip_prefixes(state["discriminator"]))
    trainer.ema.generator.load_state_dict(strip_prefixes(state["ema"]))
    trainer.adam_g.load_state_dict(state["adam_g"])
    trainer.adam_d.load_state_dict(state["adam_d"])
    # Absent in checkpoints from before there was a way back.
    trainer.lr_scale = state.get("lr_scale", 1.0)
    trainer.rollbacks = state.get("rollbacks", 0)
    trainer.best = Best(**state["best"]) if state.get("best") else None
    return int(state["step"])


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step_*.pt") if _NAME.fullmatch(p.name)), reverse=True)
