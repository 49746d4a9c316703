"""What the commands share: their settings, each with its range beside it, and the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

from handler.latents import MAX_SEED
from training.networks import Generator
from training.weights import WeightsInfo, load_generator


class UsageError(ValueError):
    """The command cannot do it with what was given; the message says what to give."""


class Range(NamedTuple):
    """Whole numbers that a setting, or each number of one, may be."""

    least: int
    most: int | None = None


Seed = Annotated[int, Range(0, MAX_SEED)]


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """A command of ``python -m training``; the first line of its docstring is its help."""

    def run(self) -> dict[str, Any]:
        """Do it; returns the result, to be printed.

        Raises:
            UsageError: a setting is out of range, or what it names cannot be used.
            DataError: real pictures cannot be read.
            WeightsError, FileNotFoundError: the weights cannot be read.
            OSError: not writable.
        """
        self.check()
        return self.result()

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """What ``run`` returns, once the settings are checked."""

    def check(self) -> None:
        """Refuse settings that cannot be, before any work.

        Raises:
            UsageError: one is.
        """
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            for allowed in getattr(hint, "__metadata__", ()):
                if isinstance(allowed, Range):
                    _check(f"--{name.replace('_', '-')}", getattr(self, name), allowed)


def _check(flag: str, value: int | tuple[int, ...], allowed: Range) -> None:
    most = float("inf") if allowed.most is None else allowed.most
    numbers = value if isinstance(value, tuple) else (value,)
    if all(allowed.least <= number <= most for number in numbers):
        return
    limits = f"{allowed.least} to {most}"
    if isinstance(value, tuple):
        raise UsageError(f"{flag} are {value}; give whole numbers, {limits}")
    if allowed.most is None:
        raise UsageError(f"{flag} is {value}; it must be >= {allowed.least}")
    raise UsageError(f"{flag} is {value}; give {limits}")


def check_ending(flag: str, path: Path, *endings: str) -> None:
    """Refuse a file name whose ending is none of these.

    Raises:
        UsageError: it is not.
    """
    if path.suffix.lower() not in endings:
        raise UsageError(f"{flag} {path} ends in {path.suffix!r}; give {' or '.join(endings)}")


@dataclass(frozen=True, kw_only=True)
class OfWeights(Command):
    """A command that draws samples."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""

    def load(self) -> tuple[Generator, WeightsInfo]:
        """The Generator, on the CPU in eval mode, and what its file says of it.

        Raises:
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        return load_generator(self.weights)
