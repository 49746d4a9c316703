"""Checkpoints: everything a run needs to go on as if it had never stopped.

One file a checkpoint, written atomically and read with ``weights_only``. There is no random
state in it: all that is random in a step follows from (seed, step), see training/step.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from training.files import atomic_path
from training.step import Trainer
from training.weights import strip_prefixes

KEPT = 3
_FORMAT = "dcgan-checkpoint-1"
_NAME = re.compile(r"step_(\d{8})\.pt")


class CheckpointError(RuntimeError):
    """No checkpoint of the run can be used; the message lists what was tried."""


def save(folder: Path, trainer: Trainer, step: int) -> Path:
    """Write the state after ``step`` updates and delete all but the newest ones.

    Raises:
        OSError: the checkpoint could not be written; the earlier ones are still there.
    """
    path = folder / f"step_{step:08d}.pt"
    state = {
        "format": _FORMAT,
        "step": step,
        "generator": trainer.generator.state_dict(),
        "discriminator": trainer.discriminator.state_dict(),
        "ema": trainer.ema.generator.state_dict(),
        "adam_g": trainer.adam_g.state_dict(),
        "adam_d": trainer.adam_d.state_dict(),
    }
    with atomic_path(path) as beside:
        torch.save(state, beside)
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
    return path


def load_latest(folder: Path, trainer: Trainer) -> int:
    """Restore the newest usable checkpoint and return its step.

    Raises:
        CheckpointError: none is usable.
    """
    problems = []
    for path in _newest_first(folder):
        try:
            state = torch.load(path, map_location=trainer.device, weights_only=True)
        except Exception as error:  # noqa: BLE001 - torch raises many kinds for damaged files
            problems.append(f"{path.name}: {type(error).__name__}: {error}".splitlines()[0])
            continue
        return _restore(state, trainer)
    tried = "; ".join(problems) if problems else "there is none"
    raise CheckpointError(f"no usable checkpoint in {folder}: {tried}")


def _restore(state: dict[str, Any], trainer: Trainer) -> int:
    if state.get("format") != _FORMAT:
        raise CheckpointError(f"checkpoint format {state.get('format')!r} is not {_FORMAT!r}")
    trainer.generator.load_state_dict(strip_prefixes(state["generator"]))
    trainer.discriminator.load_state_dict(strip_prefixes(state["discriminator"]))
    trainer.ema.generator.load_state_dict(strip_prefixes(state["ema"]))
    trainer.adam_g.load_state_dict(state["adam_g"])
    trainer.adam_d.load_state_dict(state["adam_d"])
    return int(state["step"])


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step_*.pt") if _NAME.fullmatch(p.name)), reverse=True)
