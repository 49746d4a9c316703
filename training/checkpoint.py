"""Checkpoints: everything a run needs to go on as if it had never stopped.

One file a checkpoint, written atomically and read with ``weights_only``. There is no random
state in it: all that is random in a step follows from (seed, step), see ``StepDraws``.
"""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.files import atomic_path
from training.step import Best, Trainer
from training.weights import WeightsError, check_numbers, identify, strip_prefixes

BEST = "best.pt"
_FORMAT = "dcgan-checkpoint-1"
_NAME = re.compile(r"step_(\d{8})\.pt")

log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """No checkpoint of the run can be used; the message lists what was tried."""


def pack(trainer: Trainer, step: int) -> memoryview:
    """The state after ``step`` updates as the bytes of a file: a copy, so the run may go on."""
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
    packed = io.BytesIO()
    torch.save(state, packed)
    return packed.getbuffer()


def save(folder: Path, packed: memoryview, step: int, kept: int) -> None:
    """Write the state after ``step`` updates; then delete all but the newest ``kept``.

    Those of later updates are deleted too: the run has gone back, or could not read them.

    Raises:
        OSError: the checkpoint could not be written; the earlier ones are still there.
    """
    path = folder / f"step_{step:08d}.pt"
    write(path, packed)
    found = _newest_first(folder)
    own = found.index(path)
    for other in [*found[:own], *found[own + kept :]]:
        other.unlink()


def write(path: Path, packed: memoryview) -> None:
    """Write a state whole or not at all.

    Raises:
        OSError: it could not be written; what was there still is.
    """
    # Not by torch: on a full disk it raises errors of its own, without a word of the disk.
    with atomic_path(path) as beside:
        beside.write_bytes(packed)


def is_usable(trainer: Trainer) -> bool:
    """Whether a checkpoint of this state could be gone on from."""
    try:
        for name, network in _networks(trainer).items():
            check_numbers(name, network.state_dict())
    except WeightsError:
        return False
    return True


def exist(folder: Path) -> bool:
    """Whether there is any checkpoint, usable or not."""
    return (folder / BEST).exists() or bool(_newest_first(folder))


def load_latest(folder: Path, trainer: Trainer) -> int:
    """Restore the newest usable checkpoint, the best one among them, and return its step.

    All processes do.

    Raises:
        CheckpointError: none is usable, or it is of another network.
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


def read_discriminator(path: Path) -> dict[str, torch.Tensor]:
    """D's weights in a checkpoint of any run.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: it is something else.
        WeightsError: it holds what no network computes with.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give one of a run's checkpoints/*.pt")
    try:
        discriminator: dict[str, torch.Tensor] = _read(path)["discriminator"]
        strip_prefixes(discriminator)
        return discriminator
    except WeightsError:
        raise
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for other files
        raise CheckpointError(
            f"{path} is {identify(path)}, not a checkpoint of a run "
            f"({type(error).__name__}); give one of its checkpoints/*.pt"
        ) from None


def _read_latest(folder: Path) -> dict[str, Any]:
    problems: list[str] = []

    def attempt(path: Path) -> dict[str, Any] | None:
        try:
            return _read(path)
        except Exception as error:  # noqa: BLE001 - torch raises many kinds for damaged files
            problems.append(f"{path.name}: {type(error).__name__}: {error}".splitlines()[0])
            return None

    newest = next(filter(None, map(attempt, _newest_first(folder))), None)
    best = attempt(folder / BEST) if (folder / BEST).exists() else None
    # A run is often killed between its best grid and the next checkpoint. Of two of the same
    # update the numbered one knows of a rollback to it.
    states = [state for state in (newest, best) if state is not None]
    if not states:
        tried = "; ".join(problems) if problems else "there is none"
        raise CheckpointError(f"no usable checkpoint in {folder}: {tried}")
    latest = max(states, key=lambda state: int(state["step"]))
    if problems:
        log.warning(
            "left out, unusable: %s; going on from update %d instead",
            "; ".join(problems),
            latest["step"],
        )
    if best is None:
        latest["best"] = None  # the next grid is the best so far
    return latest


def _read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("format") != _FORMAT:
        raise CheckpointError(f"checkpoint format {state.get('format')!r} is not {_FORMAT!r}")
    for network in ("generator", "discriminator", "ema"):
        check_numbers(f"{path}, {network}", state[network])
    return state


def _networks(trainer: Trainer) -> dict[str, nn.Module]:
    return {
        "generator": trainer.generator,
        "discriminator": trainer.discriminator,
        "ema": trainer.ema.generator,
    }


def _restore(state: dict[str, Any], trainer: Trainer) -> int:
    try:
        for name, network in _networks(trainer).items():
            strip_prefixes(state[name])
            network.load_state_dict(state[name])
        trainer.adam_g.load_state_dict(state["adam_g"])
        trainer.adam_d.load_state_dict(state["adam_d"])
        trainer.lr_scale = float(state["lr_scale"])
        trainer.rollbacks = int(state["rollbacks"])
        trainer.best = Best(**state["best"]) if state["best"] else None
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint of update {state['step']} is damaged, or of another network "
            f"({type(error).__name__}: {error}); delete it to go on from the one before"
        ) from None
    return int(state["step"])


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step_*.pt") if _NAME.fullmatch(p.name)), reverse=True)
